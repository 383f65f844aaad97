"""Which of an export's labels becomes which class: by name, all of them, none by accident."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, field

from rdd_deploy.data.colours import spread_colours
from rdd_deploy.data.imports.export import VOID, Colour, Export
from rdd_deploy.data.label_space import IGNORE
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


def classes_of(export: Export, spec: str | None, background: str | None, ignore_case: bool) -> Classes:
    """Classes by the user's map, else the export's own.

    Args:
        spec: ``car=car,van;void=unlabelled``; see ``parsed``. background: what unlabelled pixels are: void or a class's
            name.

    Raises:
        DataError: the map names labels that aren't there or forgets some, or there are too few or too many classes.
    """
    groups = _mapped(export, spec, ignore_case) if spec else _own(list(export.labels), ignore_case)
    names = [name for name in groups if name != VOID]
    notes = []
    plain = background if background is not None else export.background
    if export.background is None and plain is not None:  # masks label every pixel
        names, groups = _background_of_masks(names, groups, plain)
        plain = None
    if plain is not None and plain != VOID:
        same = next((name for name in names if name.casefold() == plain.casefold()), None)
        if same is None:
            names.insert(0, plain)
        notes.append(
            f"unlabelled pixels are the class '{same or plain}' (id {names.index(same or plain)}); --background void"
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
    unlabelled = (
        names.index(next(name for name in names if name.casefold() == plain.casefold()))
        if plain and plain != VOID
        else IGNORE
    )
    colours = spread_colours(len(names))
    given = {
        name: next((export.labels[label] for label in labels if export.labels.get(label)), None)
        for name, labels in groups.items()
    }
    palette = [given.get(name) or colours[number] for number, name in enumerate(names)]
    return Classes(names, palette, {**ids, VOID: IGNORE}, unlabelled, notes)


def _background_of_masks(
    names: list[str], groups: dict[str, list[str]], plain: str
) -> tuple[list[str], dict[str, list[str]]]:
    """``--background`` where masks have a class for it: void, or its new name."""
    own = next((name for name in names if name.casefold() == "background"), None)
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
        groups.setdefault(VOID if name.casefold() == VOID else name, []).append(label)
    return groups


def parsed(spec: str) -> dict[str, list[str]]:
    """``NEW=OLD,OLD;NEW=OLD;NAME``: each class with the labels that become it; ``*=*`` keeps all others, ``void=*``
    makes them void.
    """
    groups: dict[str, list[str]] = {}
    for entry in [one.strip() for one in spec.split(";") if one.strip()]:
        new, equals, old = entry.partition("=")
        labels = [one.strip() for one in old.split(",")] if equals else [new.strip()]
        if not new.strip() or not all(labels):
            raise DataError(
                f"--classes: '{entry}' isn't of the form NEW=OLD,OLD; expected e.g. 'car=car,van;void=unlabelled'"
            )
        groups.setdefault(new.strip(), []).extend(labels)
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
            if not found and label != VOID:
                near = difflib.get_close_matches(label, own, 1)
                hint = f"did you mean '{near[0]}'? " if near else ""
                raise DataError(f"--classes: the export has no label '{label}'; {hint}it has {', '.join(own)}")
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
        groups.setdefault(label if others == _OTHERS else str(others), []).append(label)
    return groups
