"""Flicker: how many labels change where the image hardly does."""

from __future__ import annotations

import cv2
import numpy as np

from rdd_deploy.live.types import Array

STILL = 4
"""Grey levels of 255: a pixel that differs by no more from the frame before hardly changed."""
ROWS = 4
"""Flicker is counted on every so many-th row, a quarter of the work."""


def grey_rows(network_input: Array) -> Array:
    """Every ROWS-th row of a bundle's input, uint8 (1, h, w, 3) BGR, in grey: uint8 (rows, w)."""
    return np.asarray(cv2.cvtColor(network_input[0, ::ROWS], cv2.COLOR_BGR2GRAY), np.uint8)


class Flicker:
    """The flicker of one bundle, from frame to frame."""

    def __init__(self) -> None:
        self._last: tuple[Array, Array] | None = None

    def add(self, grey: Array, labels: Array) -> float | None:
        """Count the next frame.

        Args:
            grey: its ``grey_rows``, uint8 (rows, w).
            labels: class ids of the same rows, uint8 (rows, w).

        Returns:
            Share in [0, 1] of the still pixels whose label isn't that of the frame before; None without a frame before
            or a still pixel.
        """
        last, self._last = self._last, (grey, labels)
        # Another bundle took its place.
        if last is None or len({grey.shape, labels.shape, last[0].shape, last[1].shape}) > 1:
            return None
        still = cv2.absdiff(grey, last[0]) <= STILL
        count = np.count_nonzero(still)
        return np.count_nonzero((labels != last[1]) & still) / count if count else None
