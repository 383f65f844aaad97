"""Timing in interleaved rounds. Every image is labelled once by every candidate, and those very inferences are the
timed ones.

A round gives each candidate a turn on the same slice of the images, in the same order: A B C, A B C, … A machine that
slows down or speeds up meanwhile does so for all. A turn opens with untimed frames, since the threads of whoever ran
before may still spin and the caches are its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from rdd_deploy.benchmark.cold_start import reason
from rdd_deploy.benchmark.images import Images, encode_png
from rdd_deploy.benchmark.records import STAGES, Latency, Quantiles
from rdd_deploy.benchmark.runners import Candidate, Runner
from rdd_deploy.data.base import Frame, Labels
from rdd_deploy.drawing import Overlay
from rdd_deploy.errors import BundleError
from rdd_deploy.metrics import Confusion

WARMUP = 3
"""Untimed frames at the start of a turn."""
MIN_TURN = 10
"""A turn times at least so many frames; images are taken again where a slice is smaller (they count once for the mIoU)."""
OPACITY = 0.5


@dataclass
class Measured:
    """What the rounds gave for one candidate.

    Attributes:
        stage_ms: per timed frame, the milliseconds of STAGES, in the order of measuring.
        rounds: number of the round of each timed frame.
        matrices: confusion matrix per image number, int64 (C, C).
        labels: label map per image number at the frame's size, as PNG bytes.
        failure: why it stopped, None if it ran to the end.
    """

    device: str | None = None
    provider: str | None = None
    input_size: tuple[int, int] | None = None
    stage_ms: list[tuple[float, ...]] = field(default_factory=list)
    rounds: list[int] = field(default_factory=list)
    matrices: dict[int, NDArray[np.int64]] = field(default_factory=dict)
    labels: dict[int, Frame] = field(default_factory=dict)
    failure: str | None = None


@dataclass(frozen=True)
class RoundSlice:
    """Image numbers of one turn: ``fresh`` ones are timed and counted, ``again`` ones only timed."""

    fresh: tuple[int, ...]
    again: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.fresh) + len(self.again)


def round_schedule(images: int, rounds: int) -> list[RoundSlice]:
    """One turn a round. Their fresh images cover every image once, and each slice runs through the whole split."""
    plan = []
    for number in range(rounds):
        fresh = tuple(range(number, images, rounds))
        plan.append(RoundSlice(fresh, tuple((number + i) % images for i in range(max(0, MIN_TURN - len(fresh))))))
    return plan


def measure(
    candidates: Sequence[Candidate],
    images: Images,
    rounds: int,
    advance: Callable[[str, int], None] = lambda name, frames: None,
) -> list[Measured]:
    """Load all candidates and run the rounds.

    Args:
        advance: called after each turn with the candidate's name and the frames that it ran, for a progress bar.

    Returns:
        One result a candidate, in order. Whoever fails keeps its reason and is left out of later rounds.
    """
    results = [Measured() for _ in candidates]
    runners: dict[int, Runner] = {}
    with ExitStack() as stack:
        for number, candidate in enumerate(candidates):
            try:
                runners[number] = runner = _open(candidate, images, results[number])
                stack.callback(runner.close)
                runner.infer(runner.prepare(images.decode(0)))  # compiles and allocates, which is no turn's business
            except (
                Exception
            ) as error:  # backends raise classes of their own; the row keeps the reason and the others go on
                results[number].failure = reason(error)
        for round_number, turn in enumerate(round_schedule(len(images), rounds)):
            for number, candidate in enumerate(candidates):
                if results[number].failure is None:
                    try:
                        _take(runners[number], images, turn, round_number, results[number])
                    except Exception as error:
                        results[number].failure = reason(error)
                advance(candidate.name, len(turn))
    return results


def _open(candidate: Candidate, images: Images, result: Measured) -> Runner:
    runner = candidate.open()
    result.device, result.provider, result.input_size = runner.device, runner.provider, runner.input_size
    if runner.classes != images.label_space.classes:
        runner.close()
        raise BundleError(
            f"it was made for {len(runner.classes)} classes ({', '.join(runner.classes)}), the data has"
            f" {len(images.label_space)} ({', '.join(images.label_space.classes)}); benchmark it on its own data"
        )
    return runner


def _take(runner: Runner, images: Images, turn: RoundSlice, round_number: int, result: Measured) -> None:
    overlay = Overlay(np.array(images.label_space.palette, np.uint8), OPACITY)
    for _ in range(WARMUP):
        _timed(runner, images, turn.again[0] if turn.again else turn.fresh[0], overlay)
    kept: list[Labels] = []
    for position, image in enumerate((*turn.fresh, *turn.again)):
        labels, stages = _timed(runner, images, image, overlay)
        result.stage_ms.append(stages)
        result.rounds.append(round_number)
        if position < len(turn.fresh):
            kept.append(labels)
    # Counting waits for the end of the turn: between two timed frames it would cool the caches and let threads fall
    # asleep.
    for image, labels in zip(turn.fresh, kept, strict=True):
        result.matrices[image] = Confusion(images.label_space.classes).add(images.truth(image), labels)
        result.labels[image] = encode_png(labels)


def _timed(runner: Runner, images: Images, image: int, overlay: Overlay) -> tuple[Labels, tuple[float, ...]]:
    clock = time.perf_counter
    t0 = clock()
    frame = images.decode(image)
    t1 = clock()
    network_input = runner.prepare(frame)
    t2 = clock()
    small = runner.infer(network_input)
    t3 = clock()
    labels = runner.restore(small, (frame.shape[0], frame.shape[1]))
    t4 = clock()
    overlay.draw(frame, labels)
    t5 = clock()
    return labels, tuple(1e3 * (after - before) for before, after in ((t0, t1), (t1, t2), (t2, t3), (t3, t4), (t4, t5)))


def latency_of(result: Measured) -> Latency:
    """Quantiles of the timed frames; ``model`` is the stage ``infer`` alone."""
    stages = np.array(result.stage_ms)  # (frames, len(STAGES))
    model, whole = stages[:, STAGES.index("infer")], stages.sum(1)
    rounds = np.array(result.rounds)
    return Latency(
        frames=len(stages), model=_quantiles(model), end_to_end=_quantiles(whole),
        stages_p50_ms={name: _round(np.median(stages[:, column])) for column, name in enumerate(STAGES)},
        model_p50_per_round_ms=[_round(np.median(model[rounds == number])) for number in np.unique(rounds)],
        model_throughput_fps=_round(1e3 / model.mean()), end_to_end_throughput_fps=_round(1e3 / whole.mean()),
    )  # fmt: skip


def _quantiles(values: NDArray[np.float64]) -> Quantiles:
    p50, p95, p99 = np.percentile(values, [50, 95, 99])
    return Quantiles(p50_ms=_round(p50), p95_ms=_round(p95), p99_ms=_round(p99), mean_ms=_round(values.mean()))


def _round(value: float | np.floating) -> float:
    return round(float(value), 4)
