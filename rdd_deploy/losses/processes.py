"""Counts and sums over the whole batch where several processes hold a part of it each; one process's own where it is alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, distributed
from torch.distributed.nn import functional as differentiable

_asked_alone = [0]


@contextmanager
def alone() -> Iterator[None]:
    """Inside, this process asks no other one: for what only one of them computes, such as a picture, or it would wait for them forever."""
    _asked_alone[0] += 1
    try:
        yield
    finally:
        _asked_alone[0] -= 1


def several() -> bool:
    """Whether other processes train on the rest of the batch."""
    return not _asked_alone[0] and distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


def mean_count(count: Tensor) -> Tensor:
    """A count (any shape) as its mean over the processes: gradients are averaged over them, so a local sum divided by it is the batch's mean."""
    if not several():
        return count
    return mean(count.double()).float()


def mean(values: Tensor) -> Tensor:
    """Values (any shape, the same on every process) as their mean over the processes, without gradient."""
    return everywhere(values) / distributed.get_world_size() if several() else values.detach()


def everywhere(values: Tensor) -> Tensor:
    """Values (any shape, the same on every process) summed over the processes, without gradient."""
    values = values.detach()
    if several():
        values = values.clone()
        distributed.all_reduce(values)
    return values


def gathered(values: Tensor) -> Tensor:
    """Values (K,), K the same on every process, of all processes one after the other, without gradient."""
    if not several():
        return values
    parts = [torch.empty_like(values) for _ in range(distributed.get_world_size())]
    distributed.all_gather(parts, values.contiguous())
    return torch.cat(parts)


def total(values: Tensor) -> Tensor:
    """A local sum (any shape, with gradient) summed over the processes, in float32 or wider.

    For a loss that every process then computes from the same totals; its gradient, averaged over the processes, is that of the whole batch.
    """
    return differentiable.all_reduce(values) if several() else values  # type: ignore[no-any-return, no-untyped-call]


def safe(count: Tensor) -> Tensor:
    """The count with 1 for 0, to divide a sum by that is 0 as well."""
    return torch.where(count > 0, count, torch.ones_like(count))
