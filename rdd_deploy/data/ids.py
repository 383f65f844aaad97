"""Which mask value is which class: one table for training, evaluation and the live app's label folders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rdd_deploy import console
from rdd_deploy.data.reader import Array, Mask, Numbers, read_mask
from rdd_deploy.errors import DataError

IGNORE = 255
"""The one void label inside rdd_deploy; each data set maps its own void ids to it."""
LARGEST_ID = 65535
_EXTREMES = (0, 255)
"""Black and white: greys that people draw classes in, so that they tell nothing of an optimiser."""


class Ids:
    """The meaning of mask values.

    Args:
        classes: how many there are.
        ids: per class the values that mean it; default: class 0 is 0, class 1 is 1, …
        void_ids: values that mean void.
        others_void: whether all other values mean void, too; otherwise they are errors.
        way_out: what to do about values that mean nothing; ``{values}`` stands for them.
    """

    def __init__(
        self,
        classes: int,
        ids: Sequence[Sequence[int]] | None = None,
        void_ids: Sequence[int] = (),
        others_void: bool = False,
        way_out: str = "say with data.ids which value is which class, or with data.void_ids or data.others_void that they are void",
    ) -> None:
        self._table = np.full(LARGEST_ID + 1, -1, np.int16)
        for index, values in enumerate(ids if ids is not None else [[index] for index in range(classes)]):
            self._table[list(values)] = index
        self._table[list(void_ids)] = IGNORE
        self._named = self._table >= 0
        if others_void:
            self._table[~self._named] = IGNORE
        self._expected = f"0 to {classes - 1}" if ids is None else ", ".join(str(value) for values in ids for value in values)
        self._voids = ", ".join(str(value) for value in void_ids) or "none"
        self._way_out = way_out
        self._told: set[Path] = set()

    def labels(self, path: Path) -> Array:
        """A mask as class ids and IGNORE, uint8 (H, W). Raises DataError for values that mean nothing, or two things."""
        values = self._meant(path, read_mask(path))
        mapped = self._table[values]
        if (mapped < 0).any():
            unknown = np.unique(values[mapped < 0]).tolist()
            way_out = self._way_out.format(values=" ".join(map(str, unknown)))
            raise DataError(f"{path} holds unknown class ids {unknown}; expected {self._expected} or a void id ({self._voids}): {way_out}")
        return mapped.astype(np.uint8)

    def _meant(self, path: Path, mask: Mask) -> Numbers:
        """The ids: what is stored, or the greys behind it.

        A program that makes PNG files smaller stores a grey mask's few values as indices of a palette of greys, or in fewer bits. A palette
        may as well be there for the eye alone. The classes decide; where both would do, greys that nobody would draw a class in.
        """
        stored, greys = mask
        if greys is None:
            return stored
        used = np.unique(stored)
        behind = greys[used]
        moved = behind[behind != used]
        if not moved.size or len(set(behind.tolist())) < len(used):  # the same, or one grey for two: no ids were stored so
            return stored
        as_grey, as_stored = self._fits(behind), self._fits(used)
        if as_grey and as_stored and not (self._named[moved] & ~np.isin(moved, _EXTREMES)).any():
            raise DataError(
                f"{path} can mean two things: it stores the numbers {used.tolist()} for the grey levels {behind.tolist()}, and both are ids "
                "of this data set; save it as greyscale with 8 bits, or, where the numbers are meant, with a palette of colours"
            )
        if not as_grey:
            return stored
        if path.parent not in self._told:
            self._told.add(path.parent)
            console.warn(
                f"{path} and maybe others in its folder store grey levels by their number in a palette, as programs do that make files smaller: "
                f"the grey levels {behind.tolist()} are taken as ids, not the numbers {used.tolist()}"
            )
        return greys[stored]

    def _fits(self, values: NDArray[Any]) -> bool:
        found = self._table[values]
        return bool((found >= 0).all() and (self._named[values]).any())
