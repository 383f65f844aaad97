"""Which samples make each batch: an order that depends on (seed, epoch, step) alone, from any step on."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from torch.utils.data import Sampler


class ResumableBatchSampler(Sampler[list[tuple[int, int]]]):
    """Batches of (epoch, index) from any step on: each epoch a new permutation, the last incomplete batch dropped.

    With frames without labels, whose indices follow those with labels, each batch holds ``others_of`` them: the next
    ones of a permutation of their own, which a new one follows where it ends. An epoch is one pass over the frames with
    labels; the others' is the number of their pass.

    Args:
        count: number of samples with labels. batch: over all ranks together; a data set smaller than that is one batch
            an epoch.
        epochs, seed: of the run. start: first step to yield. rank, ranks: this process's share of each batch.
        others: number of samples without labels. share: of a batch that is theirs, from 0 to below 1.
    """

    def __init__(
        self, count: int, batch: int, epochs: int, seed: int, start: int = 0, rank: int = 0, ranks: int = 1, others: int = 0, share: float = 0.0
    ) -> None:  # fmt: skip
        self.others_of = others_in(batch, share) if others else 0
        self.count, self.batch, self.epochs, self.seed = count, min(batch - self.others_of, count), epochs, seed
        self.start, self.rank, self.ranks, self.others = start, rank, ranks, others

    @property
    def steps_per_epoch(self) -> int:
        return self.count // self.batch

    @property
    def lengths(self) -> list[int]:
        """Of each batch, how many samples each of several ranks has; empty where there is one."""
        ends = [rank * (self.batch + self.others_of) // self.ranks for rank in range(self.ranks + 1)]
        return [end - begin for begin, end in itertools.pairwise(ends)] if self.ranks > 1 else []

    def __len__(self) -> int:
        return self.epochs * self.steps_per_epoch - self.start

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        others = self._others()
        for step in range(self.start, self.epochs * self.steps_per_epoch):
            epoch, position = divmod(step, self.steps_per_epoch)
            if position == 0 or step == self.start:
                order = np.random.default_rng([self.seed, epoch, 1]).permutation(self.count)
            chosen = [(epoch, int(i)) for i in order[position * self.batch : (position + 1) * self.batch]]
            whole = _spread(chosen, [*itertools.islice(others, self.others_of)])
            # Neighbours, so that whoever asks all processes for their images by rank gets the batch as one process has
            # it.
            first = sum(self.lengths[: self.rank])
            yield whole[first : first + self.lengths[self.rank]] if self.ranks > 1 else whole

    def _others(self) -> Iterator[tuple[int, int]]:
        """(pass, index) of samples without labels, from the first one of step ``start`` on, without end."""
        if not self.others_of:
            return
        first, begin = divmod(self.start * self.others_of, self.others)
        for turn in itertools.count(first):
            order = np.random.default_rng([self.seed, turn, 2]).permutation(self.others)
            for i in order[begin:]:
                yield turn, self.count + int(i)
            begin = 0


class SizedBatchSampler(Sampler[list[Any]]):
    """The batches of a sampler, each crop's key with the size that its step has.

    Args:
        sizes: from which share of all steps on crops have which (height, width); the first from 0 on.
    """

    def __init__(self, sampler: ResumableBatchSampler, sizes: Sequence[tuple[float, tuple[int, int]]]) -> None:
        self.sampler, self.sizes = sampler, list(sizes)

    def __len__(self) -> int:
        return len(self.sampler)

    @property
    def steps(self) -> int:
        """Of the whole run."""
        return self.sampler.epochs * self.sampler.steps_per_epoch

    @property
    def unused(self) -> list[float]:
        """The shares whose size no step has: they lie behind the last one, or the next size begins at the same step."""
        begins = [*(math.ceil(share * self.steps) for share, _ in self.sizes), self.steps]
        return [share for (share, _), step, end in zip(self.sizes, begins, begins[1:], strict=False) if step >= end]

    def __iter__(self) -> Iterator[list[Any]]:
        for step, keys in enumerate(self.sampler, self.sampler.start):
            size = [size for share, size in self.sizes if step >= share * self.steps][-1]
            yield [(*key, size) for key in keys]


def _spread(some: list[tuple[int, int]], others: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Both in their order, the others spread evenly: parts of equal length hold as many of them, or one more."""
    count, kinds = len(some) + len(others), (iter(some), iter(others))
    return [next(kinds[(i + 1) * len(others) // count - i * len(others) // count]) for i in range(count)]


def others_in(batch: int, share: float) -> int:
    """Samples without labels in a batch: the share of it, rounded, but one of either kind at least (where there is room
    and the share isn't 0).
    """
    return min(batch - 1, max(share > 0, math.floor(share * batch + 0.5)))
