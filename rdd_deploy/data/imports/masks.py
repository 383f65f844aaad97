"""Index masks and colour masks of exports, as values."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rdd_deploy.data.ids import Ids, even
from rdd_deploy.data.image_file import MOST_PIXELS, Unreadable, header_of, kind_of
from rdd_deploy.data.imports.export import VOID, Colour
from rdd_deploy.data.label_space import IGNORE
from rdd_deploy.data.reader import Coloured, Mask, mask_of, read_frame, read_mask
from rdd_deploy.errors import DataError

Values = NDArray[Any]
"""Unsigned integers (H, W)."""
_GREY = 0
_MOST = 2**15 - 1
"""Classes that ``Ids`` can tell apart."""


def ids_of(values: Mapping[int, str]) -> Ids:
    """How masks of an export are read: as the ``folder`` reader does it, which sees where an optimiser stored a mask
    another way, and refuses what could mean two things.

    Args:
        values: what each means: a label or VOID.
    """
    classes = [value for value, label in values.items() if label != VOID]
    if len(classes) > _MOST:
        raise DataError(f"the export has {len(classes)} classes; expected at most {_MOST}: merge some before exporting")
    return Ids(len(classes), [[value] for value in classes], [one for one, label in values.items() if label == VOID])


def indices(path: Path, ids: Ids) -> Values:
    """The numbers that a mask stores, or the grey levels that an optimiser put behind them. Raises DataError where it
    could be either.
    """
    return ids.meant(path, read_mask(path))


def by_colour(path: Path, table: Mapping[Colour, int]) -> Values:
    """The value of each pixel's colour; a grey mask whose greys are no colours of the table holds the values
    themselves. Raises DataError for colours that mean nothing, or could be both.
    """
    head = header_of(path)
    if head is not None and head.kind == "PNG" and head.detail[1] == _GREY:
        return _by_grey(path, table)
    if head is not None and head.kind in ("JPEG", "WEBP"):
        raise DataError(
            f"{path} is a {head.kind} file, whose compression changes colours; export the masks again as PNG"
        )
    colours = read_frame(path).astype(np.uint32)
    numbers, inverse = np.unique(colours[..., 0] << 16 | colours[..., 1] << 8 | colours[..., 2], return_inverse=True)
    found = [(int(number) >> 16, int(number) >> 8 & 255, int(number) & 255) for number in numbers]
    if unknown := [colour for colour in found if colour not in table]:
        raise DataError(
            f"{path} holds colours {unknown[:5]} that the export's list of classes lacks; add them there, or export it"
            " again"
        )
    return np.array([table[colour] for colour in found], np.uint16)[inverse].reshape(colours.shape[:2])


def _by_grey(path: Path, table: Mapping[Colour, int]) -> Values:
    """An optimiser stores a picture of nothing but grey colours in one channel."""
    values, greys, _ = read_mask(path)
    numbers, inverse = np.unique(values, return_inverse=True)
    levels = [int(one) if greys is None else int(greys[one]) for one in numbers]  # of a file of few bits
    meant = {
        int(one): table[level, level, level]
        for one, level in zip(numbers, levels, strict=True)
        if (level, level, level) in table
    }
    as_colours, as_numbers = len(meant) == len(numbers), set(numbers.tolist()) <= set(table.values()) - {IGNORE}
    if as_colours and as_numbers and any(one != value for one, value in meant.items()):
        raise DataError(
            f"{path} is grey, and its levels {levels[:5]} are both colours of the export's list of classes and"
            " numbers in it; give the classes colours that aren't grey, and export the masks again"
        )
    if not as_colours:
        return values
    return np.array([meant[int(one)] for one in numbers], np.uint16)[inverse].reshape(values.shape)


def of_bytes(data: bytes, where: str, ids: Ids | None) -> Values:
    """An index mask from a PNG or TIFF file's bytes, as ``indices`` reads it.

    Args:
        ids: None where nothing names the classes.

    Raises:
        DataError: it can't be read, or could mean two things.
    """
    kind = kind_of(data[:16])
    if kind == "TIFF":
        return _tiff(data, where)
    if kind not in ("", "PNG"):
        raise DataError(f"{where} is a {kind} file, whose compression changes ids; expected PNG")
    try:
        mask = mask_of(data)
    except Coloured as error:
        raise DataError(
            f"{where} holds colours or transparency; expected a mask of one channel of class ids"
        ) from error
    except Unreadable as error:
        raise DataError(f"{where} isn't an image that can be read: {error}") from error
    return ids.meant(Path(where), mask) if ids is not None else _unnamed(mask, where)


def _unnamed(mask: Mask, where: str) -> Values:
    """The numbers of a mask whose classes nothing names. Raises DataError where they could stand for grey levels."""
    if mask.greys is None:
        return mask.values
    used = np.unique(mask.values)
    behind = mask.greys[used]
    few_bits = len(mask.greys) > 2 and even(mask.greys)  # greys that nobody chose
    if few_bits or (used == behind).all() or len(set(behind.tolist())) < len(used):
        return mask.values
    raise DataError(
        f"{where} can mean two things: it stores the numbers {used.tolist()[:8]} for the grey levels"
        f" {behind.tolist()[:8]}, and nothing says which are classes; put id2label.json beside the data, or save the"
        " masks as greyscale with 8 bits"
    )


def _tiff(data: bytes, where: str) -> Values:
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data), formats=["TIFF"]) as image:
            if image.width * image.height > MOST_PIXELS:
                raise DataError(
                    f"{where} promises {image.height}x{image.width} pixels; expected at most {MOST_PIXELS} in all"
                )
            values = np.asarray(image)
    except DataError:
        raise
    except Exception as error:  # damaged files make Pillow raise anything
        raise DataError(f"{where} isn't an image that can be read; export it again") from error
    if values.ndim == 3 and (values[..., :1] == values[..., :3]).all():
        values = values[..., 0]
    if values.dtype == bool:
        values = values.astype(np.uint8)
    if values.ndim != 2 or not np.issubdtype(values.dtype, np.integer) or values.min(initial=0) < 0:
        raise DataError(f"{where} holds colours; expected a mask of one channel of class ids")
    return values
