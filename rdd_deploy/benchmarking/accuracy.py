"""Accuracy of a row and its change against the float bundle, from the confusion matrices that the timed inferences gave."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rdd_deploy.benchmarking.bootstrap import interval, resampled_miou
from rdd_deploy.benchmarking.images import Images, decode_labels
from rdd_deploy.benchmarking.measure import Measured
from rdd_deploy.benchmarking.records import Accuracy, Change, Row
from rdd_deploy.metrics import Confusion, iou_from


def stacked(result: Measured) -> NDArray[np.int64]:
    """Confusion matrices in the images' order, int64 (N, C, C)."""
    return np.stack([result.matrices[image] for image in sorted(result.matrices)])


def accuracy_of(matrices: NDArray[np.int64], drawn: NDArray[np.float64], classes: Sequence[str]) -> Accuracy:
    """mIoU of the one global matrix, with its interval; ``drawn`` is from ``bootstrap.draw``."""
    total = Confusion(classes)
    total.matrix = matrices.sum(0)
    low, high = interval(resampled_miou(matrices, drawn))
    return Accuracy(
        miou_pct=_percent(total.miou), miou_low_pct=_percent(low), miou_high_pct=_percent(high),
        pixel_accuracy_pct=_percent(total.pixel_accuracy),
        iou_pct={name: _percent(value) if np.isfinite(value) else None for name, value in zip(classes, total.iou, strict=True)},
    )  # fmt: skip


def change_of(own: Measured, reference: Measured, name: str, drawn: NDArray[np.float64], classes: Sequence[str], images: Images) -> Change:
    """The change against a reference row. Both are resampled alike: most of an mIoU's spread is the images', and cancels."""
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
    """What a row is compared with: the fp32 bundle of its own run and input size, ONNX Runtime's first; None without one, and for itself.

    PyTorch rows are no reference where a float bundle is there: a bundle is judged against what deploys.
    """

    def kin(one: Row) -> tuple[str | None, int | None, int | None]:
        return one.run, one.input_height, one.input_width

    same = [other for other in rows if other.accuracy is not None and other.precision == "fp32" and kin(other) == kin(row)]
    same.sort(key=lambda other: (other.backend == "torch", other.backend != "onnxruntime"))  # stable: else in the order given
    return same[0] if same and same[0].name != row.name else None


def _agreement(own: Measured, reference: Measured, images: Images) -> float:
    """Share of the non-void pixels, in percent, that both call alike."""
    same = known = 0
    for image, encoded in own.labels.items():
        mask = images.known(image)
        same += int(((decode_labels(encoded) == decode_labels(reference.labels[image])) & mask).sum())
        known += int(mask.sum())
    return round(100 * same / known, 3) if known else 100.0


def _percent(value: float) -> float:
    """Fraction -> percent; an empty matrix counts as 0."""
    return round(100 * float(value), 3) if np.isfinite(value) else 0.0
