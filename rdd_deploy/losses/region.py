"""Losses of whole regions, which count a class by its overlap however few pixels it has: Dice and Lovász-softmax."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from rdd_deploy.data.base import IGNORE
from rdd_deploy.losses.kd import void_inert
from rdd_deploy.losses.processes import BatchParts, everywhere, gathered, gathered_with_gradient, total

Region = Literal["dice", "lovasz"]

MOST_PIXELS = 2**13
"""Pixels of an image that Lovász-softmax looks at, every so many-th of each row and column: it sorts those of the batch once a class."""


class RegionLoss(nn.Module):
    """Mean over the classes that the batch's labels hold of 1 − overlap; 0 where all is void. Under several processes
    it is the whole batch's.

    Args:
        kind: ``dice``: 1 − 2 Σ p·y / (Σ p + Σ y) (Milletari et al., 3DV 2016). ``lovasz``: Lovász-softmax of the
            Jaccard index (Berman et al., CVPR 2018, Eq. 11, present classes), over at most ``MOST_PIXELS`` pixels an
            image.

    Shape: logits (N, C, H, W), target int (N, H, W) -> float32 scalar in [0, 1].
    """

    def __init__(self, kind: Region, ignore_index: int = IGNORE) -> None:
        super().__init__()
        if kind not in ("dice", "lovasz"):
            raise ValueError(f"the region loss is {kind!r}; expected 'dice' or 'lovasz'")
        self.kind, self.ignore_index, self._parts = kind, ignore_index, BatchParts()

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        with torch.autocast(logits.device.type, enabled=False):
            if self.kind == "lovasz":
                step = math.ceil(math.sqrt(target[0].numel() / MOST_PIXELS))
                logits, target = logits[..., ::step, ::step], target[:, ::step, ::step]
            valid = target != self.ignore_index
            p = torch.where(valid[:, None], void_inert(logits, valid).float().softmax(1), 0)
            classes = torch.arange(logits.shape[1], device=logits.device)[:, None, None]
            truth = (target[:, None] == classes) & valid[:, None]
            return _dice(p, truth) if self.kind == "dice" else _lovasz(p, truth, self._parts.of(len(target)))


def _mean_of_present(loss: Tensor, pixels: Tensor) -> Tensor:
    """Mean of (C,) over the classes that have pixels."""
    present = (pixels > 0).float()
    return (loss * present).sum() / present.sum().clamp(min=1)


def _dice(p: Tensor, truth: Tensor) -> Tensor:
    """p: float (N, C, H, W), truth: bool; both 0 on void."""
    sums = total(torch.stack(((p * truth).sum((0, 2, 3)), p.sum((0, 2, 3)))))
    pixels = everywhere(truth.sum((0, 2, 3)))
    return _mean_of_present(1 - 2 * sums[0] / (sums[1] + pixels).clamp(min=1e-6), pixels)


def _lovasz(p: Tensor, truth: Tensor, parts: Sequence[int]) -> Tensor:
    """p: float (N, C, H, W), truth: bool; both 0 on void, whose errors of 0 come last and weigh nothing. parts: images of
    each process.
    """
    # An error's weight depends on its rank among those of all processes.
    pixels_of_each = [images * p[0, 0].numel() for images in parts]
    errors, inside = (one.transpose(1, -1).flatten(0, 2) for one in ((truth.float() - p).abs(), truth.byte()))
    errors = gathered_with_gradient(errors, pixels_of_each).t()  # (C, pixels of all)
    inside = gathered(inside, pixels_of_each).t()
    errors, order = errors.sort(1, descending=True)
    with torch.no_grad():
        hits = inside.gather(1, order).long()
        pixels = hits.sum(1)
        union = pixels[:, None] + (1 - hits).cumsum(1)
        jaccard = 1 - (pixels[:, None] - hits.cumsum(1)) / union.clamp(min=1)
        slope = torch.cat((jaccard[:, :1], jaccard.diff(dim=1)), 1)
    return _mean_of_present((errors * slope).sum(1), pixels)


def region_loss(kind: str) -> RegionLoss | None:
    """The region loss of ``train.region_loss``; None for ``none``."""
    return None if kind == "none" else RegionLoss(kind)  # type: ignore[arg-type]
