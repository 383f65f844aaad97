"""Which of a teacher's classes means which of the data's: by name, shown, and applied to its logits."""

from __future__ import annotations

import difflib
import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from rdd_deploy.errors import WeightsError
from rdd_deploy.models.teachers.base import Around, TeacherModel
from rdd_deploy.outputs import Output

UNKNOWN = 12.0
"""How far the logit of a class that the teacher doesn't know lies below the logarithm of all others together: a probability of 6e-6."""


class ClassMap(NamedTuple):
    """The teacher's channels for each class of the data."""

    classes: tuple[str, ...]
    """The data's."""
    names: tuple[str, ...]
    """The teacher's; numbers where it has no names."""
    groups: tuple[tuple[int, ...], ...]
    """For each class of the data; empty for one that the teacher doesn't know."""
    by_place: bool
    """Whether the teacher has no names, so that the n-th class was taken for the data's n-th."""

    @property
    def is_identity(self) -> bool:
        """Whether the teacher's channels are the data's classes as they are."""
        return self.groups == tuple((i,) for i in range(len(self.names)))

    @property
    def unknown(self) -> list[str]:
        """The data's classes that the teacher doesn't know."""
        return [name for name, group in zip(self.classes, self.groups, strict=True) if not group]

    @property
    def left_channels(self) -> list[int]:
        """The teacher's classes that mean none of the data's, by number."""
        used = {channel for group in self.groups for channel in group}
        return [channel for channel in range(len(self.names)) if channel not in used]

    @property
    def left(self) -> list[str]:
        """The same by name."""
        return [self.names[channel] for channel in self.left_channels]

    def rows(self) -> list[tuple[str, str]]:
        """Each class of the data with the teacher's classes that mean it, as text."""
        return [
            (name, " + ".join(self.names[channel] for channel in group) or "–")
            for name, group in zip(self.classes, self.groups, strict=True)
        ]


def class_map(
    names: Sequence[str] | None,
    count: int,
    classes: Sequence[str],
    given: Mapping[str, Sequence[str | int]],
    where: str,
) -> ClassMap:
    """Find out which of a teacher's classes means which of the data's.

    Args:
        names: the teacher's, in its own order; empty where it has none; None: they are the data's, as they are.
        count: how many classes the teacher has.
        classes: the data's.
        given: what the recipe says of some of the data's classes; the others are taken by their names.
        where: the teacher, for messages.

    Raises:
        WeightsError: a class of the data that nothing is said of and no class of the teacher is called by, a name that
            nobody has, or a class of the teacher that would mean two of the data's.
    """
    if unknown := [name for name in given if name not in classes]:
        raise WeightsError(
            f"teacher.classes names '{unknown[0]}', which is no class of the data; {_near(unknown[0], classes)}"
        )
    by_place = not names and not given
    if by_place and count != len(classes):
        raise WeightsError(
            f"the teacher {where} knows {count} classes, the data has {len(classes)}; distil from a teacher of the same"
            " classes, or say by teacher.classes which of its classes means which"
            + ("" if names is None else ": it has no names for them, so by their numbers, or give their names")
        )
    own = tuple(names or (classes if names is None and count == len(classes) else map(str, range(count))))
    if len(own) != count:
        raise WeightsError(
            f"the teacher {where} has {count} classes and {len(own)} names for them; give a name for each, in their"
            " order"
        )
    if twice := next((name for name, times in Counter(names or ()).items() if times > 1), None):
        raise WeightsError(
            f"the teacher {where} has the name '{twice}' for more than one of its classes; give each a name of its own"
            " (teacher.options.names)"
        )
    if by_place:
        return ClassMap(
            tuple(classes),
            own if names is None else tuple(classes),
            tuple((i,) for i in range(count)),
            names is not None,
        )
    groups = tuple(tuple(_channels(one, given, own, where)) for one in classes)
    if missing := [name for name, group in zip(classes, groups, strict=True) if not group and name not in given]:
        raise WeightsError(
            f"the teacher {where} has no class {_listed(missing)}; say by teacher.classes which of its classes means"
            f" it, as in teacher.classes.{missing[0]}=NAME, or null where it doesn't know it. Its classes are"
            f" {_listed(own, 40)}"
        )
    _check_once(classes, own, groups)
    if not any(groups):
        raise WeightsError(
            f"teacher.classes leaves the teacher {where} no class of the data that it knows; map at least one"
        )
    return ClassMap(tuple(classes), own, groups, False)


def _channels(name: str, given: Mapping[str, Sequence[str | int]], own: Sequence[str], where: str) -> list[int]:
    """The teacher's channels that mean a class of the data."""
    if name not in given:
        return [channel for channel, other in enumerate(own) if other == name]
    channels: list[int] = []
    for one in given[name]:
        found = (
            [channel for channel, other in enumerate(own) if other == one]
            if isinstance(one, str)
            else [one]
            if one < len(own)
            else []
        )
        if not found:
            problem = f"teacher.classes.{name} is {one!r}, which the teacher {where} doesn't have; "
            raise WeightsError(
                problem
                + (_near(one, own) if isinstance(one, str) else f"its classes have the numbers 0 to {len(own) - 1}")
            )
        channels += found
    return channels


def _check_once(classes: Sequence[str], own: Sequence[str], groups: Sequence[Sequence[int]]) -> None:
    taken: dict[int, str] = {}
    for name, group in zip(classes, groups, strict=True):
        for channel in group:
            if channel in taken:
                twice = "twice for" if taken[channel] == name else f"for '{taken[channel]}' and"
                raise WeightsError(
                    f"the teacher's class '{own[channel]}' is taken {twice} '{name}'; in teacher.classes each of its"
                    " classes means one of the data's (null for a class that it doesn't tell apart)"
                )
            taken[channel] = name


def _near(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, 1, 0.5)
    return (f"did you mean '{near[0]}'? " if near else "") + f"expected one of {_listed(known, 40)}"


def _listed(names: Sequence[str], most: int = 12) -> str:
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(f"'{name}'" for name in names[:most]) + rest


class Mapped(Around):
    """A teacher that says logits of the data's classes.

    A class's logit is the logarithm of its parts' exponentials, so that after a softmax their probabilities are added.
    Those of classes left over are shared out equally among all: where the teacher sees something else it is sure of
    nothing, and the likeliest class stays the same. A class that the teacher doesn't know gets nearly no probability
    besides.
    """

    def __init__(self, teacher: TeacherModel, found: ClassMap) -> None:
        super().__init__(teacher)
        self.classes, self.found, self._left = len(found.classes), found, found.left_channels

    @property
    def has_auxiliary(self) -> bool:
        return self.inner[0].has_auxiliary

    def logits_at_stride(self, frames: Tensor, maps: Collection[str] = ()) -> Output:
        output = self.inner[0].logits_at_stride(frames, maps)
        features = {
            name: self.mapped(one) if name in ("logits", "auxiliary") else one for name, one in output.features.items()
        }
        return Output(
            self.mapped(output.primary), None if output.auxiliary is None else self.mapped(output.auxiliary), features
        )

    def mapped(self, logits: Tensor) -> Tensor:
        """Logits (N, own classes, h, w) as float32 (N, the data's classes, h, w)."""
        logits = logits.float()
        parts = [logits[:, list(group)].logsumexp(1) if group else None for group in self.found.groups]
        floor = torch.stack([one for one in parts if one is not None]).logsumexp(0) - UNKNOWN
        mapped = torch.stack([floor if one is None else one for one in parts], 1)
        if not self._left:
            return mapped
        left = logits[:, self._left].logsumexp(1, keepdim=True) - math.log(self.classes)
        return torch.logaddexp(mapped, left)
