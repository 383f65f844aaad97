"""What the threads hand to each other: a captured frame, predictions, and both together as a result."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.uint8]


@dataclass(frozen=True)
class CapturedFrame:
    """One frame from the source.

    Attributes:
        frame: uint8 (H, W, 3) BGR; a bad source may deliver anything else, which is reported and skipped.
        index: number of the frame in the source, from 0.
        name: file stem, or the index as six digits.
        grabbed_s: ``time.perf_counter()`` when the source gave it, before it was decoded where the source tells these
            apart.
        capture_ms: what reading and decoding took.
        at_s: when it is in a file, in seconds by the file's own time stamps; None where there are none.
        truth: labels uint8 (H, W) with 255 for void, where there are any.
    """

    frame: Array
    index: int
    name: str
    grabbed_s: float
    capture_ms: float
    truth: Array | None = None
    at_s: float | None = None


@dataclass(frozen=True)
class Prediction:
    """The labels that one bundle gave, uint8 (1, h, w) at its own size."""

    bundle: int
    labels: Array
    prepare_ms: float
    infer_ms: float
    flicker: float | None = None
    """Share of the still pixels whose label changed since the frame before, in [0, 1]; None without a frame before."""


@dataclass(frozen=True)
class Result:
    """A frame with its predictions: one, or two in split view."""

    captured: CapturedFrame
    predictions: tuple[Prediction, ...]
