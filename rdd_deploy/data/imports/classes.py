"""Which of an export's labels becomes which class: by name, all of them, none by accident."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from rdd_deploy.data.colours import spread_colours
from rdd_deploy.data.imports.export import BACKGROUND, VOID, Colour, Export
from rdd_deploy.data.label_space import IGNORE, LabelSpace
from rdd_deploy.errors import DataError

_OTHERS = "*"


@dataclass
class Classes:
    """The classes of the data set that is written.

    Attributes:
        names: in the order of their ids.
        ids: of each label of the export: a class's id, or IGNORE.
        unlabelled: the id of pixels that nothing covers.
        notes: how it was decided.
    """

    names: list[str]
    palette: list[Colour]
    ids: dict[str, int]
    unlabelled: int
    notes: list[str] = field(default_factory=list)


def classes_of(
    export: Export, spec: str | None, background: str | None, ignore_case: bool, like: LabelSpace | None = None
) -> Classes:
    """Classes by the user's map, else the export's own.

    Args:
        spec: ``car=car,van;void=unlabelled``; see ``parsed``. background: what unlabelled pixels are: void or a class's
            name.
        like: the classes that there may be, in their order.

    Raises:
        DataError: the map names labels that aren't there or forgets some, there are too few or too many classes, or
            others than those of ``like``.
    """
    groups = _mapped(export, spec, ignore_case) if spec else _own(list(export.labels), ignore_case)
    names = [name for name in groups if name != VOID]
    notes = []
    plain = _class(background) if background is not None else _background(export, names, like)
    if export.background is None and plain is not None:  # masks label every pixel
        names, groups = _background_of_masks(names, groups, plain)
        if plain == VOID and background is None:
            notes.append("the class 'background' is void: the classes of --like lack it")
        plain = None
    unlabelled = None if plain in (None, VOID) else next((one for one in names if _same(one, plain)), plain)
    if unlabelled is not None and unlabelled not in names:
        names.insert(0, unlabelled)
    names = _checked(names, like)
    if unlabelled is not None:
        notes.append(
            f"unlabelled pixels are the class '{unlabelled}' (id {names.index(unlabelled)}); --background void"
            " makes them void"
        )
    elif plain == VOID:
        notes.append("unlabelled pixels are void" + ("" if background else "; --background NAME makes them a class"))
    if not 2 <= len(names) <= IGNORE:
        raise DataError(
            f"the export has {len(names)} classes ({', '.join(names[:5])}{' …' if len(names) > 5 else ''}); expected 2"
            f" to {IGNORE}, as masks have 8 bits: merge some with --classes, or let unlabelled pixels be one with"
            " --background NAME"
        )
    ids = {label: IGNORE if name == VOID else names.index(name) for name, labels in groups.items() for label in labels}
    beneath = IGNORE if unlabelled is None else names.index(unlabelled)
    if like is not None:
        return Classes(names, list(like.palette), {**ids, VOID: IGNORE}, beneath, notes)
    colours = spread_colours(len(names))
    given = {
        name: next((export.labels[label] for label in labels if export.labels.get(label)), None)
        for name, labels in groups.items()
    }
    palette = [given.get(name) or colours[number] for number, name in enumerate(names)]
    return Classes(names, palette, {**ids, VOID: IGNORE}, beneath, notes)


def _same(one: str, other: str | None) -> bool:
    return other is not None and one.casefold() == other.casefold()


def _class(name: str) -> str:
    """A class's name; VOID however it is spelt."""
    return VOID if _same(name, VOID) else name


def _background(export: Export, names: Sequence[str], like: LabelSpace | None) -> str | None:
    """What unlabelled pixels are where the user doesn't say: as the export has it, or void where ``like`` lacks such a
    class.
    """
    if like is None:
        return export.background
    own = next((name for name in like.classes if _same(name, BACKGROUND)), None)
    if export.background is None:
        return VOID if own is None and any(_same(name, BACKGROUND) for name in names) else None
    return own or VOID


def _checked(names: list[str], like: LabelSpace | None) -> list[str]:
    """The classes in the order of ``like``. Raises DataError for others."""
    if like is None:
        return names
    if others := [name for name in names if name not in like.classes]:
        near = difflib.get_close_matches(others[0], like.classes, 1)
        hint = f"e.g. --classes '{near[0] if near else VOID}={others[0]};*=*'"
        raise DataError(
            f"--like: the recipe has no class {', '.join(map(repr, others[:8]))}; expected {', '.join(like.classes)}: say"
            f" which each is, {hint}"
        )
    return list(like.classes)


def _background_of_masks(
    names: list[str], groups: dict[str, list[str]], plain: str
) -> tuple[list[str], dict[str, list[str]]]:
    """``--background`` where masks have a class for it: void, or its new name."""
    own = next((name for name in names if _same(name, BACKGROUND)), None)
    if own is None:
        raise DataError(
            f"--background {plain}: the masks of this export label every pixel, and none of the classes is called"
            f" background ({', '.join(names[:8])}); say with --classes which is void, e.g. --classes"
            f" 'void={names[0]};*=*'"
        )
    moved: dict[str, list[str]] = {}
    for name, labels in groups.items():
        moved.setdefault(plain if name == own else name, []).extend(labels)
    return [plain if name == own else name for name in names if name != own or plain != VOID], moved


def _own(labels: Sequence[str], ignore_case: bool) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    spelt: dict[str, str] = {}
    for label in labels:
        name = spelt.setdefault(label.casefold(), label) if ignore_case else label
        groups.setdefault(_class(name), []).append(label)
    return groups


_KEPT = {sign: chr(0xE000 + number) for number, sign in enumerate(",;=\\")}
"""What stands for an escaped sign while a map is read."""


def _restored(text: str) -> str:
    return "".join(next((sign for sign, kept in _KEPT.items() if kept == one), one) for one in text)


def _escaped(label: str) -> str:
    """A label as it stands in a map."""
    return re.sub(r"([,;=\\])", r"\\\1", label)


def parsed(spec: str) -> dict[str, list[str]]:
    """``NEW=OLD,OLD;NEW=OLD;NAME``: each class with the labels that become it; ``*=*`` keeps all others, ``void=*``
    makes them void. A backslash keeps the comma, semicolon or equals sign behind it in a name.
    """
    spec = re.sub(r"\\([,;=\\])", lambda match: _KEPT[match[1]], spec)
    groups: dict[str, list[str]] = {}
    for entry in [one.strip() for one in spec.split(";") if one.strip()]:
        new, equals, old = entry.partition("=")
        labels = [one.strip() for one in old.split(",")] if equals else [new.strip()]
        if not new.strip() or not all(labels):
            raise DataError(
                f"--classes: '{_restored(entry)}' isn't of the form NEW=OLD,OLD; expected e.g. 'car=car,van;void=unlabelled'"
            )
        groups.setdefault(_class(_restored(new.strip())), []).extend(map(_restored, labels))
    if not groups:
        raise DataError("--classes is empty; expected e.g. 'car=car,van;void=unlabelled'")
    return groups


def _mapped(export: Export, spec: str, ignore_case: bool) -> dict[str, list[str]]:
    """Labels by the class that the map gives them to, in its order."""
    own = list(export.labels)
    taken: dict[str, str] = {}
    others: str | None = None
    groups: dict[str, list[str]] = {}
    for new, wanted in parsed(spec).items():
        group = groups.setdefault(new, []) if new != _OTHERS else []
        for label in wanted:
            if label == _OTHERS:
                if others is not None:
                    raise DataError("--classes gives all other labels ('*') to two classes; give them to one")
                others = new
                continue
            found = [one for one in own if one == label] or [
                one for one in own if ignore_case and one.casefold() == label.casefold()
            ]
            if not found and _class(label) != VOID:
                near = difflib.get_close_matches(label, own, 1)
                hint = f"did you mean '{near[0]}'? " if near else ""
                raise DataError(
                    f"--classes: the export has no label '{label}'; {hint}it has {', '.join(map(_escaped, own))}"
                )
            for one in found:
                if one in taken:
                    raise DataError(f"--classes gives '{one}' to '{taken[one]}' and to '{new}'; give it to one")
                taken[one] = new
                group.append(one)
    left = [label for label in own if label not in taken]
    if left and others is None:
        raise DataError(
            f"--classes forgets {', '.join(repr(label) for label in left)}; add {'it' if len(left) == 1 else 'them'},"
            " or ;*=* to keep all others, or ;void=* to make them void"
        )
    for label in left:
        groups.setdefault(_class(label) if others == _OTHERS else str(others), []).append(label)
    return groups
