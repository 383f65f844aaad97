"""Pixel-wise knowledge distillation, also of standardised logits, also with more weight along the labels' edges.

Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network", NIPS workshop 2014,
https://arxiv.org/abs/1503.02531. Standardised logits: Sun, Ren, Li, Wang, Cao, "Logit Standardization in Knowledge
Distillation", CVPR 2024. The edge band: Liu et al., "BPKD: Boundary Privileged Knowledge Distillation for Semantic
Segmentation", WACV 2024, as a weight of the same term.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rdd_deploy.data.base import IGNORE
from rdd_deploy.losses import Void
from rdd_deploy.losses.checks import above_zero, count, truth, void_rule
from rdd_deploy.losses.fused import pixel_terms
from rdd_deploy.losses.maps import centres, map_pair, same_classes, unit
from rdd_deploy.losses.processes import mean_count, mean_pixels, safe
from rdd_deploy.outputs import Output


def pixel_kd(
    student_logits: Tensor,
    teacher_logits: Tensor,
    target: Tensor,
    *,
    temperature: float = 1.0,
    ignore_index: int = IGNORE,
) -> Tensor:
    """T² · mean over non-void pixels of KL(softmax(z_t / T) ‖ softmax(z_s / T)), in float32 also under autocast.

    Args:
        student_logits: float (N, C, H, W); receives the gradient.
        teacher_logits: float (N, C, H, W); receives none.
        target: int (N, H, W); only its void pixels matter: they don't count.
        temperature: T > 0.

    Returns:
        float32 scalar ≥ 0; 0 with a zero gradient where every pixel is void.

    Raises:
        ValueError: a temperature that isn't above 0.
    """
    above_zero("temperature", temperature)
    with torch.autocast(student_logits.device.type, enabled=False):
        valid = target != ignore_index
        terms = pixel_terms(student_logits.float(), teacher_logits.detach().float(), target, valid, temperature)
        return temperature**2 * masked_mean(terms.kl, valid)


class _VoidInert(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, valid: Tensor) -> Tensor:
        ctx.save_for_backward(valid)
        return logits.view_as(logits)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        (valid,) = ctx.saved_tensors
        # In place, for a copy costs a fifth of the whole loss. The gradient is ours alone: every caller's next
        # operation is a softmax or a division, whose backward makes a new tensor.
        return gradient.masked_fill_(~valid[:, None], 0), None


def void_inert(logits: Tensor, valid: Tensor) -> Tensor:
    """The logits (N, C, H, W) unchanged, with exactly no gradient where ``valid`` (N, H, W) is False.

    Leaving void pixels out of a mean isn't enough: where a network says inf or NaN there, the softmax's backward
    computes 0 · NaN.
    """
    return _VoidInert.apply(logits, valid)  # type: ignore[no-any-return, no-untyped-call]


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of values (any shape) where mask holds, over all processes' pixels; 0 with a zero gradient where it holds
    nowhere, even beside NaN or inf.
    """
    return torch.where(mask, values, 0).sum() / mean_pixels(mask)


class PixelKD(nn.Module):
    """T² · Σ w_i · KL(softmax(z_t / T) ‖ softmax(z_s / T)) / Σ w_i over the pixels i of ``logits``, at their own
    stride.

    Args:
        temperature: T > 0.
        standardize: subtract from each pixel's logits their mean over the classes and divide by their standard
            deviation (of the C values, not C − 1) before the softmax, so that the student needs not match the logits'
            size. A pixel whose logits are all equal gives equal probabilities and gets no gradient. About T = 2 and
            weight 9 in the paper, on classification.
        edge_weight: w > 0 of pixels in the edge band (see ``edge_band``); that of all others is 1.
        edge_width: half the band's width in pixels of the labels, 1 or more.
        void: ``skip``: void pixels have w = 0; ``keep``: they count like all others.

    Shape:
        - ``logits`` (N, C, h, w) of the student, (N, C, h', w') of the teacher; target int (N, H, W) -> float32 scalar,
          0 where all is void.

    Raises:
        ValueError: an option isn't as above; student and teacher differ in classes.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"logits"})

    def __init__(
        self,
        temperature: float = 1.0,
        standardize: bool = False,
        edge_weight: float = 1.0,
        edge_width: int = 8,
        void: Void = "skip",
    ) -> None:
        super().__init__()
        self.temperature, self.standardize = above_zero("temperature", temperature), truth("standardize", standardize)
        self.edge_weight, self.edge_width = above_zero("edge_weight", edge_weight), count("edge_width", edge_width)
        self.void = void_rule(void)

    def forward(self, student: Output, teacher: Output, target: Tensor) -> Tensor:
        pair = same_classes(map_pair(student, teacher, "logits", target, self.void), "kd")
        with torch.autocast(target.device.type, enabled=False):
            own, other = (self._log_softmax(logits) for logits in (pair.student, pair.teacher))
            divergence = (other.exp() * (other - own)).sum(1)  # (N, h, w)
            weight = pair.valid.float()
            if self.edge_weight != 1:
                band = edge_band(target, (weight.shape[-2], weight.shape[-1]), self.edge_width)
                weight = torch.where(band, self.edge_weight * weight, weight)
            return self.temperature**2 * (weight * divergence).sum() / safe(mean_count(weight.sum()))

    def _log_softmax(self, logits: Tensor) -> Tensor:
        return F.log_softmax((standardized(logits) if self.standardize else logits) / self.temperature, 1)


def standardized(logits: Tensor) -> Tensor:
    """Logits (N, C, h, w) with mean 0 and standard deviation 1 over the classes; 0 without gradient where they are all
    equal.
    """
    deviation = logits - logits.mean(1, keepdim=True)
    # The mean is rounded, so equal logits may seem to deviate.
    equal = deviation.detach().abs().amax(1, keepdim=True) <= 1e-6 * logits.detach().abs().amax(1, keepdim=True)
    return math.sqrt(logits.shape[1]) * unit(deviation.masked_fill(equal, 0), 1)


def edge_band(target: Tensor, size: tuple[int, int], width: int) -> Tensor:
    """Cells of a map around whose centre the labels change.

    A cell is in the band where labels of two classes lie in the square of 2 · width + 1 label pixels around its centre.
    That is measured in the labels' own pixels, so that the band also holds what is thinner than a cell. Void is no
    class.

    Args:
        target: int (N, H, W). size: (height, width) of the map. width: in pixels of the labels.

    Returns:
        bool (N, height, width)
    """
    void = target == IGNORE
    lowest, highest = (target.to(torch.int16).masked_fill(void, filling) for filling in (IGNORE + 1, -1))
    for axis in (1, 2):  # a max-pool, and only at the cells' centres
        given = target.shape[axis]
        inside = min(width, given - 1)
        reach = torch.arange(-inside, inside + 1, device=target.device)
        # (cells, 2 · inside + 1).
        window = (centres(given, size[axis - 1], target.device)[:, None] + reach).clamp(0, given - 1)
        apart = (*lowest.shape[:axis], *window.shape, *lowest.shape[axis + 1 :])
        lowest = lowest.index_select(axis, window.flatten()).view(apart).amin(axis + 1)
        highest = highest.index_select(axis, window.flatten()).view(apart).amax(axis + 1)
    return highest > lowest
