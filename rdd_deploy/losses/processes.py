"""Counts and sums over the whole batch where several processes hold a part of it each; one process's own where it is
alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, distributed
from torch.autograd.function import once_differentiable

_asked_alone = [0]


@contextmanager
def alone() -> Iterator[None]:
    """Inside, this process asks no other one: for what only one of them computes, such as a picture, or it would wait
    for them forever.
    """
    _asked_alone[0] += 1
    try:
        yield
    finally:
        _asked_alone[0] -= 1


def several() -> bool:
    """Whether other processes train on the rest of the batch."""
    return (
        not _asked_alone[0]
        and distributed.is_available()
        and distributed.is_initialized()
        and distributed.get_world_size() > 1
    )


def mean_count(count: Tensor) -> Tensor:
    """A count or weight (any shape) as its mean over the processes, without gradient.

    Gradients are averaged over the processes, so a local sum divided by it becomes the batch's mean.
    """
    if not several():
        return count
    return _summed(count) / distributed.get_world_size()  # in its own type: float64 would make the whole loss one


def mean_pixels(valid: Tensor) -> Tensor:
    """What to divide a local sum over the valid pixels (bool, any shape) by for the batch's mean; 1 where there are
    none.
    """
    return safe(mean_count(valid.sum()))


def mean_images(valid: Tensor) -> Tensor:
    """What to divide a local sum over images by for the batch's mean: those of (N, …) with a valid pixel count; 1 where
    there are none.
    """
    return safe(mean_count(valid.flatten(1).any(1).sum()))


def everywhere(values: Tensor) -> Tensor:
    """Values (any shape, the same on every process) summed over the processes, without gradient."""
    return _summed(values) if several() else values.detach()


def total(values: Tensor) -> Tensor:
    """A local sum (float, any shape, with gradient) summed over the processes.

    For a loss that every process then computes from the same totals; its gradient, averaged over the processes, is that
    of the whole batch.
    """
    return _Total.apply(values) if several() else values  # type: ignore[no-any-return, no-untyped-call]


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        return _summed(values)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _summed(gradient)  # every process's loss depends on this one's part


def _summed(values: Tensor) -> Tensor:
    everywhere = values.detach().clone(memory_format=torch.contiguous_format)
    distributed.all_reduce(everywhere)
    return everywhere


def safe(count: Tensor) -> Tensor:
    """The count with 1 for 0, to divide a sum by that is 0 as well."""
    return torch.where(count > 0, count, torch.ones_like(count))


def of_each(values: Tensor) -> Tensor:
    """Values (any shape, the same on every process) of every process by rank, (processes, …). Without gradient."""
    if not several():
        return values.detach()[None]
    parts = [torch.empty_like(values) for _ in range(distributed.get_world_size())]
    distributed.all_gather(parts, values.detach().contiguous())
    return torch.stack(parts)


def gathered(rows: Tensor, lengths: Sequence[int] = ()) -> Tensor:
    """Rows (R, …) of every process one after another, by rank; R may differ between them, and be 0.
    Without gradient.

    Args:
        lengths: R of each process, where it is known: then nothing waits for a GPU.
    """
    if not several():
        return rows.detach()
    if not lengths:
        counts = [torch.zeros(1, dtype=torch.int64, device=rows.device) for _ in range(distributed.get_world_size())]
        distributed.all_gather(counts, torch.tensor([len(rows)], device=rows.device))
        lengths = [int(count) for count in counts]
    padded = rows.new_zeros((max(lengths), *rows.shape[1:]))
    padded[: len(rows)] = rows.detach()
    parts = [torch.empty_like(padded) for _ in lengths]
    if max(lengths):
        distributed.all_gather(parts, padded)
    return torch.cat([part[:length] for part, length in zip(parts, lengths, strict=True)])


def further(rows: Tensor, shift: int, lengths: Sequence[int] = ()) -> Tensor:
    """For each of the batch's rows (R, …) the one ``shift`` rows behind it, around the end. Without gradient.

    Args:
        lengths: R of each process by rank, where several hold a part of the batch; each row is sent once.
    """
    if not lengths:
        return rows.detach().roll(-shift, 0)
    assert several(), "the rows of the other processes are out of reach"
    owner = [process for process, length in enumerate(lengths) for _ in range(length)]
    count, own, first = len(owner), rank(), sum(lengths[: rank()])
    rows = rows.detach().contiguous()
    found, exchanges = torch.empty_like(rows), []
    # Both in the sender's order, by which they are matched.
    wanted = sorted(range(first, first + len(rows)), key=lambda at: (at + shift) % count)
    for at in wanted:
        source = (at + shift) % count
        if owner[source] == own:
            found[at - first] = rows[source - first]
        else:
            exchanges.append(distributed.P2POp(distributed.irecv, found[at - first], owner[source]))
    for source in range(first, first + len(rows)):
        if (reader := owner[(source - shift) % count]) != own:
            exchanges.append(distributed.P2POp(distributed.isend, rows[source - first], reader))
    for exchange in distributed.batch_isend_irecv(exchanges) if exchanges else []:
        exchange.wait()
    return found


def gathered_with_gradient(rows: Tensor, lengths: Sequence[int] = ()) -> Tensor:
    """``gathered`` rows (R, …) through which each process's own get their gradient: the sum of what all processes'
    losses say of them.

    In the backward, too, the processes ask each other: all must have what comes out of this in their loss.

    Args:
        lengths: R of each process, where several hold a part of the batch.
    """
    return _Gathered.apply(rows, lengths) if several() else rows  # type: ignore[no-any-return, no-untyped-call]


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, lengths: Sequence[int]) -> Tensor:
        first = sum(lengths[: rank()])
        ctx.own = slice(first, first + len(rows))
        return gathered(rows, lengths)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _summed(gradient)[ctx.own], None


class BatchParts:
    """How many images of the batch each process has, by rank: asked once, for every batch of a training has the same
    size. A GPU that is asked makes the host wait.
    """

    def __init__(self) -> None:
        self._known: dict[int, tuple[int, ...]] = {}

    def of(self, images: int) -> tuple[int, ...]:
        """The parts, where this process has ``images``; empty where it is alone."""
        if not several():
            return ()
        if images not in self._known:
            device = "cuda" if distributed.get_backend() == "nccl" else "cpu"
            self._known[images] = tuple(of_each(torch.tensor(images, device=device)).tolist())
        return self._known[images]


def rank() -> int:
    """Of this process among those that train on the batch."""
    return distributed.get_rank() if several() else 0
