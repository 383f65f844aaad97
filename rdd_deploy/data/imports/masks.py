"""Index masks and colour masks of exports, as values."""

from __future__ import annotations

import io
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rdd_deploy.data.image_file import MOST_PIXELS, header_of
from rdd_deploy.data.imports.export import Colour
from rdd_deploy.data.label_space import IGNORE
from rdd_deploy.data.reader import read_frame, read_mask
from rdd_deploy.errors import DataError

Values = NDArray[Any]
"""Unsigned integers (H, W)."""
_GREY = 0


def indices(path: Path, known: Collection[int]) -> Values:
    """The numbers that a mask stores; where they aren't all known, the grey levels behind a palette that an optimiser
    made. Raises DataError.
    """
    mask = read_mask(path)
    if mask.greys is None or set(np.unique(mask.values).tolist()) <= set(known):
        return mask.values
    return mask.greys[mask.values]


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
    values = read_mask(path).values
    numbers, inverse = np.unique(values, return_inverse=True)
    meant = {int(one): table[int(one), int(one), int(one)] for one in numbers if (int(one),) * 3 in table}
    as_colours, as_numbers = len(meant) == len(numbers), set(numbers.tolist()) <= set(table.values()) - {IGNORE}
    if as_colours and as_numbers and any(one != value for one, value in meant.items()):
        raise DataError(
            f"{path} is grey, and its levels {numbers.tolist()[:5]} are both colours of the export's list of classes and"
            " numbers in it; give the classes colours that aren't grey, and export the masks again"
        )
    if not as_colours:
        return values
    return np.array([meant[int(one)] for one in numbers], np.uint16)[inverse].reshape(values.shape)


def of_bytes(data: bytes, where: str) -> Values:
    """An index mask from a PNG or TIFF file's bytes. Raises DataError."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.format not in ("PNG", "TIFF"):
                raise DataError(f"{where} is a {image.format} file, whose compression changes ids; expected PNG")
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
