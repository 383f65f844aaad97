"""Supervised losses for teachers and baselines: plain, hard pixels only (OHEM), class-balanced."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rdd_deploy.data.base import IGNORE
from rdd_deploy.losses.fused import true_log_probability
from rdd_deploy.losses.kd import masked_mean, void_inert
from rdd_deploy.losses.processes import mean_count, safe
from rdd_deploy.losses.ranks import ohem_pixels


class TaskLoss(nn.Module):
    """Cross-entropy in float32, void pixels left out; under several processes means and ranks are those of the whole
    batch.

    Args:
        kind: ``ce``: mean over pixels. ``ohem``: mean over hard pixels, see ``ohem_pixels``. ``balanced``: weighted by class (see ``class_weights``).
        class_weight: float (C,), for ``balanced``.
        min_kept_per_class: for ``ohem``: at least so many of the hardest pixels of each class that is there.

    Shape: logits (N, C, H, W), target int (N, H, W) -> scalar.
    """

    class_weight: Tensor | None

    def __init__(
        self,
        kind: str = "ce",
        class_weight: Tensor | None = None,
        ignore_index: int = IGNORE,
        min_kept_per_class: float = 0,
    ) -> None:
        super().__init__()
        if kind == "balanced" and class_weight is None:
            raise ValueError("the balanced task loss needs class weights")
        self.kind, self.ignore_index, self.min_kept_per_class = kind, ignore_index, min_kept_per_class
        # Counted again from the data, when resumed.
        self.register_buffer("class_weight", class_weight, persistent=False)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        with torch.autocast(logits.device.type, enabled=False):
            kept = target != self.ignore_index
            logits = void_inert(logits, kept)
            if self.kind == "balanced":
                assert self.class_weight is not None
                weights = torch.where(kept, self.class_weight[torch.where(kept, target, 0).long()], 0)
                return -(weights * self._log_p(logits, target)).sum() / safe(mean_count(weights.sum()))
            log_p = self._log_p(logits, target)
            if self.kind == "ohem":
                kept = ohem_pixels(log_p.detach().exp(), kept, target, logits.shape[1], self.min_kept_per_class)
            return masked_mean(-log_p, kept)

    def _log_p(self, logits: Tensor, target: Tensor) -> Tensor:
        """Of the true class, (N, H, W); by gathering, for torch's own loss of maps isn't deterministic on a GPU."""
        return true_log_probability(F.log_softmax(logits.float(), 1), target, self.ignore_index)


def class_weights(pixels: Tensor, power: float = 0.5, limit: float = 5.0) -> Tensor:
    """Weights (C,) ∝ (median share / share)^power, at most ``limit``; median-frequency balancing (Eigen & Fergus, ICCV
    2015) softened.

    Args:
        pixels: pixels per class in the train split; a class without pixels gets weight 1.
    """
    share = pixels.double() / pixels.sum()
    seen = share > 0
    weights = torch.ones_like(share)
    weights[seen] = (share[seen].median() / share[seen]).pow(power).clamp(1 / limit, limit)
    return weights.float()
