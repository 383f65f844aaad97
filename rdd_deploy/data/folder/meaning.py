"""What the values or colours of masks mean, from what a recipe says and what a table beside the masks names. Imports no
numpy.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rdd_deploy.data.colours import Colour, LabelMap, spread_colours
from rdd_deploy.data.label_space import IGNORE

VOID, BACKGROUND = "void", "background"
Problems = list[tuple[str, str]]
"""Each as (the keys that it is about, sentence)."""


@dataclass(frozen=True)
class Said:
    """The recipe's keys; see ``data.folder.config.FolderOptions``. ``named``: values or colours by name, from the
    recipe or from a table.
    """

    classes: Sequence[str] | None
    palette: Sequence[Colour] | None
    ids: Sequence[Sequence[int]] | None
    void_ids: Sequence[int]
    others_void: bool
    merge: Mapping[str, Sequence[str]]
    background: str | None
    named: LabelMap | None
    where: str
    """What names them, for messages: ``data.ids``, ``data.colours`` or a file."""


@dataclass(frozen=True)
class Meaning:
    """Which class each mask value, or each colour, is.

    Attributes:
        classes, palette: of the data set, in the order of the ids.
        ids: per class its values; None: class 0 is 0, class 1 is 1, …
        void_ids, others_void: which other values are void.
        colours: per class its colours, empty where masks hold numbers; void_colours: those of void.
    """

    classes: tuple[str, ...]
    palette: tuple[Colour, ...]
    ids: list[list[int]] | None
    void_ids: list[int]
    others_void: bool
    colours: list[list[Colour]] = field(default_factory=list)
    void_colours: list[Colour] = field(default_factory=list)

    @property
    def is_plain(self) -> bool:
        """Whether masks hold the classes' ids, and 255 for void."""
        in_order = self.ids in (None, [[index] for index in range(len(self.classes))])
        return in_order and not self.colours and IGNORE in self.void_ids


def meaning_of(said: Said) -> tuple[Meaning | None, Problems]:
    """What the masks mean, or what is wrong in what was said; never both."""
    meaning, problems = _by_name(said) if said.named else _by_number(said)
    if meaning is not None and not problems and said.palette and len(said.palette) != len(meaning.classes):
        problems = [
            (
                "classes palette",
                (
                    f"data.palette has {len(said.palette)} colours for {len(meaning.classes)} classes; give one colour"
                    " a class"
                ),
            )
        ]
    return (None, problems) if problems else (meaning, [])


def _by_number(said: Said) -> tuple[Meaning | None, Problems]:
    classes, void_ids = list(said.classes or ()), list(said.void_ids)
    ids = [list(values) for values in said.ids] if said.ids is not None else None
    problems: Problems = []
    if said.merge:
        problems.append(
            (
                "merge",
                (
                    "data.merge joins classes by their names in the masks; give these names with their values or"
                    " colours: data.ids={car: 1, van: 2}, data.colours={car: [0, 0, 142]}, or a table like labelmap.txt"
                ),
            )
        )
    if said.background == "void":
        if BACKGROUND in classes:
            problems.append(
                ("classes background", "data.background is void, but data.classes names 'background'; drop one of them")
            )
        if ids is None:
            ids = [[index + 1] for index in range(len(classes))]
        elif any(0 in values for values in ids):
            problems.append(
                ("ids background", "data.background is void, but data.ids gives 0 to a class; drop one of them")
            )
        void_ids = list(dict.fromkeys([0, *void_ids]))
    elif said.background == "class":
        if BACKGROUND not in classes:
            classes.insert(0, BACKGROUND)
            ids = [[0], *ids] if ids is not None else None
        place = classes.index(BACKGROUND)
        if 0 in void_ids or (0 not in ids[place] if ids is not None and place < len(ids) else place):
            problems.append(
                (
                    "classes ids void_ids background",
                    "data.background is class, so that 0 means the class 'background', but "
                    + ("data.void_ids holds 0" if 0 in void_ids else "data.classes or data.ids give it another value")
                    + "; put it first in data.classes, or drop data.background",
                )
            )
    palette = tuple(said.palette or spread_colours(len(classes)))
    return Meaning(tuple(classes), palette, ids, void_ids, said.others_void), problems


def _by_name(said: Said) -> tuple[Meaning | None, Problems]:
    assert said.named is not None
    named = _with_background(said)
    by_colour = bool(said.named.colours)
    targets, problems = _targets(said, named)
    if by_colour:
        owners: dict[Colour | int, str] = {}
        for name, found in named.items():
            for colour in found:
                if owners.setdefault(colour, name) != name:
                    problems.append(
                        (
                            "colours",
                            (
                                f"{said.where} gives {colour} to both '{owners[colour]}' and '{name}'; expected one"
                                " name for each"
                            ),
                        )
                    )
    if problems:
        return None, problems
    classes = (
        list(said.classes) if said.classes else list(dict.fromkeys(name for name in targets.values() if name != VOID))
    )
    values: dict[str, list[Colour | int]] = {name: [] for name in [*classes, VOID]}
    for name, target in targets.items():
        values[target] += named[name]
    if empty := [name for name in classes if not values[name]]:
        near = difflib.get_close_matches(empty[0], named, 1)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        problems.append(
            (
                "classes ids colours merge",
                (
                    f"data.classes names {', '.join(empty)}, which nothing in {said.where} means{hint}; name it there,"
                    " or join others under it with data.merge, or drop it"
                ),
            )
        )
    if len(classes) < 2:
        problems.append(
            ("classes ids colours merge", f"{said.where} leaves {len(classes)} classes; expected 2 or more")
        )
    if by_colour:
        colours: list[list[Colour]] = [[v for v in values[name] if not isinstance(v, int)] for name in classes]
        palette = tuple(said.palette or _own(colours))
        void = [v for v in values[VOID] if not isinstance(v, int)]
        return Meaning(tuple(classes), palette, None, list(said.void_ids), said.others_void, colours, void), problems
    ids = [[v for v in values[name] if isinstance(v, int)] for name in classes]
    void_ids = list(dict.fromkeys([v for v in values[VOID] if isinstance(v, int)] + list(said.void_ids)))
    if both := sorted({value for entry in ids for value in entry} & set(void_ids)):
        rest = sorted(set(void_ids) - set(both))
        problems.append(
            (
                "ids void_ids",
                (
                    f"{said.where} gives {both} to classes, data.void_ids to void; where these values are classes, set"
                    f" data.void_ids={rest}"
                ),
            )
        )
    return (
        Meaning(tuple(classes), tuple(said.palette or spread_colours(len(classes))), ids, void_ids, said.others_void),
        problems,
    )


def _with_background(said: Said) -> dict[str, list[Colour] | list[int]]:
    """What is named, with the background where it is said to be there and nothing else has its value."""
    assert said.named is not None
    named: dict[str, list[Colour] | list[int]] = {**said.named.ids, **said.named.colours}
    if said.background and BACKGROUND not in named:
        if said.named.colours and not any((0, 0, 0) in found for found in said.named.colours.values()):
            named = {BACKGROUND: [(0, 0, 0)], **named}
        elif said.named.ids and not any(0 in found for found in said.named.ids.values()):
            named = {BACKGROUND: [0], **named}
    return named


def _targets(said: Said, named: Mapping[str, object]) -> tuple[dict[str, str], Problems]:
    """The class, or void, of each name in the masks."""
    problems: Problems = []
    owners: dict[str, str] = {}
    for target, names in said.merge.items():
        if said.classes and target not in (*said.classes, VOID):
            problems.append(
                (
                    "classes merge",
                    f"data.merge joins names under '{target}', which is neither one of data.classes nor void",
                )
            )
        for name in names:
            if name not in named:
                near = difflib.get_close_matches(name, named, 1)
                hint = f"; did you mean '{near[0]}'?" if near else f"; it names {', '.join(named)}"
                problems.append(("ids colours merge", f"data.merge names '{name}', which isn't in {said.where}{hint}"))
            if owners.setdefault(name, target) != target:
                problems.append(
                    ("merge", f"data.merge puts '{name}' under both '{owners[name]}' and '{target}'; expected it once")
                )
    targets, forgotten = {}, []
    for name in named:
        if name in owners:
            targets[name] = owners[name]
        elif (name == BACKGROUND and said.background == "void") or name == VOID:
            targets[name] = VOID
        elif name in said.classes if said.classes else name != BACKGROUND or said.background == "class":
            targets[name] = name
        elif said.others_void:
            targets[name] = VOID
        else:
            forgotten.append(name)
    if BACKGROUND in forgotten:
        forgotten.remove(BACKGROUND)
        problems.append(
            (
                "classes ids colours merge background",
                (
                    f"{said.where} names 'background', and nothing says what it is; set data.background=class or"
                    " data.background=void"
                ),
            )
        )
    if forgotten:
        problems.append(
            (
                "classes ids colours merge",
                (
                    f"{said.where} names {', '.join(forgotten)}, which data.classes doesn't; add them there, or join"
                    f" them to a class or to void with data.merge, e.g. data.merge={{void: [{', '.join(forgotten)}]}},"
                    " or say data.others_void=true"
                ),
            )
        )
    return targets, problems


def _own(colours: Sequence[Sequence[Colour]]) -> list[Colour]:
    """A colour a class: its own first one, which no other class has."""
    return [of_class[0] if of_class else (0, 0, 0) for of_class in colours]


def as_named(meaning: Meaning) -> dict[str, list[Colour]]:
    """Colours by class and void, as ``data.colours`` takes them."""
    found = {name: list(colours) for name, colours in zip(meaning.classes, meaning.colours, strict=True)}
    return {**found, VOID: list(meaning.void_colours)} if meaning.void_colours else found
