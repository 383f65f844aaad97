"""Pixel-wise knowledge distillation (Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network", 2015)."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from rdd_deploy.data.base import IGNORE
from rdd_deploy.losses.fused import pixel_terms
from rdd_deploy.losses.processes import mean_count, safe
from rdd_deploy.outputs import Output


def pixel_kd(
    student_logits: Tensor, teacher_logits: Tensor, target: Tensor, *, temperature: float = 1.0, ignore_index: int = IGNORE
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
    checked_temperature(temperature)
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
        # In place, for a copy costs a fifth of the whole loss. The gradient is ours alone: every caller's next operation is a softmax or
        # a division, whose backward makes a new tensor.
        return gradient.masked_fill_(~valid[:, None], 0), None


def void_inert(logits: Tensor, valid: Tensor) -> Tensor:
    """The logits (N, C, H, W) unchanged, with exactly no gradient where ``valid`` (N, H, W) is False.

    Leaving void pixels out of a mean isn't enough: where a network says inf or NaN there, the softmax's backward computes 0 · NaN.
    """
    return _VoidInert.apply(logits, valid)  # type: ignore[no-any-return, no-untyped-call]


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of values (any shape) where mask holds, over all processes' pixels; 0 with a zero gradient where it holds nowhere, even beside NaN or inf."""
    return torch.where(mask, values, 0).sum() / safe(mean_count(mask.sum()))


def checked_temperature(temperature: float) -> float:
    """The temperature as it is; ValueError where a loss can't divide by it."""
    if isinstance(temperature, bool) or not isinstance(temperature, (int, float)) or not 0 < temperature < math.inf:
        raise ValueError(f"temperature is {temperature!r}; expected a number above 0")
    return temperature


class PixelKD(nn.Module):
    """``pixel_kd`` as a module, for the table of losses."""

    needs: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, temperature: float = 1.0, ignore_index: int = IGNORE) -> None:
        super().__init__()
        if isinstance(ignore_index, bool) or not isinstance(ignore_index, int):
            raise ValueError(f"ignore_index is {ignore_index!r}; expected a whole number")
        self.temperature, self.ignore_index = checked_temperature(temperature), ignore_index

    def forward(self, student: Output, teacher: Output, target: Tensor) -> Tensor:
        return pixel_kd(student.primary, teacher.primary, target, temperature=self.temperature, ignore_index=self.ignore_index)
