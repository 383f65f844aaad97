"""Small pictures for the page: a frame, and beside it the frame with its mask drawn in."""

from __future__ import annotations

import base64

import cv2
import numpy as np

from rdd_deploy.data.base import IGNORE, Frame, Labels, Split
from rdd_deploy.errors import DataError
from rdd_deploy.preprocess import resize_frame, resize_labels

ALL_BYTES = 2_400_000
"""Of all pictures of a page together, as files."""
_OPACITY = 0.6
_FORMS = ((260, 80), (220, 70), (180, 60), (140, 50), (110, 40), (80, 30))
"""(width of each half, JPEG quality), the first that is small enough counts."""
_LONGEST = 3.0
"""Height of a picture at most, in widths."""


def picture(split: Split, index: int, at_most: int) -> str | None:
    """A sample as a data address of a JPEG of about so many bytes; None where it can't be read any more."""
    try:
        frame, labels = split.frame(index), split.labels(index)
    except DataError:
        return None
    content = b""
    for width, quality in _FORMS:
        content = _jpeg(frame, labels, split, width, quality)
        if len(content) <= at_most:
            break
    return "data:image/jpeg;base64," + base64.b64encode(content).decode("ascii")


def _jpeg(frame: Frame, labels: Labels, split: Split, width: int, quality: int) -> bytes:
    height = min(max(1, round(frame.shape[0] * width / frame.shape[1])), round(_LONGEST * width))
    small, mask = resize_frame(frame, (height, width)), resize_labels(labels, (height, width))
    table = np.zeros((IGNORE + 1, 3), np.float32)
    table[: len(split.label_space)] = split.label_space.palette
    drawn = np.where((mask == IGNORE)[..., None], small * 0.25, small * (1 - _OPACITY) + table[mask] * _OPACITY)
    both = np.concatenate([small, drawn.astype(np.uint8)], axis=1)
    return cv2.imencode(".jpg", both[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
