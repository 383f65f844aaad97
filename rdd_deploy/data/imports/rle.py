"""Run lengths of COCO, CVAT and Label Studio. Read here, not by C code that trusts them: what they promise is checked
before memory is taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rdd_deploy.data.imports.export import Area, named
from rdd_deploy.errors import DataError


def by_columns(counts: Sequence[int], height: int, width: int, where: str) -> Area:
    """COCO's order: down the columns, beginning with what isn't in the mask."""
    return np.ascontiguousarray(_runs(counts, height, width, where).reshape(width, height).T)


def by_rows(counts: Sequence[int], height: int, width: int, where: str) -> Area:
    """CVAT's order: along the rows of the mask's box, beginning with what isn't in the mask. What is missing at the end
    isn't in it.
    """
    return _runs(counts, height, width, where, short=True).reshape(height, width)


def _runs(counts: Sequence[int], height: int, width: int, where: str, short: bool = False) -> Area:
    for one in counts:
        if not isinstance(one, int) or isinstance(one, bool) or not 0 <= one <= height * width:
            raise DataError(
                f"{where}: a run length is {one!r:.40}; expected a whole number from 0 to {height * width}, the image's"
                " pixels"
            )
    total = sum(counts)
    if total > height * width or (total < height * width and not short):
        raise DataError(f"{where}: the run lengths make {total} pixels; expected {height}x{width} = {height * width}")
    values = np.arange(len(counts)) % 2 == 1
    flat = np.zeros(height * width, bool)
    flat[:total] = np.repeat(values, np.asarray(counts, np.int64)) if counts else False
    return flat


def counts_of(text: str, where: str) -> list[int]:
    """COCO's compressed run lengths: numbers of 5 bits a character, from the third on as differences to the one before
    the last.

    Source: rleFrString of pycocotools.
    """
    counts: list[int] = []
    value = shift = 0
    for character in text:
        code = ord(character) - 48
        if not 0 <= code < 64 or shift > 50:
            raise DataError(
                f"{where}: the run lengths hold {character!r}, which isn't COCO's compressed form; export it again"
            )
        value |= (code & 0x1F) << shift
        shift += 5
        if not code & 0x20:
            if code & 0x10:
                value -= 1 << shift
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))
            value = shift = 0
    if shift:
        raise DataError(f"{where}: the run lengths are cut off; export it again")
    return counts


class _Bits:
    """Bits from the front, the first of a byte first."""

    def __init__(self, data: bytes, where: str) -> None:
        self._text = "".join(f"{byte:08b}" for byte in data)
        self._at, self._where = 0, where

    def read(self, count: int) -> int:
        self._at += count
        if self._at > len(self._text):
            raise DataError(f"{self._where}: the brush's run lengths are cut off; export it again")
        return int(self._text[self._at - count : self._at], 2)

    def bytes(self, count: int) -> NDArray[np.uint8]:
        start, self._at = self._at, self._at + 8 * count
        if self._at > len(self._text):
            raise DataError(f"{self._where}: the brush's run lengths are cut off; export it again")
        bits = np.frombuffer(self._text[start : self._at].encode("ascii"), np.uint8) - ord("0")
        return np.packbits(bits)


def brush(value: Any, height: int, width: int, where: str) -> Area:
    """Label Studio's brush: run lengths of RGBA values along the rows; the mask is what isn't transparent.

    Source: the package rle-pack (thi.ng/umbrella), which the tool uses: 32 bits how many values, 5 bits their width
    less 1, four times 4 bits the widths of lengths less 1, then for each run a bit whether one value is repeated, 2
    bits which width, the length less 1, and the values.
    """
    if not isinstance(value, list):
        raise DataError(f"{where}: the brush's run lengths are {named(value)}; expected a list of bytes")
    try:
        bits = _Bits(bytes(value), where)
    except (ValueError, TypeError) as error:
        raise DataError(f"{where}: the brush's run lengths aren't bytes from 0 to 255; export it again") from error
    count, word = bits.read(32), bits.read(5) + 1
    sizes = [bits.read(4) + 1 for _ in range(4)]
    if count != 4 * height * width or word != 8:
        raise DataError(
            f"{where}: the brush has {count} values of {word} bits; expected 8 bits and {4 * height * width}, four for"
            f" each of the image's {height}x{width} pixels"
        )
    values = np.zeros(count, np.uint8)
    done = 0
    while done < count:
        repeated, end = bits.read(1), done + 1
        end += bits.read(sizes[bits.read(2)])
        if end > count:
            raise DataError(
                f"{where}: the brush's run lengths make more than the image's {height}x{width} pixels; export it again"
            )
        values[done:end] = bits.read(8) if repeated else bits.bytes(end - done)
        done = end
    return np.asarray(values.reshape(height, width, 4)[..., 3] > 0)
