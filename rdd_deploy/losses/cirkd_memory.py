"""Relations to a memory of the teacher's pixels and regions (Yang, Zhou, An, Jiang, Xu, Zhang, "Cross-Image Relational
Knowledge Distillation for Semantic Segmentation", CVPR 2022, pp. 12319-12328)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rdd_deploy.data.base import IGNORE
from rdd_deploy.errors import RecipeError
from rdd_deploy.losses.checks import above_zero, count, not_negative
from rdd_deploy.losses.maps import map_pair, unit
from rdd_deploy.losses.processes import everywhere, gathered, mean_count, rank, safe
from rdd_deploy.losses.queues import ClassQueues
from rdd_deploy.losses.relations import relation_kl
from rdd_deploy.outputs import Output
from rdd_deploy.utils.machine import free_memory

DRAWN = 16
"""Pixels of a class that an image adds at most."""
PIXELS, REGIONS = 4096, 1024
"""Vectors of both queues that a step compares with, all classes together: C · (4096 // C + 1) and C · (1024 // C + 1)."""
LEAST = 1e-5
"""Length of a projected pixel, whose numbers are about 1, up to which it has no direction."""
_FIRST, _IMAGE, _CONTRAST = 1, 2, 3
"""What a generator draws: the first vectors, an image's pixels, the places to compare with."""


class MemoryBank(nn.Module):
    """Pixel-to-pixel and pixel-to-region contrast with what the teacher said of earlier batches:
    ``w · ⟨KL(softmax_k(f̂^t_i·v_k / τ / τ′) ‖ softmax_k(f̂^s_i·v_k / τ / τ′))⟩_i · τ′²`` over valid pixels i and
    vectors v_k of a queue.

    f̂^t is the teacher's ``head`` map at the student's size as unit vectors over channels, f̂^s the student's behind a
    projection (1×1 convolution to the teacher's width, BatchNorm over the valid pixels, ReLU, 1×1 convolution, no
    biases) that only training uses.

    The queues hold, per class, pixels and regions of the teacher's in float16; random unit vectors at first. In
    training mode each forward, also one without gradient, writes before it compares: of every process's images, by
    rank, and of each image's classes the mean of f̂^t, scaled to unit length, and up to 16 of the class's pixels. In
    eval mode nothing is written and no step is counted. What is drawn depends on (seed, step, place of the image among
    the batch's with valid pixels) alone: all processes compare with the same vectors, and a resumed run goes on bit for
    bit.

    Args:
        classes: number of classes, at most 255. student_channels, teacher_channels: width of the ``head`` map.
        pixel, region: w ≥ 0 of both parts; a part of weight 0 has no queue.
        pixels, regions: places per class.
        temperature: τ > 0. contrast_temperature: τ′ > 0.
        seed: ≥ 0, of the first vectors and the draws.
        device: where it will be trained; only its free memory is asked for, the bank is made on the CPU.

    Shape: ``head`` maps float (N, D, h, w), target int (N, H, W) -> float32 scalar; 0 with a zero gradient where all is
    void.

    Raises:
        RecipeError: both parts have weight 0, or the bank takes more than half of the memory that is free.
        ValueError: the map is missing, or an option isn't what it must be.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"head"})
    step: Tensor

    def __init__(
        self,
        pixel: float = 1.0,
        region: float = 1.0,
        pixels: int = 2000,
        regions: int = 2000,
        temperature: float = 0.1,
        contrast_temperature: float = 1.0,
        seed: int = 0,
        *,
        classes: int,
        student_channels: Mapping[str, int],
        teacher_channels: Mapping[str, int],
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__()
        parts = {
            "pixel": (not_negative("pixel", pixel), count("pixels", pixels)),
            "region": (not_negative("region", region), count("regions", regions)),
        }
        weights = {name: part for name, part in parts.items() if part[0]}
        if not weights:
            raise RecipeError(
                "cirkd_memory: pixel and region are both 0, which leaves nothing of it; give one a weight"
            )
        width, teacher_width = student_channels["head"], teacher_channels["head"]
        places = sum(places for _, places in weights.values())
        _check_room(
            2 * classes * places * teacher_width,
            device,
            f"{classes} classes with {places} places of {teacher_width} numbers in float16",
        )
        self.classes, self.seed = classes, seed
        self.temperature = above_zero("temperature", temperature)
        self.contrast_temperature = above_zero("contrast_temperature", contrast_temperature)
        self.weights = {name: weight for name, (weight, _) in weights.items()}
        self.project = nn.Sequential(
            nn.Conv2d(width, teacher_width, 1, bias=False), nn.BatchNorm2d(teacher_width), nn.ReLU(),
            nn.Conv2d(teacher_width, teacher_width, 1, bias=False),
        )  # fmt: skip
        first = self._generator(_FIRST)
        self.queues = nn.ModuleDict(
            {name: ClassQueues(classes, size, teacher_width, first) for name, (_, size) in weights.items()}
        )
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))

    def forward(self, student: Output, teacher: Output, target: Tensor) -> Tensor:
        pair = map_pair(student, teacher, "head", target)
        with torch.autocast(target.device.type, enabled=False):
            vectors, step = unit(pair.teacher, 1), int(self.step)  # (N, E, h, w)
            if self.training:
                self._remember(vectors, torch.where(pair.valid, pair.labels, IGNORE), step)
                self.step += 1
            rows, other = (one.permute(0, 2, 3, 1)[pair.valid] for one in (pair.student, vectors))  # (M, D), (M, E)
            own, draws = self._projected(rows), self._generator(_CONTRAST, step)
            loss = torch.zeros((), device=target.device)
            for name, most in (("pixel", PIXELS), ("region", REGIONS)):
                if name in self.weights:
                    stored = self.queues[name].drawn(most // self.classes + 1, draws)  # type: ignore[operator]
                    divergence = relation_kl(own, other, stored, stored, self.temperature * self.contrast_temperature)
                    loss = loss + self.weights[name] * divergence
            return self.contrast_temperature**2 * loss / safe(mean_count(pair.valid.sum())).float()

    def _projected(self, rows: Tensor) -> Tensor:
        """Unit vectors (M, E) of the projection of pixels (M, D); void ones aren't among them, or they would be in
        BatchNorm's means.
        """
        layers: list[Any] = list(self.project)
        first, norm, *rest = layers
        wide, pixels = first(rows[:, :, None, None]), torch.tensor(len(rows), device=rows.device)  # (M, E, 1, 1)
        if getattr(norm, "of_all_processes", isinstance(norm, nn.SyncBatchNorm)):  # all must take the same way
            pixels = everywhere(pixels)
        if self.training and pixels < 2:  # nothing to take a deviation of: as in eval mode
            wide = F.batch_norm(wide, norm.running_mean, norm.running_var, norm.weight, norm.bias, False, 0.0, norm.eps)
        else:
            wide = norm(wide)
        for layer in rest:
            wide = layer(wide)
        projected = torch.flatten(wide, 1)
        # Of pixels that are all alike BatchNorm leaves rounding, whose direction says nothing.
        return unit(torch.where(projected.detach().norm(dim=1, keepdim=True) > LEAST, projected, 0), 1)

    @torch.no_grad()
    def _remember(self, vectors: Tensor, labels: Tensor, step: int) -> None:
        """Write the teacher's unit vectors (N, E, h, w) of all processes' images into the queues; labels (N, h, w),
        void is ``IGNORE``.
        """
        known = (labels != IGNORE).flatten(1).any(1)
        vectors, labels = vectors[known], labels[known]
        counts = gathered(torch.tensor([len(labels)], device=labels.device))
        first = int(counts[: rank()].sum())  # this process's images follow those of the ranks before it
        writes, pixels, regions = (
            [],
            [vectors.new_zeros((0, vectors.shape[1]))],
            [vectors.new_zeros((0, vectors.shape[1]))],
        )
        for n, image in enumerate(labels.flatten(1).cpu()):  # (P,)
            order = torch.randperm(len(image), generator=self._generator(_IMAGE, step, first + n))
            shuffled, present = image[order], image[image != IGNORE].unique()
            chosen = [order[shuffled == one][:DRAWN] for one in present]
            writes += [(int(one), len(own)) for one, own in zip(present, chosen, strict=True)]
            rows = vectors[n].flatten(1).T  # (P, E)
            pixels.append(rows[torch.cat([order[:0], *chosen]).to(rows.device)])
            regions.append(unit((image == present[:, None]).to(rows) @ rows, 1))  # the sum is of the mean's direction
        written = gathered(torch.tensor(writes, dtype=torch.int64, device=labels.device).reshape(-1, 2)).tolist()
        if "pixel" in self.queues:
            self.queues["pixel"].write(written, gathered(torch.cat(pixels).half()))  # type: ignore[operator]
        if "region" in self.queues:
            self.queues["region"].write([(one, 1) for one, _ in written], gathered(torch.cat(regions).half()))  # type: ignore[operator]

    def _generator(self, what: int, step: int = 0, place: int = 0) -> torch.Generator:
        """On the CPU, so that every device draws the same."""
        entropy = np.random.SeedSequence([self.seed, step, place, what])
        return torch.Generator().manual_seed(int(entropy.generate_state(1, np.uint64)[0] >> 1))


def _check_room(size: int, device: torch.device | str, what: str) -> None:
    on_gpu = torch.device(device).type == "cuda"
    places = {
        "memory": free_memory(),
        "the GPU's memory": float(torch.cuda.mem_get_info(device)[0]) if on_gpu else None,
    }
    for place, free in places.items():
        if free is not None and size > free / 2:
            raise RecipeError(
                f"cirkd_memory: its bank takes {size / 1e6:.1f} MB ({what}), more than half of the {free / 1e6:.1f} MB"
                f" of {place} that are free; lower its options pixels and regions"
            )
