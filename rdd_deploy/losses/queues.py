"""Vectors of each class in float16, the oldest replaced first."""

from __future__ import annotations

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

    def write(self, counts: Tensor, vectors: Tensor) -> None:
        """Write groups of vectors, image after image, without the host waiting for a device.

        A group that doesn't fit between the pointer and the end goes to the last places, and the next write begins at
        0.

        Args:
            counts: int64 (N, C), 0 to G: of each image's group of a class the vectors that count; of a group larger than
                a queue the first ones do.
            vectors: (N, C, G, D).
        """
        places, (images, classes, size, width) = self.vectors.shape[1], vectors.shape
        counts, pointer, begins = counts.clamp(max=places), self.pointer, []
        for own in counts:  # (C,)
            begins.append(torch.minimum(pointer, places - own))
            end = begins[-1] + own
            pointer = torch.where(end >= places, 0, end)
        if not images:
            return
        self.pointer.copy_(pointer)
        row = torch.arange(size, device=vectors.device)
        real = (row < counts[..., None]).flatten()  # (N * C * G,)
        begin = torch.stack(begins) + places * torch.arange(classes, device=vectors.device)
        where = torch.where(real, (begin[..., None] + row).flatten(), 0)
        # Of two vectors for one place the later one; both write it, so that their order doesn't matter.
        number = torch.where(real, torch.arange(len(where), device=vectors.device), -1)
        last = number.new_full((classes * places,), -1).scatter_reduce_(0, where, number, "amax")[where]
        flat = self.vectors.flatten(0, 1)
        new = vectors.reshape(-1, width).to(flat.dtype)[last.clamp(min=0)]
        flat[where] = torch.where((last < 0)[:, None], flat[where], new)

    def drawn(self, count: int, generator: torch.Generator) -> Tensor:
        """``count`` random places, or all where there are fewer, the same ones of every class: float32
        (C · count, D).
        """
        places = torch.randperm(self.vectors.shape[1], generator=generator)[:count]
        places = places.to(self.vectors.device, non_blocking=True)
        return self.vectors[:, places].flatten(0, 1).float()
