"""Cross-entropy and KD of every pixel in one fused pass, forward and backward, in blocks that stay in a CPU's cache.

Written with plain autograd, cross-entropy + KD reads or writes the (N, C, H, W) logits about fifteen times, and RDD's
thresholds and weights come on top. Here the logits are read once each way and the gradient is written once:
softmax(s)·(a + b) − a·onehot − b·softmax(t) for per-pixel gradients a of the cross-entropy and b of the divergence.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from rdd_deploy.data.base import IGNORE

BLOCK = 1 << 18
"""Elements of a block on a CPU: 1 MB in float32, what a core's second-level cache holds."""

Part = tuple[slice, slice, slice]


class PixelTerms(NamedTuple):
    """Each float32 (N, H, W). Void pixels hold 0 in all of them and get no gradient."""

    ce: Tensor
    """−log p_s of the true class; has a gradient to the student."""
    kl: Tensor
    """KL(softmax(z_t / T) ‖ softmax(z_s / T)); has a gradient to the student."""
    teacher_true: Tensor
    """The teacher's probability of the true class."""


def blocks(logits: Tensor) -> Iterator[Part]:
    """Index tuples (samples, classes, rows) that cover (N, C, H, W) logits: cache-sized on a CPU, everything at once
    elsewhere.
    """
    count, classes, height, width = logits.shape
    if logits.device.type != "cpu":
        yield slice(None), slice(None), slice(None)
        return
    rows = max(1, BLOCK // (classes * width))
    for n in range(count):
        for y in range(0, height, rows):
            yield slice(n, n + 1), slice(None), slice(y, y + rows)


def pixel_terms(
    student: Tensor,
    teacher: Tensor,
    target: Tensor,
    valid: Tensor,
    temperature: float = 1.0,
    taught: Tensor | None = None,
) -> PixelTerms:
    """Cross-entropy, KD divergence and the teacher's true-class probability per pixel.

    Args:
        student, teacher: float32 logits (N, C, H, W).
        target: int (N, H, W). valid: bool (N, H, W), False on void.
        temperature: T of the divergence, without the factor T².
        taught: bool (N, H, W), where the divergence counts, if that isn't where ``valid`` is.
    """
    return PixelTerms(*_Fused.apply(student, teacher, torch.where(valid, target, 0).long(), valid, temperature, taught))


def true_log_probability(log_p: Tensor, target: Tensor, ignore_index: int = IGNORE) -> Tensor:
    """Log-probability (N, H, W) of each pixel's true class from (N, C, H, W); 0 on void pixels."""
    valid = target != ignore_index
    return torch.where(valid, log_p.gather(1, torch.where(valid, target, 0).long()[:, None])[:, 0], 0)


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        student: Tensor,
        teacher: Tensor,
        index: Tensor,
        valid: Tensor,
        temperature: float,
        taught: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        ce, kl, true = (student.new_zeros(index.shape) for _ in range(3))
        for part in blocks(student):
            maps = part[0], part[2]
            s, t, at, known = student[part], teacher[part], index[maps][:, None], valid[maps]
            log_s, log_t = F.log_softmax(s, 1), F.log_softmax(t, 1)
            ce[maps] = torch.where(known, -log_s.gather(1, at)[:, 0], 0)
            true[maps] = torch.where(known, log_t.gather(1, at)[:, 0].exp(), 0)
            if temperature != 1:
                log_s, log_t = F.log_softmax(s / temperature, 1), F.log_softmax(t / temperature, 1)
            kl[maps] = torch.where(known if taught is None else taught[maps], (log_t.exp() * (log_t - log_s)).sum(1), 0)
        ctx.save_for_backward(student, teacher, index, valid, *([] if taught is None else [taught]))
        ctx.temperature = temperature
        ctx.mark_non_differentiable(true)
        return ce, kl, true

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad_ce: Tensor, grad_kl: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        student, teacher, index, valid, *both = ctx.saved_tensors
        temperature = ctx.temperature
        gradient = torch.empty_like(student)
        for part in blocks(student):
            maps = part[0], part[2]
            a, b, counts = grad_ce[maps][:, None], grad_kl[maps][:, None] / temperature, valid[maps]
            if both:
                a, b = torch.where(counts[:, None], a, 0), torch.where(both[0][maps][:, None], b, 0)
                counts = counts | both[0][maps]
            block = F.softmax(student[part], 1)
            if temperature == 1:
                block.mul_(a + b)
            else:
                block.mul_(a).addcmul_(F.softmax(student[part] / temperature, 1), b)
            block.addcmul_(
                F.softmax(teacher[part] / temperature if temperature != 1 else teacher[part], 1), b, value=-1
            )
            block.scatter_add_(1, index[maps][:, None], -a)
            # Whatever stands at a void pixel, NaN included, stays there.
            gradient[part] = block.masked_fill_(~counts[:, None], 0)
        return gradient, None, None, None, None, None
