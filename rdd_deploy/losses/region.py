"""Losses of whole regions, which count a class by its overlap however few pixels it has: Dice and Lovász-softmax."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rdd_deploy.data.base import IGNORE
from rdd_deploy.losses.kd import void_inert
from rdd_deploy.losses.processes import everywhere, gathered, rank, several, total

Region = Literal["dice", "lovasz"]

MOST_PIXELS = 2**13
"""Pixels of an image that Lovász-softmax looks at, every so many-th of each row and column: it sorts those of the batch once a class."""


class RegionLoss(nn.Module):
    """Mean over the classes that the batch's labels hold of 1 − overlap; 0 where all is void. Under several processes it is the whole batch's.

    Args:
        kind: ``dice``: 1 − 2 Σ p·y / (Σ p + Σ y) (Milletari et al., 3DV 2016). ``lovasz``: Lovász-softmax of the Jaccard index (Berman et al.,
            CVPR 2018, Eq. 11, present classes), over at most ``MOST_PIXELS`` pixels an image.

    Shape: logits (N, C, H, W), target int (N, H, W) -> float32 scalar in [0, 1].
    """

    def __init__(self, kind: Region, ignore_index: int = IGNORE) -> None:
        super().__init__()
        if kind not in ("dice", "lovasz"):
            raise ValueError(f"the region loss is {kind!r}; expected 'dice' or 'lovasz'")
        self.kind, self.ignore_index = kind, ignore_index

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        with torch.autocast(logits.device.type, enabled=False):
            if self.kind == "lovasz":
                step = math.ceil(math.sqrt(target[0].numel() / MOST_PIXELS))
                logits, target = logits[..., ::step, ::step], target[:, ::step, ::step]
            valid = target != self.ignore_index
            p = void_inert(logits, valid).float().softmax(1)
            truth = F.one_hot(torch.where(valid, target, 0).long(), logits.shape[1]).permute(0, 3, 1, 2).float() * valid[:, None]
            p = torch.where(valid[:, None], p, 0)
            return _dice(p, truth) if self.kind == "dice" else _lovasz(p.flatten(2), truth.flatten(2), valid.flatten(1))


def _mean_of_present(loss: Tensor, pixels: Tensor) -> Tensor:
    """Mean of (C,) over the classes that have pixels."""
    present = (pixels > 0).float()
    return (loss * present).sum() / present.sum().clamp(min=1)


def _dice(p: Tensor, truth: Tensor) -> Tensor:
    """p, truth: (N, C, H, W), 0 on void."""
    sums = total(torch.stack(((p * truth).sum((0, 2, 3)), p.sum((0, 2, 3)))))
    pixels = everywhere(truth.sum((0, 2, 3)))
    return _mean_of_present(1 - 2 * sums[0] / (sums[1] + pixels).clamp(min=1e-6), pixels)


def _lovasz(p: Tensor, truth: Tensor, valid: Tensor) -> Tensor:
    """p, truth: (N, C, P), 0 on void; valid: bool (N, P)."""
    errors = (truth - p).abs().transpose(0, 1).flatten(1)  # (C, N·P), 0 on void: they come last and weigh nothing
    inside = truth.transpose(0, 1).flatten(1)
    with torch.no_grad():
        # The weight of an error depends on its rank among all processes' errors.
        all_errors, all_inside = (gathered(one.t()).t() for one in (errors, inside)) if several() else (errors, inside)
        order = all_errors.argsort(1, descending=True)
        hits = all_inside.gather(1, order)
        pixels = hits.sum(1)
        union = pixels[:, None] + (1 - hits).cumsum(1)
        jaccard = 1 - (pixels[:, None] - hits.cumsum(1)) / union.clamp(min=1)
        slope = torch.cat((jaccard[:, :1], jaccard[:, 1:] - jaccard[:, :-1]), 1)
        weight = torch.empty_like(slope).scatter_(1, order, slope)
        if several():
            counts = [int(one) for one in gathered(torch.tensor([errors.shape[1]], device=errors.device))]
            first = sum(counts[: rank()])
            weight = weight[:, first : first + errors.shape[1]]
    return _mean_of_present(total((errors * weight).sum(1)), pixels)


def region_loss(kind: str) -> RegionLoss | None:
    """The region loss of ``train.region_loss``; None for ``none``."""
    return None if kind == "none" else RegionLoss(kind)  # type: ignore[arg-type]
