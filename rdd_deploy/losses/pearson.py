"""Correlated features: squared distance of maps whose channels are standardised (Cao et al., "PKD: General Distillation
Framework for Object Detectors via Pearson Correlation Coefficient", NeurIPS 2022; NFD: Liu, Yang, Chen, arXiv
2207.05256, the same for segmentation).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from rdd_deploy.losses import Void
from rdd_deploy.losses.checks import void_rule
from rdd_deploy.losses.correlation import batch_correlation
from rdd_deploy.losses.maps import map_pair
from rdd_deploy.losses.processes import mean_count
from rdd_deploy.outputs import Output


class PearsonFeatures(nn.Module):
    """1 − ρ(W f_s, f_t) of each channel of ``head``, mean over the teacher's channels; W: a 1×1 convolution without
    bias, trained.

    ρ is Pearson's correlation over the whole batch's pixels: half the squared distance of both, standardised, is 1 − ρ.
    A channel that is constant has ρ = 0 and no gradient.

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
            distance = (1 - batch_correlation(self.project(pair.student), pair.teacher, pair.valid)).mean()
            return torch.where(mean_count(pair.valid.sum()) > 0, distance, 0)
