"""How a frame becomes the network's size and its labels become the frame's: one way, for training's evaluation and every backend."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.uint8]
LARGEST = 4096
"""Pixels of a frame's side up to which a faster way to resize it is looked for: trying it takes a moment, and as much memory."""


def resize_frame(frame: Array, size: tuple[int, int]) -> Array:
    """uint8 (H, W, 3) -> (height, width, 3): area averaging when shrinking, bilinear when growing; the same array if it fits."""
    height, width = size
    if frame.shape[:2] == (height, width):
        return frame
    if height * width >= frame.shape[0] * frame.shape[1]:
        return np.asarray(cv2.resize(frame, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)
    if (places := _area_as_bilinear((frame.shape[0], frame.shape[1]), size)) is not None:
        return np.asarray(cv2.remap(frame, *places, cv2.INTER_LINEAR), np.uint8)
    return np.asarray(cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


@lru_cache(maxsize=16)
def _area_as_bilinear(before: tuple[int, int], after: tuple[int, int]) -> tuple[NDArray[np.float32], NDArray[np.float32]] | None:
    """Where to look bilinearly (x and y, each float32 (height, width)) for the very pixels of area averaging, or None.

    Shrinking by n to n - 1 (480 to 320, 1920 to 1280, 640 to 480) makes each pixel of at most two in a row and two in a column, so that their
    average is a bilinear look-up between them: half the time of ``INTER_AREA`` (0.24 against 0.46 ms from 480x360 to 320x240, one Zen 4
    core, 2026-11-22). OpenCV before 5 rounds the place of a look-up to 1/32 pixel: there, and wherever else a frame of noise doesn't come
    out the same, the answer is None.
    """
    rows, columns = (_places(long, short) for long, short in zip(before, after, strict=True))
    if rows is None or columns is None or max(before) > LARGEST:
        return None
    x, y = (np.ascontiguousarray(one, np.float32) for one in np.meshgrid(columns, rows))
    noise = np.random.default_rng(0).integers(0, 256, (*before, 3), np.uint8)
    same = cv2.remap(noise, x, y, cv2.INTER_LINEAR) == cv2.resize(noise, after[::-1], interpolation=cv2.INTER_AREA)
    return (x, y) if np.all(same) else None


def _places(long: int, short: int) -> NDArray[np.float64] | None:
    """Between which two neighbours of ``long`` each of ``short`` pixels lies, and where; None where it covers three."""
    if not short <= long <= 2 * short:
        return None
    left = np.arange(short) * long / short
    first = np.floor(left + 1e-9)
    share = (left + long / short - first - 1) / (long / short)  # of the second pixel, and of a third, in the average
    return None if np.any(share * long / short > 1 + 1e-9) else first + np.maximum(share, 0)


def resize_labels(labels: Array, size: tuple[int, int]) -> Array:
    """uint8 (h, w) -> (height, width), nearest neighbour, so no class is invented."""
    height, width = size
    if labels.shape == (height, width):
        return labels
    return np.asarray(cv2.resize(labels, (width, height), interpolation=cv2.INTER_NEAREST_EXACT), np.uint8)
