"""How a frame becomes the network's size and its labels the frame's: one way, for training's evaluation and every
backend.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.uint8]


ALIASING = 2.5
"""Shrinking in one direction from which bilinear interpolation, which looks at two pixels, would overlook too many."""


def resize_frame(frame: Array, size: tuple[int, int], shrink_from: float = ALIASING) -> Array:
    """uint8 (H, W, 3) -> (height, width, 3); the same array if it fits. A bundle's manifest says the rule:
    ``runtime.manifest.Preprocessing``.

    Halved, by averaging 2x2 pixels, as often as both sides are even and stay large enough; what is left is bilinear, or
    averages the exact areas where it shrinks by ``shrink_from`` or more. Exact areas everywhere would cost several
    times as much, for no network's good (docs/design.md, decisions).
    """
    height, width = size
    while (
        frame.shape[0] >= 2 * height and frame.shape[1] >= 2 * width and not (frame.shape[0] % 2 or frame.shape[1] % 2)
    ):
        frame = _resize(frame, (frame.shape[0] // 2, frame.shape[1] // 2), cv2.INTER_AREA)
    if frame.shape[:2] == (height, width):
        return frame
    shrinks = max(frame.shape[0] / height, frame.shape[1] / width)
    return _resize(frame, size, cv2.INTER_LINEAR if shrinks < shrink_from else cv2.INTER_AREA)


def _resize(frame: Array, size: tuple[int, int], how: int) -> Array:
    return np.asarray(cv2.resize(frame, size[::-1], interpolation=how), np.uint8).reshape(*size, 3)


def resize_labels(labels: Array, size: tuple[int, int]) -> Array:
    """uint8 (h, w) -> (height, width), nearest neighbour, so no class is invented."""
    height, width = size
    if labels.shape == (height, width):
        return labels
    return np.asarray(cv2.resize(labels, (width, height), interpolation=cv2.INTER_NEAREST_EXACT), np.uint8)
