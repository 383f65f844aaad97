"""Test-time augmentation: logits averaged over scales and mirrored frames."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from rdd_deploy.data.base import Frame, Labels
from rdd_deploy.metrics import Predict
from rdd_deploy.models.teachers.base import TeacherModel
from rdd_deploy.models.teachers.second import SecondView
from rdd_deploy.outputs import Output, resized
from rdd_deploy.preprocess import resize_frame, resize_labels


@dataclass(frozen=True)
class TestTimeAugmentation:
    """Which views of a frame a teacher is averaged over.

    Args:
        size: (height, width) of the teacher's own frames; scale 1.
        scales: factors of that size. flip: also mirrored.
    """

    size: tuple[int, int]
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False

    @property
    def single(self) -> bool:
        """Whether there is nothing to average."""
        return len(self.scales) == 1 and not self.flip


def tta_logits(
    teacher: TeacherModel,
    frames: Tensor,
    views: TestTimeAugmentation,
    grid: tuple[int, int],
    precision: torch.dtype | None = None,
) -> Output:
    """Logits of whole frames on a grid; over several views, the log of their mean probability.

    A second opinion that is another view of the frame itself (``SecondView``) isn't averaged: mirrored frames and other
    scales may be among the views, and the average would agree with itself.

    Args:
        frames: uint8 (N, 3, *views.size).
        grid: (height, width) of the result.

    Returns:
        float32 logits (N, C, *grid), auxiliary likewise or None.
    """
    if isinstance(teacher, SecondView) and not views.single:
        averaged = tta_logits(teacher.first, frames, views, grid, precision)
        with torch.autocast(frames.device.type, dtype=precision, enabled=precision is not None):
            second = teacher.second(frames)
        return Output(averaged.primary, F.log_softmax(resized(second.float(), grid), 1))
    sums: list[list[Tensor]] = [[], []]
    for scale in views.scales:
        size = [max(32, round(side * scale)) for side in views.size]
        scaled = frames if scale == 1 else resized(frames.float(), size).round_().to(torch.uint8)
        for mirrored in (False, True) if views.flip else (False,):
            view = scaled.flip(-1) if mirrored else scaled
            with torch.autocast(view.device.type, dtype=precision, enabled=precision is not None):
                output = teacher.logits_at_stride(view)
            for kept, logits in zip(sums, output[:2], strict=True):
                if logits is not None:
                    straight = logits.float().flip(-1) if mirrored else logits.float()
                    kept.append(resized(straight, grid) if views.single else F.log_softmax(resized(straight, grid), 1))
    primary, auxiliary = (
        torch.logsumexp(torch.stack(kept), 0) - math.log(len(kept)) if kept else None for kept in sums
    )
    assert primary is not None
    return Output(primary, auxiliary)


def tta_predictor(
    teacher: TeacherModel,
    views: TestTimeAugmentation,
    device: torch.device | str,
    precision: torch.dtype | None = None,
    grid: tuple[int, int] | None = None,
) -> Predict:
    """A predictor over averaged views, so that a teacher is evaluated exactly as it teaches; ``grid`` of the logits:
    default the cache's.
    """
    grid = grid or cache_grid(views)

    def predict(frames: list[Frame]) -> list[Labels]:
        with torch.inference_mode():
            logits = tta_logits(teacher, stacked(frames, views.size).to(device), views, grid, precision).primary
            labels = resized(logits, views.size).argmax(1).to(torch.uint8).cpu().numpy()
        return [resize_labels(one, frame.shape[:2]) for one, frame in zip(labels, frames, strict=True)]

    return predict


def cache_grid(views: TestTimeAugmentation) -> tuple[int, int]:
    """The cache's resolution: stride 2 of the teacher's frame where finer views are averaged in, else stride 4, the
    heads' own.
    """
    stride = 2 if max(views.scales) > 1 else 4
    return math.ceil(views.size[0] / stride), math.ceil(views.size[1] / stride)


def stacked(frames: list[Frame], size: tuple[int, int]) -> Tensor:
    return torch.from_numpy(np.stack([resize_frame(frame, size) for frame in frames])).permute(0, 3, 1, 2).contiguous()


def describe(views: TestTimeAugmentation) -> dict[str, Any]:
    """The views as JSON values, for the run's summary."""
    return {"height": views.size[0], "width": views.size[1], "scales": list(views.scales), "flip": views.flip}
