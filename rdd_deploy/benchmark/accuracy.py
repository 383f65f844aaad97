"""Accuracy of a row and its change against the float bundle, from the confusion matrices that the timed inferences
gave.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rdd_deploy.benchmark.images import Images, decode_labels
from rdd_deploy.benchmark.records import Accuracy, Change, Row
from rdd_deploy.benchmark.timing import Measured
from rdd_deploy.metrics import Confusion, iou_from, percent

RESAMPLES = 2000
CONFIDENCE_PCT = 95.0
_BLOCK = 250
"""Resamples at a time: 250 x C x C floats stay small even for many classes."""


def stacked(result: Measured) -> NDArray[np.int64]:
    """Confusion matrices in the images' order, int64 (N, C, C)."""
    return np.stack([result.matrices[image] for image in sorted(result.matrices)])


def accuracy_of(matrices: NDArray[np.int64], drawn: NDArray[np.float64], classes: Sequence[str]) -> Accuracy:
    """mIoU of the one global matrix, with its interval; ``drawn`` is from ``draw``."""
    total = Confusion(classes)
    total.matrix = matrices.sum(0)
    low, high = interval(resampled_miou(matrices, drawn))
    figures: dict[str, Any] = total.summary()
    return Accuracy(miou_low_pct=percent(low) or 0.0, miou_high_pct=percent(high) or 0.0, **figures)


def change_of(
    own: Measured, reference: Measured, name: str, drawn: NDArray[np.float64], classes: Sequence[str], images: Images
) -> Change:
    """The change against a reference row. Both are resampled alike: most of an mIoU's spread is the images', and
    cancels.
    """
    ours, theirs = stacked(own), stacked(reference)
    low, high = interval(resampled_miou(ours, drawn) - resampled_miou(theirs, drawn))
    ours_total, theirs_total = ours.sum(0), theirs.sum(0)
    change = 100 * (iou_from(ours_total) - iou_from(theirs_total))
    worst = int(np.nanargmin(change)) if np.isfinite(change).any() else None
    return Change(
        reference=name,
        miou_change_pct=round(100 * float(np.nanmean(iou_from(ours_total)) - np.nanmean(iou_from(theirs_total))), 3),
        miou_change_low_pct=round(100 * low, 3), miou_change_high_pct=round(100 * high, 3),
        iou_change_pct={label: round(float(value), 3) if np.isfinite(value) else None for label, value in zip(classes, change, strict=True)},
        worst_class=None if worst is None else classes[worst],
        worst_class_change_pct=None if worst is None else round(float(change[worst]), 3),
        label_agreement_pct=_agreement(own, reference, images),
    )  # fmt: skip


def reference_of(row: Row, rows: Sequence[Row]) -> Row | None:
    """What a row is compared with: the fp32 bundle of its own run and input size, ONNX Runtime's first; None without
    one, and for itself.

    PyTorch rows are no reference where a float bundle is there: a bundle is judged against what deploys.
    """

    def kin(one: Row) -> tuple[str | None, int | None, int | None]:
        return one.run, one.input_height, one.input_width

    same = [
        other for other in rows if other.accuracy is not None and other.precision == "fp32" and kin(other) == kin(row)
    ]
    # Stable: else in the order given.
    same.sort(key=lambda other: (other.backend == "torch", other.backend != "onnxruntime"))
    return same[0] if same and same[0].name != row.name else None


def _agreement(own: Measured, reference: Measured, images: Images) -> float:
    """Share of the non-void pixels, in percent, that both call alike."""
    same = known = 0
    for image, encoded in own.labels.items():
        mask = images.known(image)
        same += int(((decode_labels(encoded) == decode_labels(reference.labels[image])) & mask).sum())
        known += int(mask.sum())
    return round(100 * same / known, 3) if known else 100.0


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
    """The central interval that holds ``confidence_pct`` of the values (percentile bootstrap); NaN for
    no finite value.
    """
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
