"""What every reader of an export makes of it: images, each with regions or an index mask, and sentences about what was
left out.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from rdd_deploy.errors import DataError

if TYPE_CHECKING:
    from rdd_deploy.data.imports.source import Source

VOID = "void"
"""The label of pixels that don't count."""
BACKGROUND = "background"
_LONGEST_NAME = 200

Colour: TypeAlias = tuple[int, int, int]
Overlap = Literal["order", "small-on-top", "error"]
Area: TypeAlias = NDArray[np.bool_]
"""bool (H, W): the pixels of a region."""


@dataclass
class Region:
    """One annotation.

    Attributes:
        label: its class as the export names it, or VOID.
        paint: (height, width) of the image as annotated -> its pixels. Raises DataError.
        where: the place in the export, for messages.
        z: layers from the bottom up; regions of one layer lie in the order of the list.
        beneath: below all others, whatever the rule (crowds).
    """

    label: str
    paint: Callable[[int, int], Area]
    where: str
    z: int = 0
    beneath: bool = False


@dataclass
class Sample:
    """One image.

    Attributes:
        name: relative path in the export, with ``/``; what it is called.
        image: its file, or what gives its file's bytes.
        split: train, val, test or None where the export doesn't say.
        size: (height, width) as the annotations say; None where they don't.
        mask: gives its index mask, unsigned integers (H, W); then there are no regions. Raises DataError.
        where: of its annotations, for messages.
    """

    name: str
    image: Path | Callable[[], bytes]
    split: str | None = None
    size: tuple[int, int] | None = None
    regions: list[Region] = field(default_factory=list)
    mask: Callable[[], NDArray[Any]] | None = None
    where: str = ""


class Left:
    """What is left out, and why."""

    def __init__(self) -> None:
        self._first: dict[tuple[str, str], str] = {}
        self._count: Counter[tuple[str, str]] = Counter()

    def add(self, kind: Literal["image", "annotation", "part"], reason: str, example: str, count: int = 1) -> None:
        """``count`` things of one kind; a part is one of an annotation's polygons."""
        self._first.setdefault((kind, reason), f"{example:.200}")
        self._count[kind, reason] += count

    def count(self, kind: str) -> int:
        """How many of a kind."""
        return sum(count for (one, _), count in self._count.items() if one == kind)

    def sentences(self) -> list[str]:
        """One a reason."""
        return [
            f"{count} {kind}{'' if count == 1 else 's'} left out: {reason}, the first is {self._first[kind, reason]}"
            for (kind, reason), count in self._count.items()
        ]


@dataclass
class Export:
    """An export as it was read.

    Attributes:
        labels: class names in their order, each with its colour where the export gives one. VOID isn't among them.
        samples: in the order in which they are written.
        values: of index masks what each value means: a label or VOID.
        background: what unlabelled pixels are unless the user says otherwise: a class's name, or VOID; None where masks
            label every pixel.
        overlap: the rule where regions overlap, unless the user says otherwise.
        drawing: how regions become pixels, and by whose rule.
    """

    labels: dict[str, Colour | None]
    samples: list[Sample]
    values: Mapping[int, str] = field(default_factory=dict)
    background: str | None = BACKGROUND
    overlap: Overlap = "order"
    drawing: str = ""
    left: Left = field(default_factory=Left)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class ReadOptions:
    """What the user may say about reading."""

    reduce_labels: bool = False
    """Index masks: 0 is void and v means class v - 1."""


@dataclass(frozen=True)
class Format:
    """One line of the table: whether a folder is such an export, and how it is read."""

    found: Callable[[Source], bool]
    read: Callable[[Source, ReadOptions], Export]


_KINDS = {
    dict: "an object",
    list: "a list",
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
}
_REQUIRED: Any = object()


def take(node: Any, key: str, kind: type, where: str, default: Any = _REQUIRED) -> Any:
    """A value of a JSON object. Raises DataError: it is missing, or of another type. A float may be written as a whole
    number.
    """
    if not isinstance(node, dict):
        raise DataError(f"{where} is {named(node)}; expected an object")
    value = node.get(key)
    if value is None:
        if default is _REQUIRED:
            raise DataError(f"{where} has no '{key}'; expected {_KINDS[kind]}")
        return default
    kinds: tuple[type, ...] = (int, float) if kind is float else (kind,)
    if not isinstance(value, kinds) or (isinstance(value, bool) and kind is not bool):
        raise DataError(f"{where}: '{key}' is {named(value)}; expected {_KINDS[kind]}")
    if kind is float and _is_beyond(value):
        raise DataError(f"{where}: '{key}' is {named(value)}; expected a number of pixels, percent or degrees")
    return value


def _is_beyond(number: Any) -> bool:
    """Whether no image has such a coordinate: infinite, or larger than what a float64 holds as a whole number."""
    return not abs(number) < 2**53


def objects(node: Any, key: str, where: str) -> list[tuple[str, dict[str, Any]]]:
    """The objects of a list under a key, each with its place."""
    found = []
    for number, one in enumerate(take(node, key, list, where)):
        place = f"{where}: {key}[{number}]"
        if not isinstance(one, dict):
            raise DataError(f"{place} is {named(one)}; expected an object")
        found.append((place, one))
    return found


def named(value: Any) -> str:
    """A JSON value's type in words, with the value where it is short."""
    if isinstance(value, (dict, list)):
        return _KINDS[type(value)]
    return "missing" if value is None else f"{value!r:.40}"


def byte(text: str) -> int | None:
    """A number from 0 to 255 as text; None for anything else."""
    return int(text) if re.fullmatch(r"\s*[0-9]{1,3}\s*", text) and int(text) < 256 else None


def size_of(node: Any, height: str, width: str, where: str) -> tuple[int, int] | None:
    """(height, width) as a JSON object says; None where it doesn't. Raises DataError for sizes that no image has."""
    if not isinstance(node, dict) or node.get(height) is None or node.get(width) is None:
        return None
    size = int(take(node, height, float, where)), int(take(node, width, float, where))
    if not all(1 <= side <= 2**20 for side in size):
        raise DataError(f"{where} gives the image {size[0]}x{size[1]} pixels; expected the size of its file")
    return size


def label_name(text: Any, where: str) -> str:
    """A class's name without space around it. Raises DataError for one that is empty or no text."""
    if isinstance(text, bool):
        raise DataError(f"{where}: the class's name is {named(text)}, as YAML reads a bare yes or no; put it in quotes")
    if isinstance(text, (int, float)):
        text = str(text)
    if not isinstance(text, str) or not text.strip():
        raise DataError(f"{where}: the class's name is {named(text)}; expected text")
    if len(text) > _LONGEST_NAME:
        raise DataError(f"{where}: the class's name has {len(text)} characters; expected at most {_LONGEST_NAME}")
    return text.strip()


def in_order(names: Iterable[str]) -> dict[str, Colour | None]:
    """Labels without colours, sorted: for tools that keep no list of classes."""
    return dict.fromkeys(sorted(set(names) - {VOID}))
