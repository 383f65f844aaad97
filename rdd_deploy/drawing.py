"""Label colours over a frame, and comparisons of label maps."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from rdd_deploy.data.base import IGNORE, Frame, Labels, LabelSpace

Array = NDArray[np.uint8]

OPACITY_STEP = 0.1


class Overlay:
    """Blends label colours into frames; its buffers are reused.

    Args:
        palette: uint8 (C, 3) RGB.
        opacity: share of the colour, in [0, 1].
    """

    def __init__(self, palette: Array, opacity: float) -> None:
        table = np.zeros((256, 1, 3), np.uint8)
        table[: len(palette), 0] = palette[:, ::-1]
        self._table = table
        self._colour: Array | None = None
        self.opacity = opacity

    def draw(self, frame: Array, labels: Array, canvas: Array | None = None) -> Array:
        """Frame uint8 (H, W, 3) BGR, labels (H, W) -> uint8 (H, W, 3), a new array or ``canvas``. The frame stays as it
        is.
        """
        self._colour = cv2.applyColorMap(labels, self._table, self._colour)  # type: ignore[assignment]
        assert self._colour is not None
        return np.asarray(cv2.addWeighted(frame, 1 - self.opacity, self._colour, self.opacity, 0, canvas), np.uint8)


def step(opacity: float, direction: int) -> float:
    """The next opacity, kept in [0, 1]."""
    return min(1.0, max(0.0, round(opacity + direction * OPACITY_STEP, 2)))


def disagreement(first: Array, second: Array) -> float:
    """Share of the pixels, in [0, 1], that two label maps of one size call differently."""
    return cv2.countNonZero(cv2.compare(first, second, cv2.CMP_NE)) / first.size


def coloured(labels: Labels, label_space: LabelSpace) -> Frame:
    """Label map (H, W) -> RGB (H, W, 3); void is black."""
    table = np.zeros((256, 3), np.uint8)
    table[: len(label_space)] = label_space.palette
    table[IGNORE] = 0
    return table[labels]
