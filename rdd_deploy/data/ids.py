"""Which mask value is which class: one table for training, evaluation and the live app's label folders."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rdd_deploy import console
from rdd_deploy.data.colour_masks import ColourMap
from rdd_deploy.data.colours import Colour, voc_colour
from rdd_deploy.data.label_space import IGNORE, LARGEST_ID
from rdd_deploy.data.reader import Array, Mask, Numbers, read_mask
from rdd_deploy.errors import DataError

_TOLD = 12
"""Unknown values that an error names; a photograph in a mask's place has hundreds."""
_EXTREMES = (0, 255)
"""Black and white: people draw classes in them, so they are no sign of an optimised file."""


class Ids:
    """The meaning of mask values.

    Args:
        classes: how many there are.
        ids: per class the values that mean it; default: class 0 is 0, class 1 is 1, …
        void_ids: values that mean void.
        others_void: whether all other values mean void, too; otherwise they are errors.
        way_out: what to do about values that mean nothing; ``{values}`` stands for them.
        colours: per class the RGB colour that the user gave it, if any; a mask's palette must not give it to another.
        colour_map: reads the masks whose classes are colours, if any are.
    """

    def __init__(
        self,
        classes: int,
        ids: Sequence[Sequence[int]] | None = None,
        void_ids: Iterable[int] = (),
        others_void: bool = False,
        way_out: str = "say with data.ids which value is which class, or with data.void_ids or data.others_void that they are void",
        colours: Sequence[tuple[int, int, int]] = (),
        colour_map: ColourMap | None = None,
    ) -> None:
        self._table = np.full(LARGEST_ID + 1, -1, np.int16)
        for index, values in enumerate(ids if ids is not None else [[index] for index in range(classes)]):
            self._table[list(values)] = index
        self._table[list(void_ids)] = IGNORE
        self._others_void = others_void
        self._named = self._table >= 0
        if others_void:
            self._table[~self._named] = IGNORE
        self._expected = f"0 to {classes - 1}" if ids is None else _ranges(value for values in ids for value in values)
        self._voids = _ranges(void_ids) or "none"
        self._way_out = way_out
        self._colour_map = colour_map
        self._warned: set[tuple[Path, str]] = set()
        self._classes = {
            tuple(colour): index for index, colour in enumerate(colours) if list(colours).count(colour) == 1
        }
        self._read_by: dict[str, Path] = {}  # the first mask whose ids are its palette's grey levels, and of numbers
        self._numbers: dict[Colour, tuple[int, Path]] = {}  # of a colour, in the first mask that has it
        self._colours: dict[int, tuple[Colour, Path]] = {}  # of a number

    def labels(self, path: Path) -> Array:
        """A mask as class ids and IGNORE, uint8 (H, W). Raises DataError for values that mean nothing,
        or two things.
        """
        if self._colour_map is not None and self._colour_map.is_for(path):
            return self._colour_map.labels(path)
        values = self.meant(path, read_mask(path))
        mapped = self._table[values]
        if (mapped < 0).any():
            unknown = np.unique(values[mapped < 0]).tolist()
            way_out = self._way_out.format(values=" ".join(map(str, unknown[:_TOLD])))
            more = f" and {len(unknown) - _TOLD} more" if len(unknown) > _TOLD else ""
            raise DataError(
                f"{path} holds unknown class ids {unknown[:_TOLD]}{more}; expected {self._expected} or a void id"
                f" ({self._voids}): {way_out}"
            )
        return mapped.astype(np.uint8)

    def meant(self, path: Path, mask: Mask) -> Numbers:
        """The ids: what is stored, or the greys behind it. Raises DataError where it could be either.

        A program that makes PNG files smaller stores a grey mask's few values as indices of a palette of greys, or in
        fewer bits. A palette may as well be there for the eye alone. The classes decide; where both would do, greys
        that nobody would draw a class in.
        """
        stored, greys, colours = mask
        if colours is not None:
            self._check_colours(path, stored, colours)
        if greys is None:
            return stored
        used = np.unique(stored)
        behind = greys[used]
        if (self._table[behind] == self._table[used]).all() or len(set(behind.tolist())) < len(used):
            return stored  # both mean the same, or one grey stands for two: no ids were stored so
        moved = behind[behind != used]
        as_grey, as_stored = self._fits(behind), self._fits(used)
        both = as_grey and not (self._named[moved] & ~np.isin(moved, _EXTREMES)).any()
        # Else it could be void that an optimiser packed.
        all_others = self._others_void and not as_grey and not even(greys)
        if as_stored and (both or all_others):
            raise DataError(
                f"{path} can mean two things: it stores the numbers {used.tolist()} for the grey levels"
                f" {behind.tolist()}, and both are ids of this data set{' or void' if all_others else ''}; save it as"
                " greyscale with 8 bits, or, where the numbers are meant, with a palette of colours"
            )
        numbers, levels = f"the numbers {used.tolist()}", f"the grey levels {behind.tolist()}"
        if as_grey:
            self._read_one_way(path, "grey levels", f"{levels} are taken as ids, not {numbers}")
        elif as_stored and not even(greys):
            self._read_one_way(
                path, "numbers", f"{numbers} are taken as ids, as {levels} aren't all ids of this data set"
            )
        return greys[stored] if as_grey else stored

    def _read_one_way(self, path: Path, by: str, how: str) -> None:
        """Warn of how a palette of greys is read. Raises DataError where another mask's is read the other way."""
        self._warn_once(
            path,
            f"{path} and maybe others in its folder store grey levels by their number in a palette, as programs do that"
            f" make files smaller: {how}",
            by,
        )
        self._read_by.setdefault(by, path)
        if len(self._read_by) == 2:
            of_greys, of_numbers = self._read_by["grey levels"], self._read_by["numbers"]
            raise DataError(
                f"{of_greys} holds this data set's ids as the grey levels of its palette, {of_numbers} as the numbers"
                " that it stores: one of them holds something else. Save the masks as greyscale with 8 bits, and see"
                " that data.ids and data.void_ids name all values"
            )

    def _check_colours(self, path: Path, stored: Numbers, palette: Array) -> None:
        """A mask's numbers against what its palette's colours stand for elsewhere: a program that makes files smaller
        sorts palettes again.

        Raises DataError where a colour has another number in another mask, in the recipe or in PASCAL VOC's palette.
        """
        colours: list[Colour] = [(r, g, b) for r, g, b in palette.tolist()]
        used = np.flatnonzero(np.bincount(stored.ravel(), minlength=256)).tolist()
        times = Counter(colours)
        # Palettes are filled up with one colour.
        own = [(number, colours[number]) for number in used if times[colours[number]] == 1]
        for number, colour in own:
            class_id = self._classes.get(colour)
            if class_id is not None and self._table[number] not in (class_id, IGNORE, -1):
                self._refuse(
                    path,
                    f"stores the number {number} for the colour {colour}, which data.palette gives to class {class_id}",
                )
            other, first = self._numbers.setdefault(colour, (number, path))
            if other != number:
                self._refuse(
                    path, f"stores the number {number} for the colour {colour}, and {first} the number {other}"
                )
            before, first = self._colours.setdefault(number, (colour, path))
            if before != colour:
                self._warn_once(
                    path,
                    f"{path} shows the number {number} as the colour {colour}, {first} as {before}: make sure that the"
                    " numbers mean the same in all masks; programs that make files smaller sort palettes again",
                    "colours",
                )
        meant = [_VOC.get(colour, -1) for colour in colours]
        ids = np.array(meant)[used]
        said = all(colours[number] in self._classes for number in used)
        if not said and min(meant) >= 0 and self._named[ids].all() and (self._table[ids] != self._table[used]).any():
            self._refuse(
                path,
                f"stores the numbers {used} for colours that stand for the ids {ids.tolist()} in PASCAL VOC's palette",
                ", or, where the numbers are meant, give the masks' colours in data.palette",
            )

    def check_palettes(self, other: Ids) -> None:
        """Raise DataError where a colour in the masks that another split has read so far has another number than in
        those of this one.
        """
        for colour, (number, path) in other._numbers.items():
            mine, first = self._numbers.get(colour, (number, path))
            if mine != number:
                self._refuse(path, f"stores the number {number} for the colour {colour}, and {first} the number {mine}")

    def _refuse(self, path: Path, what: str, way_out: str = "") -> None:
        raise DataError(
            f"{path} {what}, as programs leave it that make files smaller: which id is meant can't be told. Export the"
            f" masks again, as greyscale with 8 bits or all with one palette{way_out}"
        )

    def _warn_once(self, path: Path, sentence: str, about: str) -> None:
        if (path.parent, about) not in self._warned and console.process_rank() == 0:
            self._warned.add((path.parent, about))
            console.warn(sentence)

    def _fits(self, values: NDArray[Any]) -> bool:
        found = self._table[values]
        return bool((found >= 0).all() and (self._named[values]).any())


def _ranges(values: Iterable[int]) -> str:
    """Numbers in words, runs of three or more by their ends: 0 to 6, 9, 10."""
    runs: list[list[int]] = []
    for value in sorted(set(values)):
        if runs and value == runs[-1][-1] + 1:
            runs[-1].append(value)
        else:
            runs.append([value])
    return ", ".join(f"{run[0]} to {run[-1]}" if len(run) > 2 else ", ".join(map(str, run)) for run in runs)


def even(greys: Array) -> bool:
    """Whether they are evenly spread from black to white: for the eye, or what few bits mean."""
    return len(greys) > 1 and bool((greys == np.linspace(0, 255, len(greys)).round()).all())


_VOC = {voc_colour(index): index for index in range(256)}
"""PASCAL VOC's palette."""
