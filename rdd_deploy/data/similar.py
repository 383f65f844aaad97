"""Frames that look alike: a perceptual hash of each, and those that are near each other by it. Imports no torch.

The hash (pHash) tells how the picture's lowest frequencies lie around their median. Compression, scaling and a change
of brightness move few of its bits; another scene moves about half of them. Zauner, "Implementation and Benchmarking of
Perceptual Image Hash Functions", 2010.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

SIDE, KEPT = 32, 8
"""Frames are shrunk to a square of this side; of its frequencies so many are kept each way."""
BITS = KEPT * KEPT
DISTANCE = 4
"""Bits that two hashes of frames that look alike differ in at most, where nothing else is said."""


def fingerprint(frame: NDArray[np.uint8]) -> int:
    """The perceptual hash of a frame, 64 bits; 0 for a frame of one colour.

    Args:
        frame: uint8 (H, W, 3), RGB, or (H, W).
    """
    grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) if frame.ndim == 3 else frame
    small = cv2.resize(grey, (SIDE, SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)
    # Whole numbers: what rounding leaves of a frequency that isn't there must not decide a bit. The lowest one is the
    # brightness.
    low = np.rint(cv2.dct(small)[:KEPT, :KEPT]).ravel()
    low[0] = 0
    return int.from_bytes(np.packbits(low > np.median(low[1:])).tobytes(), "big")


def distance(one: int, other: int) -> int:
    """Bits in which two hashes differ, 0 to 64."""
    return (one ^ other).bit_count()


class Seen:
    """Hashes that were seen, found again by those that are near; quick also among a million that differ from each
    other.

    Hashes that differ in at most d bits are equal in one of d + 1 parts of them, so only those are compared.

    Args:
        within: largest distance that counts as near, 0 to 63. At 0 only equal hashes are.
    """

    def __init__(self, within: int = DISTANCE) -> None:
        if not 0 <= within < BITS:
            raise ValueError(f"the distance is {within}; expected 0 to {BITS - 1}")
        self.within = within
        ends = [BITS * part // (within + 1) for part in range(within + 2)]
        self._parts = [(low, (1 << (high - low)) - 1) for low, high in itertools.pairwise(ends)]
        self._buckets: list[dict[int, list[int]]] = [{} for _ in self._parts]
        self._positions: dict[int, int] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, one: int) -> None:
        """Add a hash; its position is how many were added before. Of equal ones the first is the one that is found."""
        position, self._count = self._count, self._count + 1
        if one in self._positions:
            return
        self._positions[one] = position
        for (shift, mask), bucket in zip(self._parts, self._buckets, strict=True):
            bucket.setdefault(one >> shift & mask, []).append(one)

    def near(self, one: int) -> int | None:
        """The position of the nearest hash that is near enough, of several the first; None where there is none."""
        if one in self._positions:
            return self._positions[one]
        found = [
            (apart, self._positions[other])
            for (shift, mask), bucket in zip(self._parts, self._buckets, strict=True)
            for other in bucket.get(one >> shift & mask, ())
            if (apart := (one ^ other).bit_count()) <= self.within
        ]
        return min(found)[1] if found else None


def near_duplicates(known: Sequence[int], asked: Iterable[int], within: int = DISTANCE) -> list[tuple[int, int]]:
    """Pairs (position in ``known``, position in ``asked``) of hashes that are near: for each of ``asked`` the nearest
    of ``known``, if any.
    """
    seen = Seen(within)
    for one in known:
        seen.add(one)
    return [(found, position) for position, one in enumerate(asked) if (found := seen.near(one)) is not None]


def first_of_each(hashes: Iterable[int], within: int = DISTANCE) -> list[int]:
    """Positions of the hashes to keep, in their order: each that isn't near one that was kept before it."""
    seen = Seen(within)
    kept = []
    for position, one in enumerate(hashes):
        if seen.near(one) is None:
            seen.add(one)
            kept.append(position)
    return kept
