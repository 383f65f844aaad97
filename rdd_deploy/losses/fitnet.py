"""FitNet's hint (Romero, Ballas, Kahou, Chassang, Gatta, Bengio, "FitNets: Hints for Thin Deep Nets", ICLR 2015)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from rdd_deploy.losses import Void
from rdd_deploy.losses.checks import void_rule
from rdd_deploy.losses.maps import map_pair
from rdd_deploy.losses.processes import mean_pixels
from rdd_deploy.outputs import Output


class FitNet(nn.Module):
    """(W f_s − f_t)², mean over the batch's pixels and the teacher's channels of ``head``; W: a 1×1 convolution without
    bias, trained.

    The paper's own training of the lower layers by the hint, before the rest, is left out, as in all later comparisons.

    Args:
        void: ``skip``: void pixels don't count; ``keep``: they do.
        student_channels, teacher_channels: width of each network's ``head``.

    Shape:
        - ``head`` (N, D, h, w) of the student, (N, E, h', w') of the teacher; target int (N, H, W) -> float32 scalar, 0
          where all is void.

    Raises:
        ValueError: void is neither.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"head"})

    def __init__(
        self, void: Void = "skip", *, student_channels: Mapping[str, int], teacher_channels: Mapping[str, int]
    ) -> None:
        super().__init__()
        self.void = void_rule(void)
        self.project = nn.Conv2d(student_channels["head"], teacher_channels["head"], 1, bias=False)

    def forward(self, student: Output, teacher: Output, target: Tensor) -> Tensor:
        pair = map_pair(student, teacher, "head", target, self.void)
        with torch.autocast(target.device.type, enabled=False):
            difference: Tensor = self.project(pair.student) - pair.teacher  # 0 on void pixels, like both maps
            return difference.square().sum() / (difference.shape[1] * mean_pixels(pair.valid))
