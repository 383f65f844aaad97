"""What Relative Difficulty Distillation costs: its loss against plain CE + KD and against full sorts, and a whole step
against the student's own.

    python scripts/losses.py                    # the loss, on a 2x19x512x1024 batch
    python scripts/losses.py --steps            # training steps of the student alone, with KD and with RDD, live and
    cached

All variants run in turn, A B C A B C, in one process; the figures to quote are the ratios of the medians.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from rdd_deploy.losses.kd import masked_mean
from rdd_deploy.losses.rdd import RelativeDifficultyLoss
from rdd_deploy.utils.machine import machine

IGNORE = 255


def plain(student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy + KD as one writes them: F.cross_entropy and F.kl_div with log-probabilities of both."""
    ce = F.cross_entropy(student, target, ignore_index=IGNORE)
    kl = F.kl_div(F.log_softmax(student, 1), F.log_softmax(teacher, 1), reduction="none", log_target=True).sum(1)
    return ce + masked_mean(kl, target != IGNORE)


def sorted_rdd(student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
    """Stage 2 with the thresholds from full sorts of all true-class probabilities, as OHEM is usually written, beside
    plain KD.
    """
    valid = target != IGNORE
    index = torch.where(valid, target, 0)[:, None]
    hard = []
    with torch.no_grad():
        for logits in (student, teacher):
            probability = F.softmax(logits, 1).gather(1, index)[:, 0]
            ranked = probability[valid].sort().values
            threshold = max(0.7, float(ranked[min(len(ranked) - 1, int(0.05 * target.numel()))]))
            hard.append(valid & (probability <= threshold))
    ce = F.cross_entropy(student, target, ignore_index=IGNORE, reduction="none")
    kl = F.kl_div(F.log_softmax(student, 1), F.log_softmax(teacher, 1), reduction="none", log_target=True).sum(1)
    return masked_mean(ce, hard[0] ^ hard[1]) + masked_mean(kl, valid)


def time_losses(rounds: int) -> dict[str, list[float]]:
    """Seconds per forward + backward of each variant."""
    generator = torch.Generator().manual_seed(0)
    shape = (2, 19, 512, 1024)
    target = torch.randint(0, 19, (2, 512, 1024), generator=generator)
    target[:, :8] = IGNORE
    truth = F.one_hot(torch.where(target == IGNORE, 0, target), 19).permute(0, 3, 1, 2).float()
    # Trained networks are sure and right on most pixels: without that, the threshold would never have to be raised.
    student = (torch.randn(shape, generator=generator) + 8 * truth).requires_grad_()
    teacher = torch.randn(shape, generator=generator) + 9 * truth
    auxiliary = teacher + 0.5 * torch.randn(shape, generator=generator)
    rdd = RelativeDifficultyLoss(tfe_fraction=0.1)
    kd = RelativeDifficultyLoss(weighted=False)
    variants: dict[str, Callable[[], Tensor]] = {
        "ce_kd_plain": lambda: plain(student, teacher, target),
        "ce_kd_shared": lambda: kd(student, teacher, None, target, 0.5).total,
        "rdd_stage1": lambda: rdd(student, teacher, auxiliary, target, 0.0).total,
        "rdd_stage2": lambda: rdd(student, teacher, None, target, 0.5).total,
        "rdd_stage2_sorted": lambda: sorted_rdd(student, teacher, target),
    }
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for turn in range(rounds + 1):
        for name, variant in variants.items():
            student.grad = None
            since = time.perf_counter()
            variant().backward()
            if turn:  # the first is warm-up
                seconds[name].append(time.perf_counter() - since)
    return seconds


def time_steps(rounds: int) -> dict[str, list[float]]:
    """CPU seconds per optimiser step of EfficientNet-lite0 + LR-ASPP, batch 8 of 240x240: alone, KD and RDD from a live
    teacher and from a cache.

    Cached steps read, decode and cut their windows of whole frames' caches in this process, as without loader
    processes.
    """
    import tempfile

    import numpy as np

    from rdd_deploy.data.config import Augment
    from rdd_deploy.data.loader import Batch
    from rdd_deploy.data.transforms import RandomScaleCrop
    from rdd_deploy.losses.task import TaskLoss
    from rdd_deploy.models.config import Network
    from rdd_deploy.models.segmenter import Segmenter
    from rdd_deploy.training.compact import Form, Halves, Weights, compact_form
    from rdd_deploy.training.teacher_cache import CachedTeacher
    from rdd_deploy.training.teacher_stores import Store

    torch.manual_seed(0)
    student = Segmenter(Network(encoder="tf_efficientnet_lite0", weights="none"), 11).to(
        memory_format=torch.channels_last
    )  # type: ignore[call-overload]
    big = Network(encoder="tf_efficientnet_lite2", head="deeplabv3plus", weights="none", auxiliary=True)
    teacher = Segmenter(big, 11).to(memory_format=torch.channels_last).eval().requires_grad_(False)  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(student.parameters(), 1e-4, momentum=0.9)
    frames = torch.randint(0, 256, (8, 3, 240, 240), dtype=torch.uint8)
    target = torch.randint(0, 11, (8, 240, 240))
    task, kd, rdd = TaskLoss(), RelativeDifficultyLoss(weighted=False), RelativeDifficultyLoss()

    def taught() -> tuple[Tensor, Tensor | None]:
        with torch.no_grad():
            said = teacher(frames)
            return said.primary, said.auxiliary

    place = tempfile.TemporaryDirectory()
    truth = F.one_hot(torch.randint(0, 11, (16, 180, 240)), 11).permute(0, 3, 1, 2)
    main, second = (4 * truth + torch.randn(truth.shape) for _ in range(2))

    def store(name: str, form: Form, values: Tensor) -> Store:
        path = Path(place.name, f"{name}.npy")
        np.save(path, form.encoded(values).numpy())
        return Store([(path, len(values))], form)

    sizes = np.tile(np.array([360, 480]), (16, 1))
    dense = CachedTeacher({"primary": store("a", Halves(), main), "auxiliary": store("b", Halves(), second)}, sizes)
    compact = CachedTeacher(
        {
            "primary": store("c", compact_form(11), main),
            "agreement": store("d", Weights(), truth.amax(1, keepdim=True).float()),
        },
        sizes,
    )
    crops = RandomScaleCrop(Augment(crop=(240, 240)), (240, 320))

    def cached(cache: CachedTeacher, progress: float) -> Tensor:
        windows = torch.tensor([[int(v) for v in crops.draw(360, 480)] for _ in range(8)])
        said = cache(Batch(frames, target, windows, torch.randint(0, 16, (8,))), progress < 0.1)
        return rdd(
            student(frames).primary, said.primary, said.auxiliary, target, progress, agreement=said.agreement
        ).total

    variants: dict[str, Callable[[], Tensor]] = {
        "student_step": lambda: task(student(frames).primary, target),
        "kd_step": lambda: kd(student(frames).primary, *taught(), target, 0.5).total,
        "rdd_stage1_step": lambda: rdd(student(frames).primary, *taught(), target, 0.0).total,
        "rdd_stage2_step": lambda: rdd(student(frames).primary, *taught(), target, 0.5).total,
        "rdd_stage1_cached": lambda: cached(compact, 0.0),
        "rdd_stage2_cached": lambda: cached(compact, 0.5),
        "rdd_stage1_dense": lambda: cached(dense, 0.0),
        "rdd_stage2_dense": lambda: cached(dense, 0.5),
    }
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for turn in range(rounds + 1):
        for name, variant in variants.items():
            since = time.process_time()  # of this process: what other work on the machine takes doesn't count
            optimizer.zero_grad(set_to_none=True)
            variant().backward()
            optimizer.step()
            if turn:
                seconds[name].append(time.process_time() - since)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", action="store_true", help="time whole training steps")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--json", type=Path, help="also write the figures there")
    arguments = parser.parse_args()
    seconds = time_steps(arguments.rounds) if arguments.steps else time_losses(arguments.rounds)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    base = "student_step" if arguments.steps else "ce_kd_plain"
    print(f"{machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}, {arguments.rounds} rounds")
    for name, median in medians.items():
        print(f"{name:18} {1000 * median:8.1f} ms   {median / medians[base]:.3f} x {base}")
    if arguments.json:
        ratios = {name: median / medians[base] for name, median in medians.items()}
        arguments.json.write_text(
            json.dumps({"machine": machine(), "median_s": medians, f"ratio_to_{base}": ratios}, indent=2) + "\n"
        )


if __name__ == "__main__":
    main()
