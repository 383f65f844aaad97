"""Intra-class feature variation (Wang, Zhou, Jiang, Bai, Xu, "Intra-class Feature Variation Distillation for Semantic
Segmentation", ECCV 2020); its adversarial (holistic) term isn't here.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from rdd_deploy.data.base import IGNORE
from rdd_deploy.losses import Void
from rdd_deploy.losses.checks import void_rule
from rdd_deploy.losses.maps import map_pair, unit
from rdd_deploy.losses.processes import mean_pixels
from rdd_deploy.outputs import Output


class IntraClassVariation(nn.Module):
    """(m^s_i − m^t_i)², mean over the batch's pixels i of ``head``, with m_i = cos(f_i, p) and p the mean f of i's
    class in i's image.

    The gradient also goes through the prototypes p.

    Args:
        void: ``skip``: void pixels don't count; ``keep``: having no class, they count as pixels without a difference.

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
            # (N, h·w).
            difference = prototype_cosine(pair.student, pair.labels) - prototype_cosine(pair.teacher, pair.labels)
            counts = (pair.valid & (pair.labels != IGNORE)).flatten(1)
            return torch.where(counts, difference, 0).square().sum() / mean_pixels(pair.valid)


def prototype_cosine(features: Tensor, labels: Tensor) -> Tensor:
    """Cosine of each pixel's features (N, D, h, w) and the mean ones of its label (N, h, w; 0 to 255) in its image: (N,
    h·w).
    """
    images = torch.arange(len(labels), device=labels.device)[:, None]
    group = (images * (IGNORE + 1) + labels.flatten(1)).flatten()  # (N·h·w,)
    pixels = features.permute(0, 2, 3, 1).flatten(0, 2)  # (N·h·w, D)
    sums = pixels.new_zeros(len(labels) * (IGNORE + 1), pixels.shape[1]).index_add(0, group, pixels)
    prototypes = unit(sums, 1).index_select(0, group)  # a mean's direction is its sum's
    return (unit(pixels, 1) * prototypes).sum(1).view(len(labels), -1)
