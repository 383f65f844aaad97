"""Relations to a memory of the teacher's pixels and regions (Yang, Zhou, An, Jiang, Xu, Zhang, "Cross-Image Relational
Knowledge Distillation for Semantic Segmentation", CVPR 2022, pp. 12319-12328)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from rdd_deploy.data.base import IGNORE
from rdd_deploy.errors import RecipeError
from rdd_deploy.losses.checks import above_zero, count, not_negative
from rdd_deploy.losses.maps import map_pair, unit
from rdd_deploy.losses.processes import BatchParts, everywhere, gathered, mean_count, rank, safe, total
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
    the batch's with valid pixels) alone: all processes compare with the same vectors, and a resumed run goes on bit for bit. The host draws
    numbers and never waits for a device.

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
        self._steps = 0  # the same number, which needs no device to be read
        self.register_load_state_dict_post_hook(_read_step)  # type: ignore[no-untyped-call]
        self._parts = BatchParts()

    def forward(self, student: Output, teacher: Output, target: Tensor) -> Tensor:
        pair = map_pair(student, teacher, "head", target)
        with torch.autocast(target.device.type, enabled=False):
            vectors, step = unit(pair.teacher, 1), self._steps  # (N, E, h, w)
            if self.training:
                self._remember(vectors, torch.where(pair.valid, pair.labels, IGNORE), step)
                self.step += 1
                self._steps += 1
            rows, other = (one.movedim(1, -1).flatten(0, 2) for one in (pair.student, vectors))  # (M, D), (M, E)
            valid = pair.valid.flatten()
            own, draws = self._projected(rows, valid), self._generator(_CONTRAST, step)
            loss = torch.zeros((), device=target.device)
            for name, most in (("pixel", PIXELS), ("region", REGIONS)):
                if name in self.weights:
                    stored = self.queues[name].drawn(most // self.classes + 1, draws)  # type: ignore[operator]
                    sharpness = self.temperature * self.contrast_temperature
                    loss = loss + self.weights[name] * relation_kl(own, other, stored, stored, sharpness, rows=valid)
            return self.contrast_temperature**2 * loss / safe(mean_count(valid.sum())).float()

    def _projected(self, rows: Tensor, valid: Tensor) -> Tensor:
        """Unit vectors (M, E) of the projection of pixels (M, D), of which ``valid`` (bool, (M,)) are in BatchNorm's
        means.
        """
        layers: list[Any] = list(self.project)
        first, norm, *rest = layers
        wide = self._normalised(first(rows[:, :, None, None]).flatten(1), valid[:, None], norm)[:, :, None, None]
        for layer in rest:
            wide = layer(wide)
        projected = wide.flatten(1)
        # Of pixels that are all alike BatchNorm leaves rounding, whose direction says nothing.
        return unit(torch.where(projected.detach().norm(dim=1, keepdim=True) > LEAST, projected, 0), 1)

    def _normalised(self, wide: Tensor, valid: Tensor, norm: nn.BatchNorm2d) -> Tensor:
        """BatchNorm of (M, E) by the valid rows (bool, (M, 1)) of all processes; as in eval mode where there is one or
        none, which has no deviation.
        """
        known_mean, known_variance = norm.running_mean, norm.running_var
        assert known_mean is not None
        assert known_variance is not None
        mean, variance = known_mean.clone(), known_variance.clone()  # those of this step, which the running ones follow
        if self.training:
            counted = everywhere(valid.sum())
            several, count = counted > 1, counted.clamp(min=2).float()
            batch_mean = total(torch.where(valid, wide, 0).sum(0)) / count
            batch_variance = total(torch.where(valid, wide - batch_mean, 0).square().sum(0)) / count
            mean, variance = torch.where(several, batch_mean, mean), torch.where(several, batch_variance, variance)
            with torch.no_grad():
                assert norm.num_batches_tracked is not None
                norm.num_batches_tracked += several
                weight = float(norm.momentum or 0.0) * several.float()
                known_mean.lerp_(batch_mean, weight)
                known_variance.lerp_(batch_variance * (count / (count - 1)), weight)
        return (wide - mean) * (variance + norm.eps).rsqrt() * norm.weight + norm.bias

    @torch.no_grad()
    def _remember(self, vectors: Tensor, labels: Tensor, step: int) -> None:
        """Write the teacher's unit vectors (N, E, h, w) of all processes' images into the queues; labels (N, h, w),
        void is ``IGNORE``.
        """
        parts, device = self._parts.of(len(labels)) or (len(labels),), labels.device
        labels, vectors = labels.flatten(1), vectors.flatten(2).mT  # (N, P), (N, P, E)
        inside = labels[:, None] == torch.arange(self.classes, device=device)[:, None]  # (N, C, P)
        counts = inside.sum(2)
        if "pixel" in self.queues:
            draws = [self._generator(_IMAGE, step, place) for place in range(sum(parts))]
            orders = torch.stack([torch.randperm(labels.shape[1], generator=one) for one in draws])
            # Images without valid pixels have no place; this process's follow those of the ranks before it.
            place = gathered((counts.sum(1) > 0).long(), parts).cumsum(0).sub(1).clamp(min=0)
            first = sum(parts[: rank()])
            order = orders.to(device, non_blocking=True)[place[first : first + len(labels)]]
            # The pixels by class, each class's in the order drawn; void, the largest, comes last.
            order = order.gather(1, labels.gather(1, order).sort(dim=1, stable=True).indices)
            begins = (counts.cumsum(1) - counts)[..., None] + torch.arange(DRAWN, device=device)  # (N, C, 16)
            drawn = order.gather(1, begins.flatten(1).clamp(max=labels.shape[1] - 1))
            rows = vectors.gather(1, drawn[..., None].expand(-1, -1, vectors.shape[2])).half()
            self._write("pixel", counts.clamp(max=DRAWN), rows.reshape(*begins.shape, -1), parts)
        if "region" in self.queues:
            # The sum is of the mean's direction.
            self._write("region", counts.clamp(max=1), unit(inside.to(vectors) @ vectors, 2)[:, :, None].half(), parts)

    def _write(self, name: str, counts: Tensor, vectors: Tensor, parts: Sequence[int]) -> None:
        self.queues[name].write(gathered(counts, parts), gathered(vectors, parts))  # type: ignore[operator]

    def _generator(self, what: int, step: int = 0, place: int = 0) -> torch.Generator:
        """On the CPU, so that every device draws the same."""
        entropy = np.random.SeedSequence([self.seed, step, place, what])
        return torch.Generator().manual_seed(int(entropy.generate_state(1, np.uint64)[0] >> 1))


def _read_step(bank: MemoryBank, _: Any) -> None:
    bank._steps = int(bank.step)


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
