"""mIoU from one global confusion matrix, in numpy: training, every backend and the edge count the same way."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rdd_deploy.data.base import IGNORE, Frame, Labels, Split


@dataclass
class Confusion:
    """Rows are the truth, columns the prediction, in pixels. Void pixels of the truth never count.

    A class that occurs neither in the truth nor in the prediction has no IoU and stays out of the mean, as is usual for
    CamVid.
    """

    classes: Sequence[str]
    matrix: NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        self.matrix = np.zeros((len(self.classes), len(self.classes)), np.int64)

    def add(self, truth: NDArray[np.uint8], predicted: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Count one or more label maps of equal shape; returns what was added (for bootstrap over images)."""
        if truth.shape != predicted.shape:
            raise ValueError(f"truth is {truth.shape}, prediction is {predicted.shape}; they must be of one size")
        n = len(self.classes)
        known = truth != IGNORE
        true, found = truth[known].astype(np.int64), predicted[known]
        if true.size and max(int(true.max()), int(found.max())) >= n:
            raise ValueError(f"label maps hold ids above {n - 1}, the last of {n} classes")
        added = np.bincount(true * n + found, minlength=n * n).reshape(n, n)
        self.matrix += added
        return added

    @property
    def iou(self) -> NDArray[np.float64]:
        """IoU per class in [0, 1]; NaN for a class that never occurs."""
        return iou_from(self.matrix)

    @property
    def miou(self) -> float:
        """Mean IoU over the classes that occur, in [0, 1]; NaN for an empty matrix."""
        iou = self.iou
        return float(np.nanmean(iou)) if np.isfinite(iou).any() else float("nan")

    @property
    def pixel_accuracy(self) -> float:
        """Share of the non-void pixels that are right, in [0, 1]."""
        total = int(self.matrix.sum())
        return float(np.trace(self.matrix) / total) if total else float("nan")

    def summary(self) -> dict[str, object]:
        """mIoU, pixel accuracy and IoU per class in percent; None for a class that never occurs."""
        return {
            "miou_pct": percent(self.miou),
            "pixel_accuracy_pct": percent(self.pixel_accuracy),
            "iou_pct": {name: percent(value) for name, value in zip(self.classes, self.iou, strict=True)},
        }


def iou_from(matrix: NDArray[np.int64]) -> NDArray[np.float64]:
    """IoU per class from confusion matrices (..., C, C) -> (..., C); NaN for a class that never occurs."""
    hit = np.diagonal(matrix, axis1=-2, axis2=-1).astype(np.float64)
    union = matrix.sum(-1) + matrix.sum(-2) - hit
    with np.errstate(invalid="ignore"):
        return np.where(union > 0, hit / np.where(union > 0, union, 1), np.nan)


def percent(value: float) -> float | None:
    """Fraction to percent, to three decimals; None for NaN."""
    return round(100 * float(value), 3) if np.isfinite(value) else None


Predict = Callable[[list[Frame]], list[Labels]]
"""RGB frames of any size in, label maps at each frame's own size out."""


def evaluate_split(
    predict: Predict,
    split: Split,
    batch: int = 8,
    advance: Callable[[], None] = lambda: None,
    part: tuple[int, int] = (0, 1),
    look: Callable[[Labels, Labels], None] = lambda truth, predicted: None,
) -> Confusion:
    """Count the confusion matrix of a predictor over a whole split.

    Args:
        part: (i, n): every n-th batch only, from the i-th on. Frames are predicted beside the same others whatever n
            is, so the matrices of all n parts add up to that of the whole, exactly.
        look: is shown each frame's truth and prediction.
    """
    confusion = Confusion(split.label_space.classes)
    for indices in itertools.islice(batches(len(split), batch), part[0], None, part[1]):
        frames = [split.frame(i) for i in indices]
        for index, labels in zip(indices, predict(frames), strict=True):
            truth = split.labels(index)
            confusion.add(truth, labels)
            look(truth, labels)
            advance()
    return confusion


def batches(count: int, size: int) -> Iterator[range]:
    """Consecutive index ranges of at most ``size``."""
    for start in range(0, count, size):
        yield range(start, min(start + size, count))


def protocol(data: str, split: str, images: int, size: tuple[int, int], classes: int) -> dict[str, Any]:
    """What is written beside every figure."""
    return {
        "data": data, "split": split, "images": images, "input_height": size[0], "input_width": size[1], "labels_at": "frame",
        "classes": classes,
    }  # fmt: skip
