"""Pixel relations across a batch's images (Yang, Zhou, An, Jiang, Xu, Zhang, "Cross-Image Relational Knowledge
Distillation for Semantic Segmentation", CVPR 2022, pp. 12319-12328)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from rdd_deploy.losses import Void
from rdd_deploy.losses.checks import above_zero, count, void_rule
from rdd_deploy.losses.maps import map_pair, mean_pooled, unit
from rdd_deploy.losses.processes import BatchParts, gathered, gathered_with_gradient, mean_count, safe
from rdd_deploy.losses.relations import relation_kl
from rdd_deploy.outputs import Output


class CrossImage(nn.Module):
    """For every ordered pair of images (n, m), n = m included: S = F̂_n F̂_mᵀ / τ of the ``head`` maps' unit vectors
    over the channels; ⟨KL(softmax(S^t_row) ‖ softmax(S^s_row))⟩ over rows, mean over pairs. No factor τ².

    Pairs are of the whole batch's images, also where several processes hold a part of them each: every process compares
    its own images with all. Time grows with the square of all images' pixels, memory doesn't: a window of 2 is 16 times
    cheaper.

    Args:
        temperature: τ > 0.
        window: maps are mean-pooled by it first, before they are scaled to unit length.
        void: ``skip``: void pixels are neither rows nor columns, and images without others pair with none. ``keep``:
            they are both.

    Shape: ``head`` maps float (N, D, h, w), any widths; target int (N, H, W) -> float32 scalar; 0 with a zero gradient
    where all is void.

    Raises:
        ValueError: the map is missing, or an option is none of those above.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"head"})

    def __init__(self, temperature: float = 0.1, window: int = 1, void: Void = "skip") -> None:
        super().__init__()
        self.temperature, self.window, self.void = (
            above_zero("temperature", temperature),
            count("window", window),
            void_rule(void),
        )
        self._parts = BatchParts()

    def forward(self, student: Output, teacher: Output, target: Tensor) -> Tensor:
        pair = map_pair(student, teacher, "head", target, self.void)
        with torch.autocast(target.device.type, enabled=False):
            own, valid = mean_pooled(pair.student, pair.valid, self.window)
            other, _ = mean_pooled(pair.teacher, pair.valid, self.window)
            own, other = (unit(one.flatten(2).mT, 2) for one in (own, other))  # (N, P, D); void pixels are 0 in both
            valid = valid.flatten(1)
            parts = self._parts.of(len(own))
            all_own, all_other = (
                gathered_with_gradient(own, parts),
                gathered(other, parts),
            )  # one process after the other
            all_valid = gathered(valid.byte(), parts).bool()
            count, some, all_some = valid.sum(1), valid.any(1), all_valid.any(1)  # (N,)
            # All void: a gradient of 0, not none; and every process takes part in the others' gradients.
            loss = 0 * (own.sum() + all_own.sum())
            for n in range(len(own)):
                for m in range(len(all_own)):
                    divergence = relation_kl(
                        own[n], other[n], all_own[m], all_other[m], self.temperature, valid[n], all_valid[m]
                    )
                    loss = loss + torch.where(some[n] & all_some[m], divergence / safe(count[n]), 0)
            return loss / safe(mean_count(some.sum() * all_some.sum())).float()
