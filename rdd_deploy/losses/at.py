"""Attention transfer (Zagoruyko, Komodakis, "Paying More Attention to Attention: Improving the Performance of
Convolutional Neural Networks via Attention Transfer", ICLR 2017).
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from rdd_deploy.losses import Void
from rdd_deploy.losses.checks import void_rule
from rdd_deploy.losses.maps import map_pair, unit
from rdd_deploy.losses.processes import mean_images
from rdd_deploy.outputs import Output


class AttentionTransfer(nn.Module):
    """Σ_i (Q_s,i − Q_t,i)² over an image's pixels i of ``head``, mean over images; Q: see ``attention``.

    It is a sum over pixels, so that its weight means the same at every crop and stride. Code that divides it by the P
    pixels takes P times the weight.

    Args:
        void: ``skip``: void pixels have no attention, and images without valid pixels don't count; ``keep``: all pixels
            and images count.

    Shape:
        - ``head`` (N, D, h, w) of the student, (N, E, h', w') of the teacher, any widths; target int (N, H, W) ->
          float32 scalar, 0 where all is void.

    Raises:
        ValueError: void is neither.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"head"})

    def __init__(self, void: Void = "skip") -> None:
        super().__init__()
        self.void = void_rule(void)

    def forward(self, student: Output, teacher: Output, target: Tensor) -> Tensor:
        pair = map_pair(student, teacher, "head", target, self.void)
        with torch.autocast(target.device.type, enabled=False):
            return (attention(pair.student) - attention(pair.teacher)).square().sum() / mean_images(pair.valid)


def attention(features: Tensor) -> Tensor:
    """Q = q / ‖q‖₂ over each image's pixels with q_i = Σ_d f_id²: (N, D, h, w) -> (N, h·w); 0 without gradient for
    features that are all 0.
    """
    return unit(features.square().sum(1).flatten(1), 1)
