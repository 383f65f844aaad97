"""Training steps at the recipes' own size (360x360 crops, batch 16), each variant as ``training.loop`` runs it.

Images/s, how long a step waits for data, how busy the GPU is, where the host waits for it, which kernels take the time.

    python rates.py                  # all
    python rates.py alone rdd        # variants whose names begin so
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from common import DEVICE, SMOKE, WORK, add, guarded, median_ms, sync
from profiling import gpu_busy, host_waits, top_operators
from teachers import CLASSES, COUNT, CROP, SIZE, TEACHER, Noise, Teachers

from rdd_deploy.data.config import Augment
from rdd_deploy.data.loader import Batch, CropDataset, DrawDataset, FrameCache, room_for_frames, training_loader
from rdd_deploy.data.resident import ResidentFrames
from rdd_deploy.data.sampler import ResumableBatchSampler
from rdd_deploy.data.transforms import RandomScaleCrop
from rdd_deploy.losses.rdd import RelativeDifficultyLoss
from rdd_deploy.models.config import Network
from rdd_deploy.models.segmenter import Segmenter
from rdd_deploy.recipe_train import Train
from rdd_deploy.training.fabric import make_fabric
from rdd_deploy.training.finite import FiniteCheck
from rdd_deploy.training.run_folder import RunFolder
from rdd_deploy.training.saving import StateWriter
from rdd_deploy.training.state import Objective, TrainState
from rdd_deploy.training.supervised import SupervisedObjective

BATCH = 4 if SMOKE else 16
SECONDS, WARM = (0.05, 1) if SMOKE else (2.0, 8)
STUDENT = Network(encoder="mobilenetv3_small_050" if SMOKE else "mobilenetv3_large_100", weights="none")


def supervised() -> SupervisedObjective:
    return SupervisedObjective(Train(), torch.ones(CLASSES))


class Variant(NamedTuple):
    """One row: what is trained, by which objective, fed from where."""

    name: str
    network: Network = STUDENT
    objective: Callable[[], Objective] = supervised
    resident: bool = False
    """The same batch, already on the device, every time: the loader costs nothing."""
    on_device: bool = False
    """Frames lie on the device and crops are cut there, as ``data.device: auto`` does."""
    train: Mapping[str, Any] = MappingProxyType({})
    batch: int = BATCH
    workers: int | None = None
    jitter: float = 0.3
    benchmark: bool = True
    progress: float = 0.5
    profiled: bool = False
    saved: bool = False
    """Also time what saving the state takes."""


def variants(teachers: Teachers) -> list[Variant]:
    return [
        Variant("alone", profiled=True),
        Variant("alone, frames on the GPU", on_device=True, profiled=True),
        Variant("alone, resident batch", resident=True, profiled=True, saved=True),
        Variant("alone, resident, no cudnn.benchmark", resident=True, benchmark=False),
        Variant("alone, resident, EMA", resident=True, train={"ema": 0.999}),
        Variant("alone, resident, 32-true", resident=True, train={"precision": "32-true"}),
        Variant("alone, resident, batch 64", resident=True, batch=4 * BATCH),
        Variant("kd live R101", objective=lambda: teachers.live("kd")),
        Variant("rdd live R101, stage 2", objective=teachers.live, profiled=True),
        Variant("rdd live R101, stage 2, resident", objective=teachers.live, resident=True),
        Variant("rdd live R101, stage 1, resident", objective=teachers.live, resident=True, progress=0.0),
        Variant("rdd cached, stage 2", objective=teachers.cached, profiled=True),
        Variant("rdd cached, stage 2, resident", objective=teachers.cached, resident=True),
        Variant("rdd cached, stage 1, resident", objective=teachers.cached, resident=True, progress=0.0),
        Variant(
            "rdd cache and frames on the GPU, stage 2", objective=teachers.on_device, on_device=True, profiled=True
        ),
        Variant("rdd live R101, frames on the GPU, stage 2", objective=teachers.live, on_device=True),
        Variant("rdd cache on the GPU, stage 2, resident", objective=teachers.on_device, resident=True),
        Variant("teacher R101 itself, resident", network=TEACHER, resident=True, saved=True),
        Variant("alone, no jitter", jitter=0.0),
        Variant("alone, 14 workers", workers=14),
        Variant("compiled alone, frames on the GPU", on_device=True, train={"compile": True}),
        Variant(
            "compiled rdd cache and frames on the GPU",
            objective=teachers.on_device,
            on_device=True,
            train={"compile": True},
        ),
        Variant("compiled alone, resident", resident=True, train={"compile": True}, profiled=True),
    ]


def repeated(batch: Batch) -> Iterator[Batch]:
    while True:
        yield batch


def batches(variant: Variant, frames: FrameCache, fabric: Any) -> Iterator[Batch]:
    transform = RandomScaleCrop(Augment(crop=CROP, jitter=variant.jitter), SIZE)
    sampler = ResumableBatchSampler(len(frames), variant.batch, 100000, 0)
    if variant.on_device:
        resident = ResidentFrames(frames, transform, DEVICE)
        draws: Any = training_loader(
            DrawDataset(resident.sizes, transform, 0), sampler, 0 if SMOKE else None, DEVICE.type == "cuda"
        )
        return map(resident.batch, fabric.setup_dataloaders(draws, use_distributed_sampler=False))
    crops = CropDataset(frames, transform, 0)
    workers = min(variant.workers, os.cpu_count() or 1) if variant.workers is not None else None
    loader = training_loader(crops, sampler, 0 if SMOKE else workers, DEVICE.type == "cuda")
    if variant.resident:
        loader = training_loader(crops, sampler, 0, False)
        batch = next(iter(loader))
        return repeated(Batch(*(one.to(DEVICE) for one in batch)))
    return iter(fabric.setup_dataloaders(loader, use_distributed_sampler=False))


def measure(variant: Variant, frames: FrameCache) -> float:
    """Add the variant's row; returns images/s."""
    torch.manual_seed(0)
    train = Train(device=DEVICE.type, batch=variant.batch, **variant.train)
    fabric = make_fabric(train)
    fabric.launch()
    segmenter = Segmenter(variant.network, CLASSES)
    train_state = TrainState(segmenter, variant.objective(), train, fabric)
    torch.backends.cudnn.benchmark = variant.benchmark  # TrainState set it
    segmenter.train()
    feed = batches(variant, frames, fabric)
    sums: dict[str, Any] = {}
    finite = FiniteCheck(frames.split, str)

    def step() -> float:
        """One turn of the loop; returns the seconds that it waited for its batch."""
        since = time.perf_counter()
        batch = next(feed)
        waited = time.perf_counter() - since
        signs, terms = train_state.update(batch, variant.progress)
        finite.add(signs, batch.indices)
        for name, value in terms.items():
            sums[name] = sums.get(name, 0.0) + value.double()
        return waited

    try:
        for _ in range(WARM):
            step()
        sync()
        began, waits, ends = time.perf_counter(), [], []
        while not ends or ends[-1] - began < SECONDS:
            waits.append(step())
            ends.append(time.perf_counter())
        late = len(ends) // 3  # what the loader had ready before is used up
        seconds = ends[-1] - (ends[late - 1] if late else began)
        steps = len(ends) - late
        rate = variant.batch * steps / seconds
        busy, kernels = gpu_busy(step)
        waited = 100 * sum(waits[late:]) / seconds
        SHARES[variant.name] = waited, busy
        peak = torch.cuda.max_memory_allocated() / 2**30 if DEVICE.type == "cuda" else 0.0
        add(
            "rates",
            f"{variant.name}",
            f"{rate:.0f} img/s",
            f"{1000 * seconds / steps:.1f} ms a step, data wait {waited:.0f} %, GPU busy {busy} %, {kernels} kernels,"
            f" {peak:.1f} GiB",
        )
        if variant.saved:
            saving(variant.name, train_state, 22 * seconds / steps)
        if variant.profiled:
            host_waits(variant.name, step)
            top_operators(variant.name, step)
        return rate
    finally:
        torch.backends.cudnn.benchmark = False
        if DEVICE.type == "cuda":
            torch.cuda.reset_peak_memory_stats()


SHARES: dict[str, tuple[float, Any]] = {}
"""Of each variant's time in per cent: waiting for data, and the GPU's busy part."""


def bars(rates: Mapping[str, float]) -> None:
    """What was measured beside what is wanted."""
    alone, live = "alone, frames on the GPU", "rdd live R101, frames on the GPU, stage 2"
    cached = "rdd cache and frames on the GPU, stage 2"
    compiled_alone = rates.get("compiled alone, frames on the GPU")
    if found := max(rates.get(alone, 0.0), compiled_alone or 0.0):
        add("rates", "bar: images/s alone >= 3000", found, "met" if found >= 3000 else "missed")
        minutes = 40_000 * 16 / found / 60
        add("rates", "bar: 40 000 steps of batch 16 in < 4 min", minutes, "met" if minutes < 4 else "missed")
        waited, busy = SHARES["compiled alone, frames on the GPU" if found == compiled_alone else alone]
        add("rates", "bar: waiting for data <= 3 %", waited, "met" if waited <= 3 else "missed")
        if busy != "?":
            add("rates", "bar: GPU busy >= 90 %", busy, "met" if float(busy) >= 90 else "missed")
    if alone in rates and cached in rates:
        share = rates[cached] / rates[alone]
        add("rates", "bar: RDD cached / alone >= 0.9", share, "met" if share >= 0.9 else "missed")
    if alone in rates and live in rates and TEACHER_ALONE in rates:
        bound = 1 / (1 / rates[alone] + 1 / rates[TEACHER_ALONE])  # both on one GPU, one after the other
        share = rates[live] / bound
        add("rates", "bar: RDD live / teacher-bound limit >= 0.9", share, "met" if share >= 0.9 else "missed")


TEACHER_ALONE = "the teacher's own forward"


def teacher_alone(teachers: Teachers) -> float:
    """Images/s of the live teacher's forward at the batch's size."""
    images = torch.randint(0, 256, (BATCH, 3, *CROP), dtype=torch.uint8, device=DEVICE)
    batch = Batch(images, images[:, 0], torch.zeros(BATCH, 5, device=DEVICE), torch.arange(BATCH, device=DEVICE))
    teacher = teachers.live().teacher
    rate = 1000 * BATCH / median_ms(lambda: teacher(batch, False))
    add("rates", TEACHER_ALONE, f"{rate:.0f} img/s")
    return rate


def saving(name: str, train_state: TrainState, epoch: float) -> None:
    """What writing the state takes, beside the seconds of an epoch."""
    with tempfile.TemporaryDirectory(dir=WORK) as place:
        folder = RunFolder(Path(place))
        folder.recipe.touch()
        since = time.perf_counter()
        with StateWriter(folder, 0, False, DEVICE.type == "cuda") as writer:
            writer.write(train_state.state())
            copied = time.perf_counter() - since
        seconds, size = time.perf_counter() - since, folder.state.stat().st_size / 1e6
    add(
        "rates",
        f"  saving its state: {name}",
        f"{copied:.2f} s",
        f"{seconds:.2f} s until it is written, {size:.0f} MB; the 22 steps of an epoch take {epoch:.2f} s",
    )


def data(frames: FrameCache) -> None:
    """The loader alone."""
    crops = CropDataset(frames, RandomScaleCrop(Augment(crop=CROP), SIZE), 0)
    since, count = time.perf_counter(), 4 if SMOKE else 30
    for index in range(count):
        crops[0, index % COUNT]
    add("rates", "one crop, one thread, ms", 1000 * (time.perf_counter() - since) / count)
    for workers, jitter in ((0, 0.3),) if SMOKE else ((8, 0.3), (8, 0.0)):
        crops = CropDataset(frames, RandomScaleCrop(Augment(crop=CROP, jitter=jitter), SIZE), 0)
        loader = iter(
            training_loader(crops, ResumableBatchSampler(COUNT, BATCH, 1000, 0), workers, DEVICE.type == "cuda")
        )
        for _ in range(2 if SMOKE else 20):
            next(loader)
        since, steps = time.perf_counter(), 3 if SMOKE else 50
        for _ in range(steps):
            next(loader)
        add(
            "rates",
            f"loader alone, {workers} workers, jitter {jitter}",
            f"{BATCH * steps / (time.perf_counter() - since):.0f} img/s",
        )


def losses() -> None:
    """The loss alone, forward and backward at the crops' size, as it is, as one writes it, and compiled; and the
    upsampling before it.
    """
    shape = (BATCH, CLASSES, *CROP)
    labels = torch.randint(0, CLASSES, (BATCH, *CROP), device=DEVICE)
    labels[:, :8] = 255
    teacher, auxiliary = (torch.randn(shape, device=DEVICE).to(memory_format=torch.channels_last) for _ in range(2))
    small = (
        torch.randn(BATCH, CLASSES, CROP[0] // 8, CROP[1] // 8, device=DEVICE)
        .to(memory_format=torch.channels_last)
        .requires_grad_()
    )
    logits = torch.randn(shape, device=DEVICE).to(memory_format=torch.channels_last).requires_grad_()
    rdd, kd = RelativeDifficultyLoss(), RelativeDifficultyLoss(weighted=False)
    F = torch.nn.functional

    def plain(student: torch.Tensor, teacher: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        valid = labels != 255
        log_s, log_t = F.log_softmax(student, 1), F.log_softmax(teacher, 1)
        ce = -log_s.gather(1, torch.where(valid, labels, 0)[:, None])[:, 0]
        kl = (log_t.exp() * (log_t - log_s)).sum(1)
        return torch.where(valid, ce + kl, 0).sum() / valid.sum()

    def both(run: Callable[[], torch.Tensor], *leaves: torch.Tensor) -> float:
        def once() -> None:
            for leaf in leaves:
                leaf.grad = None
            run().backward()

        return median_ms(once)

    for name, run, leaf in (
        ("loss: RDD stage 1", lambda: rdd(logits, teacher, auxiliary, labels, 0.0).total, logits),
        ("loss: RDD stage 2", lambda: rdd(logits, teacher, None, labels, 0.5).total, logits),
        ("loss: CE + KD in this project's pass", lambda: kd(logits, teacher, None, labels, 0.5).total, logits),
        ("loss: CE + KD as one writes it", lambda: plain(logits, teacher, labels), logits),
        ("upsampling of logits by 8", lambda: F.interpolate(small, CROP, mode="bilinear").sum(), small),
    ):
        add("rates", f"{name}, forward + backward, ms", both(run, leaf))
    with guarded("rates", "compiled loss"):
        compiled = torch.compile(plain)
        taken = both(lambda: compiled(logits, teacher, labels), logits)
        add("rates", "loss: CE + KD as one writes it, compiled, ms", taken)
        above = torch.compile(lambda s, t, y: plain(F.interpolate(s, CROP, mode="bilinear"), t, y))
        add("rates", "loss: upsampling + CE + KD, compiled, ms", both(lambda: above(small, teacher, labels), small))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="variants whose names begin so, 'data', 'losses'; default: all")
    wanted = parser.parse_args().names
    fits = lambda name: not wanted or any(name.startswith(one) for one in wanted)  # noqa: E731
    frames = FrameCache(Noise(), room_for_frames())
    for index in range(COUNT):
        frames[index]
    teachers = Teachers()
    if fits("data"):
        with guarded("rates", "data"):
            data(frames)
    rates: dict[str, float] = {}
    for variant in variants(teachers):
        # A minute or two for the compiler.
        if fits(variant.name) and (wanted or not variant.name.startswith("compiled")):
            with guarded("rates", variant.name):
                rates[variant.name] = measure(variant, frames)
    if any(name.startswith("rdd live") for name in rates):
        with guarded("rates", TEACHER_ALONE):
            rates[TEACHER_ALONE] = teacher_alone(teachers)
    bars(rates)
    if fits("losses"):
        with guarded("rates", "losses"):
            losses()


if __name__ == "__main__":
    sys.exit(main())
