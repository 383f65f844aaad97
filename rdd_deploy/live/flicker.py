"""How many labels change where the image hardly does."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from rdd_deploy.live.types import Array

STILL = 4
"""Grey levels of 255: a pixel that differs by no more from the frame before hardly changed."""
ROWS = 4
"""Flicker is counted on every so many-th row, a quarter of the work."""


def seen(network_input: Array) -> Array:
    """What flicker is told by of a bundle's input, uint8 (1, h, w, 3) BGR: every ROWS-th row in grey, uint8 (rows, w)."""
    return np.asarray(cv2.cvtColor(network_input[0, ::ROWS], cv2.COLOR_BGR2GRAY), np.uint8)


class Flicker:
    """One bundle's, from frame to frame."""

    def __init__(self) -> None:
        self._last: tuple[Array, Array] | None = None

    def add(self, greys: Sequence[Array], labels: Sequence[Array]) -> list[float | None]:
        """Count the next frames, one or more; several at once cost little more than one.

        Args:
            greys: of each frame ``seen``, uint8 (rows, w).
            labels: of each the same rows' class ids, uint8 (rows, w).

        Returns:
            of each the share in [0, 1] of its still pixels whose label isn't that of the frame before; None without a frame before or a
            still pixel.
        """
        first = self._last is None
        before = self._last or (greys[0], labels[0])
        images, classes = (_flat([last, *frames]) for last, frames in zip(before, (greys, labels), strict=True))
        self._last = (greys[-1], labels[-1])
        still = cv2.absdiff(images[1:], images[:-1]) <= STILL
        changed = (classes[1:] != classes[:-1]) & still
        shares = [_share(*frame) for frame in zip(changed, still, strict=True)]
        return [None, *shares[1:]] if first else shares


def _flat(frames: Sequence[Array]) -> Array:
    """One row per frame."""
    return np.stack(frames).reshape(len(frames), -1)


def _share(changed: NDArray[np.bool_], still: NDArray[np.bool_]) -> float | None:
    count = np.count_nonzero(still)
    return np.count_nonzero(changed) / count if count else None
