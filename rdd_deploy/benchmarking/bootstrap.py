"""How sure an mIoU is: images are drawn again with replacement, and the global matrix is counted anew each time."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rdd_deploy.metrics import iou_from

RESAMPLES = 2000
CONFIDENCE_PCT = 95.0
_BLOCK = 250
"""Resamples at a time: 250 x C x C floats stay small even for many classes."""


def draw(images: int, resamples: int = RESAMPLES, seed: int = 0) -> NDArray[np.float64]:
    """How often each image occurs in each resample, float64 (resamples, images); each line sums to ``images``."""
    generator = np.random.default_rng(seed)
    return generator.multinomial(images, np.full(images, 1 / images), size=resamples).astype(np.float64)


def resampled_miou(matrices: NDArray[np.int64], drawn: NDArray[np.float64]) -> NDArray[np.float64]:
    """mIoU of each resample in [0, 1], float64 (resamples,).

    Args:
        matrices: confusion matrices of the images, int64 (N, C, C).
        drawn: from ``draw``, (resamples, N). Use the same draw for two bundles to compare them on the same images.
    """
    count, classes = matrices.shape[:2]
    flat = matrices.reshape(count, classes * classes).astype(np.float64)
    parts = []
    for start in range(0, len(drawn), _BLOCK):
        summed = drawn[start : start + _BLOCK] @ flat  # (block, C*C)
        parts.append(_mean_iou(np.rint(summed).astype(np.int64).reshape(-1, classes, classes)))
    return np.concatenate(parts)


def interval(values: NDArray[np.float64], confidence_pct: float = CONFIDENCE_PCT) -> tuple[float, float]:
    """The central interval that holds ``confidence_pct`` of the values (percentile bootstrap); NaN for no finite value."""
    finite = values[np.isfinite(values)]
    if not finite.size:
        return float("nan"), float("nan")
    tail = (100 - confidence_pct) / 2
    low, high = np.percentile(finite, [tail, 100 - tail])
    return float(low), float(high)


def _mean_iou(matrices: NDArray[np.int64]) -> NDArray[np.float64]:
    """(B, C, C) -> (B,): mean over the classes that occur; NaN for an empty matrix."""
    iou = iou_from(matrices)
    known = np.isfinite(iou)
    count = known.sum(-1)
    total = np.where(known, iou, 0).sum(-1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)
