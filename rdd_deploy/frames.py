"""How a frame becomes the network's size and its labels become the frame's: one way, for training's evaluation and every backend."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.uint8]


def resize_frame(frame: Array, size: tuple[int, int]) -> Array:
    """uint8 (H, W, 3) -> (height, width, 3): area averaging when shrinking, bilinear when growing; the same array if it fits."""
    height, width = size
    if frame.shape[:2] == (height, width):
        return frame
    shrinks = height * width < frame.shape[0] * frame.shape[1]
    return np.asarray(cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR), np.uint8)


def resize_labels(labels: Array, size: tuple[int, int]) -> Array:
    """uint8 (h, w) -> (height, width), nearest neighbour, so no class is invented."""
    height, width = size
    if labels.shape == (height, width):
        return labels
    return np.asarray(cv2.resize(labels, (width, height), interpolation=cv2.INTER_NEAREST_EXACT), np.uint8)
