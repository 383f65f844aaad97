from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy_bundle import CLASSES, toy_bundle

from rdd_deploy.benchmark.images import Images, decode_labels
from rdd_deploy.benchmark.runners import Candidate
from rdd_deploy.benchmark.timing import MIN_TURN, WARMUP, Measured, latency_of, measure, round_schedule
from rdd_deploy.runtime import Segmenter


class Fake:
    """A runner that answers 0 everywhere and writes down its turns; ``breaks_at`` is the number of the inference that
    fails.
    """

    classes, input_size, device, provider = CLASSES, (60, 80), "cpu", "fake"

    def __init__(self, name: str, log: list[str], breaks_at: int | None = None) -> None:
        self.name, self.log, self.breaks_at, self.count, self.closed = name, log, breaks_at, 0, False

    def prepare(self, frame: np.ndarray) -> np.ndarray:
        return frame[np.newaxis]

    def infer(self, network_input: np.ndarray) -> np.ndarray:
        self.count += 1
        if self.count == self.breaks_at:
            raise RuntimeError("the toy\nis broken")
        self.log.append(self.name)
        return np.zeros(network_input.shape[:3], np.uint8)

    def restore(self, labels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        return labels[0]

    def close(self) -> None:
        self.closed = True


class FakeCandidate(Candidate):
    def __init__(self, runner: Fake) -> None:
        super().__init__(runner.name, "bundle", Path(runner.name))
        object.__setattr__(self, "runner", runner)

    def open(self) -> Fake:
        return self.runner  # type: ignore[attr-defined]


@given(st.integers(1, 120), st.integers(1, 12))
def test_a_plan_covers_every_image_once(images: int, rounds: int) -> None:
    plan = round_schedule(images, rounds)
    assert len(plan) == rounds
    assert sorted(image for turn in plan for image in turn.fresh) == list(range(images))
    assert all(len(turn) >= MIN_TURN for turn in plan)
    assert all(0 <= image < images for turn in plan for image in turn.again)


def test_rounds_are_interleaved_a_b_c_a_b_c(toy_split) -> None:
    log: list[str] = []
    runners = [Fake(name, log) for name in "ABC"]
    turns: list[tuple[str, int]] = []
    results = measure(
        [FakeCandidate(runner) for runner in runners],
        Images(toy_split),
        3,
        lambda name, frames: turns.append((name, frames)),
    )
    first = "".join(log)[3:]  # after one inference each that compiles
    run = WARMUP + MIN_TURN
    assert first == ("A" * run + "B" * run + "C" * run) * 3
    assert turns == [(name, MIN_TURN) for _ in range(3) for name in "ABC"]
    assert all(result.failure is None and len(result.stage_ms) == 3 * MIN_TURN for result in results)
    assert all(sorted(result.matrices) == list(range(12)) for result in results)
    assert all(runner.closed for runner in runners)


@pytest.mark.parametrize("breaks_at", [1, 2, 20])
def test_who_fails_keeps_the_reason_and_the_others_go_on(toy_split, breaks_at: int) -> None:
    log: list[str] = []
    good, bad = Fake("good", log), Fake("bad", log, breaks_at)
    first, second = measure([FakeCandidate(bad), FakeCandidate(good)], Images(toy_split), 3)
    assert first.failure == "RuntimeError: the toy"
    assert second.failure is None
    assert len(second.matrices) == 12
    assert bad.count == breaks_at  # it is not asked again
    assert bad.closed


def test_other_classes_are_a_failure_in_words(toy_split) -> None:
    runner = Fake("A", [])
    runner.classes = ("cat", "dog")
    (result,) = measure([FakeCandidate(runner)], Images(toy_split), 1)
    assert (
        result.failure
        == "it was made for 2 classes (cat, dog), the data has 3 (blue, green, red); benchmark it on its own data"
    )


def test_counted_labels_are_those_of_the_bundle(toy_split, tmp_path: Path) -> None:
    bundle = toy_bundle(tmp_path / "toy", 30, 40)
    images = Images(toy_split)
    (result,) = measure([Candidate("toy", "bundle", bundle)], images, 2)
    with Segmenter.load(bundle) as segmenter:
        for number in range(len(images)):
            own = segmenter(images.decode(number))
            assert (decode_labels(result.labels[number]) == own).all()
            known = images.known(number)
            assert result.matrices[number].sum() == known.sum()
            assert np.trace(result.matrices[number]) == (own == images.truth(number))[known].sum()


def test_latency_of_made_up_times() -> None:
    times = [(1.0, 0.0, float(ms), 0.0, 1.0) for ms in range(1, 101)]
    latency = latency_of(Measured(stage_ms=times, rounds=[0] * 50 + [1] * 50))
    assert (latency.frames, latency.model.p50_ms, latency.end_to_end.p50_ms) == (100, 50.5, 52.5)
    assert (latency.model.p95_ms, latency.model.p99_ms) == (95.05, 99.01)
    assert latency.stages_p50_ms == {"decode": 1.0, "resize": 0.0, "infer": 50.5, "resize back": 0.0, "draw": 1.0}
    assert latency.model_p50_per_round_ms == [25.5, 75.5]
    assert latency.model_throughput_fps == pytest.approx(1000 / 50.5, abs=1e-3)
    assert latency.judged_ms("end-to-end-p95") == latency.end_to_end.p95_ms
