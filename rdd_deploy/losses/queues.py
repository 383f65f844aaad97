"""Vectors of each class in float16, the oldest replaced first."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rdd_deploy.losses.maps import unit


class ClassQueues(nn.Module):
    """A queue of unit vectors for each class, as buffers; random ones at first.

    Attributes:
        vectors: float16 (C, places, D).
        pointer: int64 (C,), where the next write begins.
    """

    vectors: Tensor
    pointer: Tensor

    def __init__(self, classes: int, places: int, width: int, generator: torch.Generator) -> None:
        super().__init__()
        vectors = torch.empty(classes, places, width, dtype=torch.float16)
        for one in vectors:  # class by class: all at once would take three times the queues' memory
            one.copy_(unit(torch.randn(places, width, generator=generator), 1))
        self.register_buffer("vectors", vectors)
        self.register_buffer("pointer", torch.zeros(classes, dtype=torch.int64))

    def write(self, writes: Sequence[Sequence[int]], vectors: Tensor) -> None:
        """Write vectors (R, D) one group after another.

        A group that doesn't fit between the pointer and the end goes to the last places, and the next write begins at
        0.

        Args:
            writes: (class, number of vectors) of each group, in the vectors' order; of a group larger than a queue the
                first ones count.
        """
        places, pointer = self.vectors.shape[1], self.pointer.tolist()
        filled: dict[tuple[int, int], int] = {}  # (class, place) -> row; where two groups meet, the later one's
        row = 0
        for one, count in writes:
            kept = min(count, places)
            begin = min(pointer[one], places - kept)
            filled |= {(one, begin + i): row + i for i in range(kept)}
            pointer[one] = 0 if pointer[one] + kept >= places else begin + kept
            row += count
        if filled:
            where = torch.tensor(list(filled), device=vectors.device)
            self.vectors[where[:, 0], where[:, 1]] = vectors[
                torch.tensor(list(filled.values()), device=vectors.device)
            ].to(self.vectors.dtype)
        self.pointer.copy_(torch.tensor(pointer))

    def drawn(self, count: int, generator: torch.Generator) -> Tensor:
        """``count`` random places, or all where there are fewer, the same ones of every class: float32
        (C · count, D).
        """
        places = torch.randperm(self.vectors.shape[1], generator=generator)[:count].to(self.vectors.device)
        return self.vectors[:, places].flatten(0, 1).float()
