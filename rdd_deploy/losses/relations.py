"""Distances between two networks' relations of vectors; the gradient is made with the value, so that no matrix of
relations outlives it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

BLOCK = 1 << 22
"""Entries of the matrix at a time: 16 MB in float32, of which about six are held."""


def relation_kl(
    own: Tensor, other: Tensor, own_columns: Tensor, other_columns: Tensor, temperature: float, rows: Tensor | None = None, columns: Tensor | None = None
) -> Tensor:  # fmt: skip
    """Σ over rows of KL(softmax(other · other_columnsᵀ / T) ‖ softmax(own · own_columnsᵀ / T)).

    Memory grows with the rows, not with rows · columns: blocks of rows go forward and back at once, so the gradient is
    ready with the value.

    Args:
        own: float32 (R, D), and own_columns: (K, D): the student's; both get a gradient.
        other: float32 (R, E), and other_columns: (K, E): the teacher's.
        temperature: T > 0.
        rows: bool (R,), columns: bool (K,): those that count, if not all do. Selecting them would make the host wait
            for a GPU.

    Returns:
        float32 scalar; 0 without rows or columns.
    """
    return _RelationKL.apply(own, other, own_columns, other_columns, temperature, rows, columns)  # type: ignore[no-any-return, no-untyped-call]


class _RelationKL(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, own: Tensor, other: Tensor, own_columns: Tensor, other_columns: Tensor, temperature: float, rows: Tensor | None, columns: Tensor | None
    ) -> Tensor:  # fmt: skip
        of_rows, of_columns = torch.zeros_like(own), torch.zeros_like(own_columns)
        total = own.new_zeros(())
        step = max(1, BLOCK // max(1, len(own_columns)))
        for start in range(0, len(own) if len(own_columns) else 0, step):
            block = slice(start, start + step)
            log_s = _log_softmax(own[block] @ own_columns.T / temperature, columns)  # (r, K)
            log_t = _log_softmax(other[block] @ other_columns.T / temperature, columns)
            target = log_t.exp()
            divergence = (target * (log_t - log_s)).sum(1)
            total += (divergence if rows is None else torch.where(rows[block], divergence, 0)).sum()
            delta = log_s.exp_().sub_(target).div_(temperature)
            if rows is not None:
                delta.masked_fill_(~rows[block, None], 0)
            if ctx.needs_input_grad[0]:
                of_rows[block] = delta @ own_columns
            if ctx.needs_input_grad[2]:
                of_columns += delta.T @ own[block]
        ctx.save_for_backward(of_rows, of_columns)
        return total

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        of_rows, of_columns = ctx.saved_tensors
        rows = gradient * of_rows if ctx.needs_input_grad[0] else None
        return rows, None, gradient * of_columns if ctx.needs_input_grad[2] else None, None, None, None, None


_NOWHERE = -1e9
"""Logit of a column that doesn't count: its probability is exactly 0, and unlike that of -inf its logarithm is a number."""


def _log_softmax(logits: Tensor, columns: Tensor | None) -> Tensor:
    return F.log_softmax(logits if columns is None else logits.masked_fill_(~columns, _NOWHERE), 1)


def gram_distance(own: Tensor, other: Tensor) -> Tensor:
    """Σ_jk (own_j · own_k − other_j · other_k)² of each image.

    Args:
        own: float32 (N, C, P), the student's, which get a gradient. other: (N, C, P'), the teacher's.

    Returns:
        float32 (N,)
    """
    return _GramDistance.apply(own, other)  # type: ignore[no-any-return, no-untyped-call]


class _GramDistance(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, own: Tensor, other: Tensor) -> Tensor:
        difference = own @ own.mT - other @ other.mT  # (N, C, C), symmetric
        ctx.save_for_backward(4 * difference @ own)
        return difference.square().sum((1, 2))

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (own,) = ctx.saved_tensors
        return gradient[:, None, None] * own, None
