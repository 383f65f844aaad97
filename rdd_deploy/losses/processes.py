"""Counts and sums over the whole batch where several processes hold a part of it each; one process's own where it is alone."""

from __future__ import annotations

import torch
from torch import Tensor, distributed
from torch.distributed.nn import functional as differentiable


def several() -> bool:
    """Whether other processes train on the rest of the batch."""
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


def mean_count(count: Tensor) -> Tensor:
    """A count (any shape) as its mean over the processes: gradients are averaged over them, so a local sum divided by it is the batch's mean."""
    if not several():
        return count
    everywhere = count.detach().double()
    distributed.all_reduce(everywhere)
    return everywhere / distributed.get_world_size()


def total(values: Tensor) -> Tensor:
    """A local sum (any shape, with gradient) summed over the processes, in float32 or wider.

    For a loss that every process then computes from the same totals; its gradient, averaged over the processes, is that of the whole batch.
    """
    return differentiable.all_reduce(values) if several() else values  # type: ignore[no-any-return, no-untyped-call]


def safe(count: Tensor) -> Tensor:
    """The count with 1 for 0, to divide a sum by that is 0 as well."""
    return torch.where(count > 0, count, torch.ones_like(count))


def gathered(rows: Tensor) -> Tensor:
    """Rows (R, …) of every process one after another, by rank; R may differ between them, and be 0. Without gradient."""
    if not several():
        return rows.detach()
    counts = [torch.zeros(1, dtype=torch.int64, device=rows.device) for _ in range(distributed.get_world_size())]
    distributed.all_gather(counts, torch.tensor([len(rows)], device=rows.device))
    lengths = [int(count) for count in counts]
    padded = rows.new_zeros((max(lengths), *rows.shape[1:]))
    padded[: len(rows)] = rows.detach()
    parts = [torch.empty_like(padded) for _ in lengths]
    if max(lengths):
        distributed.all_gather(parts, padded)
    return torch.cat([part[:length] for part, length in zip(parts, lengths, strict=True)])


def rank() -> int:
    """Of this process among those that train on the batch."""
    return distributed.get_rank() if several() else 0
