"""Where training frames hold their classes, so that crops can be placed on rare ones.

A frame comes up as often as without; what is drawn by rarity is which of its classes a crop shows. Choosing the frame
by the class as well (Hoyer, Dai, Van Gool, "DAFormer", CVPR 2022) would show few frames again and again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from rdd_deploy.data.base import Labels

PLACES = 32
"""Pixels of a class that are kept of a frame, drawn evenly."""
POWER = 0.5
"""A class is drawn by its pixels in the split to the power of minus this."""


class RarePlaces:
    """Some pixels of each class in each frame with labels; classes are drawn with weight 1 / √pixels.

    Args:
        frames: number of frames. labels: label map uint8 (H, W) of a frame. classes: number of classes.
        advance: called after each frame, for a progress bar.

    Attributes:
        pixels: int64 (C,), of each class in all frames.
    """

    def __init__(
        self, frames: int, labels: Callable[[int], Labels], classes: int, advance: Callable[[], None] = lambda: None
    ) -> None:
        def look(index: int) -> tuple[NDArray[np.int64], NDArray[np.uint8], NDArray[np.int32]]:
            flat = labels(index).ravel()
            counts = np.bincount(flat, minlength=classes)[:classes]
            there = np.flatnonzero(counts)
            random = np.random.default_rng(index)
            spots = [random.choice(np.flatnonzero(flat == c), PLACES).astype(np.int32) for c in there]
            advance()
            return counts, there.astype(np.uint8), np.array(spots, np.int32).reshape(-1, PLACES)

        with ThreadPoolExecutor(4) as pool:
            counts, there, spots = zip(*pool.map(look, range(frames)), strict=True)
        self.pixels = np.sum(counts, 0)
        self._weights = np.maximum(1, self.pixels) ** -POWER
        self._starts = np.cumsum([0, *map(len, there)])
        self._classes, self._spots = np.concatenate(there), np.concatenate(spots)

    def draw(self, frame: int, by_class: float, by_place: float) -> int | None:
        """A pixel of a class of the frame, as its place in the flat label map; None where it has no labels.

        Args:
            by_class, by_place: two random numbers in [0, 1).
        """
        chances = self.chances(frame)
        if not len(chances):
            return None
        row = min(int(np.searchsorted(chances.cumsum(), by_class, side="right")), len(chances) - 1)
        return int(self._spots[self._starts[frame] + row, int(by_place * PLACES)])

    def chances(self, frame: int) -> NDArray[np.float64]:
        """How probable each class that the frame holds is, in the order of class ids; empty where it has no labels."""
        weights: NDArray[np.float64] = self._weights[self._held(frame)]
        return weights / weights.sum() if len(weights) else weights

    def told(self, names: Sequence[str], most: int = 5) -> str:
        """The classes that are drawn most, with the share of the placed crops."""
        shares = np.zeros(len(self.pixels))
        for frame in range(len(self._starts) - 1):
            np.add.at(shares, self._held(frame), self.chances(frame))
        shares /= max(1, len(self._starts) - 1)
        return ", ".join(f"{names[c]} {100 * shares[c]:.0f} %" for c in np.argsort(-shares, kind="stable")[:most])

    def _held(self, frame: int) -> NDArray[np.uint8]:
        """Ids of the classes in a frame; none of a frame behind those with labels."""
        return (
            self._classes[slice(*self._starts[frame : frame + 2])]
            if frame + 1 < len(self._starts)
            else self._classes[:0]
        )
