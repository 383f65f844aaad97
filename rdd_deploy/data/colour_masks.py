"""Masks whose classes are colours: PNG pictures, looked up in a table of colours."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rdd_deploy import console
from rdd_deploy.data.colours import Colour
from rdd_deploy.data.image_file import header_of
from rdd_deploy.data.label_space import IGNORE
from rdd_deploy.data.reader import Array, read_colours
from rdd_deploy.errors import DataError

_NEAR = 48
"""Distance of two colours in RGB up to which one is taken for a blurred form of the other."""
_PNG_RGB = (2, 6)
"""PNG's colour types with three channels."""


class ColourMap:
    """Which colour is which class.

    Args:
        table: RGB colour -> class id or IGNORE.
        names: of the colours, for messages.
        where: what names the colours, for messages.
        always: whether grey and palette masks are looked up, too; else they hold numbers, as ``is_for`` tells apart.
        others_void: whether all other colours mean void; otherwise they are errors.
        stray: share of a mask's pixels that may have other colours, which then are void and warned of.
    """

    def __init__(
        self,
        table: Mapping[Colour, int],
        names: Mapping[Colour, str],
        where: str = "data.colours",
        always: bool = True,
        others_void: bool = False,
        stray: float = 0.0,
    ) -> None:
        order = sorted(table)
        self._colours = np.array(order, np.uint8).reshape(-1, 3)
        self._packed = _pack(self._colours)  # ascending, as the colours are
        self._classes = np.array([table[colour] for colour in order], np.uint8)
        self._names = [names.get(colour, "void") for colour in order]
        self._where, self._always, self._others_void, self._stray = where, always, others_void, stray
        self._warned: set[Path] = set()

    def is_for(self, path: Path) -> bool:
        """Whether a mask is to be read by its colours."""
        if self._always:
            return True
        head = header_of(path)
        if head is None or head.kind != "PNG" or head.detail[1] not in _PNG_RGB:
            return False
        pixels = read_colours(path)
        return bool((pixels != pixels[..., :1]).any())

    def labels(self, path: Path) -> Array:
        """A mask as class ids and IGNORE, uint8 (H, W). Raises DataError for a colour that the table doesn't hold."""
        packed = _pack(read_colours(path))
        place = np.minimum(np.searchsorted(self._packed, packed), len(self._packed) - 1)
        known = self._packed[place] == packed
        labels = np.where(known, self._classes[place], np.uint8(IGNORE))
        if not known.all() and not self._others_void:
            self._unknown(path, packed[~known], packed.size)
        return np.asarray(labels, np.uint8)

    def _unknown(self, path: Path, packed: NDArray[Any], pixels: int) -> None:
        values, counts = np.unique(packed, return_counts=True)
        first = int(counts.argmax())
        colour = _unpack(int(values[first]))
        distance = np.linalg.norm(self._colours.astype(float) - colour, axis=1)
        near = int(distance.argmin())
        named = tuple(self._colours[near].tolist())
        more = (
            f", and {len(values) - 1} more such colours at {int(counts.sum() - counts[first])} pixels"
            if len(values) > 1
            else ""
        )
        said = (
            f"{path} holds the colour {colour} at {counts[first]} of {pixels} pixels{more}, which {self._where} doesn't"
            f" name; the nearest there is {named} of {self._names[near]}"
        )
        if counts.sum() <= self._stray * pixels:
            if path.parent not in self._warned and console.process_rank() == 0:
                self._warned.add(path.parent)
                console.warn(f"{said}: taken as void, here and in other masks of its folder")
            return
        if colour[0] == colour[1] == colour[2] and max(map(_brightest, values.tolist())) <= len(self._packed):
            way_out = "the mask seems to hold numbers, not colours: give data.ids instead"
        elif len(values) > 2 or distance[near] <= _NEAR:
            way_out = (
                "so it looks as after antialiasing, resizing or JPEG compression: export the masks again as PNG without"
                " these, or name the colour"
            )
        else:
            way_out = "name it there, or say that all other colours are void (data.others_void=true)"
        raise DataError(f"{said}; {way_out}")


def _pack(colours: Array) -> NDArray[np.uint32]:
    wide = colours.astype(np.uint32)
    return np.asarray(wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2], np.uint32)


def _unpack(packed: int) -> Colour:
    return packed >> 16, packed >> 8 & 255, packed & 255


def _brightest(packed: int) -> int:
    return max(_unpack(packed))


def colour_map(classes: Iterable[tuple[str, int, Iterable[Colour]]], **options: Any) -> ColourMap:
    """A map from (name, class id or IGNORE, its colours), with ``ColourMap``'s options."""
    rows = [(colour, index, name) for name, index, colours in classes for colour in colours]
    return ColourMap(
        {colour: index for colour, index, _ in rows}, {colour: name for colour, _, name in rows}, **options
    )
