"""mIoU per class on the real thing, whatever its format: a run's weights or a bundle, by one protocol.

Protocol: each frame is resized to the network's size, the labels are resized back to the annotation's own size (nearest), and one global
confusion matrix over the split is counted there. Void pixels don't count; the batch size can't matter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from rdd_deploy.data.base import Frame, Labels, Split
from rdd_deploy.metrics import Confusion

Predict = Callable[[list[Frame]], list[Labels]]
"""RGB frames of any size in, label maps at each frame's own size out."""


def evaluate_split(predict: Predict, split: Split, batch: int = 8, advance: Callable[[], None] = lambda: None) -> Confusion:
    """Count the confusion matrix of a predictor over a whole split."""
    confusion = Confusion(split.task.classes)
    for indices in batches(len(split), batch):
        frames = [split.frame(i) for i in indices]
        for index, labels in zip(indices, predict(frames), strict=True):
            confusion.add(split.labels(index), labels)
            advance()
    return confusion


def batches(count: int, size: int) -> Iterator[range]:
    """Consecutive index ranges of at most ``size``."""
    for start in range(0, count, size):
        yield range(start, min(start + size, count))


def protocol(data: str, split: str, images: int, size: tuple[int, int], classes: int) -> dict[str, Any]:
    """What is written beside every figure."""
    return {
        "data": data,
        "split": split,
        "images": images,
        "input_height": size[0],
        "input_width": size[1],
        "labels_at": "frame",
        "classes": classes,
    }
