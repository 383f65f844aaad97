"""The threads between the frames and the results, with networks that are only as slow as a test wants them."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from rdd_deploy.errors import BundleError, SourceError
from rdd_deploy.live.channel import Channel, Finished
from rdd_deploy.live.flicker import STILL
from rdd_deploy.live.grabber import MAX_BAD
from rdd_deploy.live.inference import Inference
from rdd_deploy.live.types import Array, CapturedFrame, Result


class Network:
    """Stands in for a Segmenter: the labels are the frame's number, and ``behave`` may wait or raise."""

    def __init__(self, parallel: int, behave: Callable[[int], object] = lambda number: None) -> None:
        self.parallel, self._behave = parallel, behave
        self._lock = threading.Lock()
        self.running = self.most = 0

    def prepare(self, frame: Array) -> Array:
        return frame[np.newaxis]

    def infer(self, network_input: Array) -> Array:
        with self._lock:
            self.running += 1
            self.most = max(self.most, self.running)
        try:
            self._behave(int(network_input[0, 0, 0, 0]) // STILL)
        finally:
            with self._lock:
                self.running -= 1
        return np.full((1, 4, 4), network_input[0, 0, 0, 0] // STILL, np.uint8)


def shots(count: int) -> list[CapturedFrame]:
    """At most 64 grey frames; neighbours are just so alike that flicker counts them as still."""
    return [
        CapturedFrame(np.full((4, 4, 3), STILL * number, np.uint8), number, str(number), 0.0, 0.0)
        for number in range(count)
    ]


def jitter(number: int) -> None:
    """Later frames are often ready before earlier ones."""
    time.sleep(0.001 * (7 * number % 5))


@pytest.fixture(autouse=True)
def no_thread_left() -> Iterator[None]:
    yield
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith(("feeder", "inference"))]


class Run:
    """An Inference with a feeder before it; ``results()`` are all that come out."""

    def __init__(
        self,
        networks: Sequence[Network],
        count: int,
        warn: Callable[[str], None] = lambda _: None,
        frames: Channel[CapturedFrame] | None = None,
    ) -> None:
        self.frames: Channel[CapturedFrame] = frames or Channel(2, lossy=False)
        self.out: Channel[Result] = Channel(2, lossy=False)
        self.inference = Inference(networks, self.frames, self.out, warn)  # type: ignore[arg-type]
        self._feeder = threading.Thread(target=self._feed, args=(count,), name="feeder", daemon=True)

    def _feed(self, count: int) -> None:
        for captured in shots(count):
            if not self.frames.put(captured):
                break
        self.frames.finish()

    def __enter__(self) -> "Run":
        self._feeder.start()
        self.inference.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.inference.stop()
        self._feeder.join(10)

    def results(self, each: Callable[[Result], object] = lambda _: None) -> list[Result]:
        got: list[Result] = []
        try:
            while (result := self.out.get(10)) is not None:
                each(result)
                got.append(result)
        except Finished:
            return got
        pytest.fail(f"nothing came behind frame {len(got) - 1}")


def numbers(results: Sequence[Result]) -> list[int]:
    assert all(
        int(prediction.labels[0, 0, 0]) == result.captured.index
        for result in results
        for prediction in result.predictions
    ), "labels of another frame"
    return [result.captured.index for result in results]


def test_order_is_kept_and_nothing_lost_or_doubled() -> None:
    network = Network(4, jitter)
    with Run([network], 60) as run:
        assert run.inference.workers == 4
        assert numbers(run.results()) == list(range(60))
    assert 2 <= network.most <= 4
    assert run.inference.error is None


def test_one_at_a_time_stays_one() -> None:
    network = Network(1, jitter)
    with Run([network, Network(4)], 20) as run:
        assert numbers(run.results()) == list(range(20))
    assert (run.inference.workers, network.most) == (1, 1)


def test_flicker_compares_neighbours() -> None:
    """In any other order frames would differ by too many grey levels, and count as moved."""
    with Run([Network(4, jitter)], 40) as run:
        flickers = [result.predictions[0].flicker for result in run.results()]
    assert flickers == [None] + [1.0] * 39


def test_split_and_switching_while_frames_are_in_flight() -> None:
    first, second = Network(3, jitter), Network(3, jitter)

    def press(result: Result) -> None:
        run.inference.active = {10: (1,), 20: (0, 1), 30: (1, 0), 40: (0,)}.get(
            result.captured.index, run.inference.active
        )

    with Run([first, second], 60) as run:
        results = run.results(press)
    assert numbers(results) == list(range(60))
    shown = [tuple(prediction.bundle for prediction in result.predictions) for result in results]
    changes = [after for before, after in zip([None, *shown], shown, strict=False) if before != after]
    assert changes == [(0,), (1,), (0, 1), (1, 0), (0,)]


def test_a_pause_holds_frames_and_loses_none() -> None:
    with Run([Network(2, jitter)], 30) as run:
        got = []
        for _ in range(10):
            got.append(run.out.get(10))
        run.inference.pause(True)
        time.sleep(0.05)
        run.inference.pause(False)
        rest = run.results()
    assert numbers([result for result in got if result is not None] + rest) == list(range(30))


def bad(*which: int) -> Callable[[int], None]:
    def behave(number: int) -> None:
        jitter(number)
        if number in which:
            raise SourceError("it is grey")

    return behave


def test_bad_frames_are_named_in_their_order() -> None:
    said: list[str] = []
    with Run([Network(4, bad(3, 4, 17))], 30, said.append) as run:
        assert numbers(run.results()) == [number for number in range(30) if number not in (3, 4, 17)]
    assert said == [f"frame {number}: it is grey; skipped" for number in (3, 4, 17)]
    assert (run.inference.bad, run.inference.error) == (3, None)


def test_too_many_bad_frames_in_a_row_end_it() -> None:
    good = 5
    with Run([Network(4, bad(*range(good, 64)))], 60) as run:
        assert numbers(run.results()) == list(range(good))
    assert run.inference.bad == MAX_BAD
    assert str(run.inference.error) == f"{MAX_BAD} frames in a row can't be used, the last one: it is grey"


def test_a_failing_inference_ends_it_behind_the_frames_before() -> None:
    def behave(number: int) -> None:
        jitter(number)
        if number >= 13:
            time.sleep(0.02 * (number == 13))  # the frames behind it fail first
            raise BundleError(f"frame {number} broke it")

    with Run([Network(4, behave)], 60) as run:
        assert numbers(run.results()) == list(range(13))
    assert str(run.inference.error) == "frame 13 broke it"


def test_a_slow_frame_keeps_nobody_from_the_ones_behind_it() -> None:
    """The others go on, until as many results wait for it as there are threads."""
    started: list[int] = []
    let_go = threading.Event()

    def behave(number: int) -> None:
        started.append(number)
        if number == 2:
            let_go.wait(10)

    with Run([Network(2, behave)], 60) as run:
        deadline = time.monotonic() + 10
        while len(started) < 2 + 1 + 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.05)
        waiting = sorted(started)
        let_go.set()
        assert numbers(run.results()) == list(range(60))
    assert waiting[: 3 + 2] == list(range(3 + 2)), "more than one in flight per thread"
    assert len(waiting) <= 3 + 2 * 2


@pytest.mark.parametrize("failing", [0, 7])
def test_a_failing_source_ends_it_behind_the_frames_before(failing: int) -> None:
    class Failing(Channel[CapturedFrame]):
        def get(self, timeout: float | None = None) -> CapturedFrame | None:
            captured = super().get(timeout)
            if captured is not None and captured.index >= failing:
                raise SourceError("the cable is out")
            return captured

    with Run([Network(3, jitter)], 30, frames=Failing(2, lossy=False)) as run:
        assert numbers(run.results()) == list(range(failing))
    assert str(run.inference.error) == "the cable is out"


@pytest.mark.parametrize("taken", [0, 1, 7])
def test_stopped_in_the_middle(taken: int) -> None:
    """Nobody takes results any more: workers that wait with theirs, or for their turn, end."""
    with Run([Network(4, jitter)], 60) as run:
        got = [run.out.get(10) for _ in range(taken)]
        time.sleep(0.03)
    assert [result.captured.index for result in got if result is not None] == list(range(taken))
    assert run.inference.error is None


def test_stopped_before_it_was_started() -> None:
    inference = Inference([Network(2)], Channel(2, lossy=False), Channel(2, lossy=False), print)  # type: ignore[list-item]
    inference.stop()
    assert inference.error is None
    assert not inference._thread.is_alive()
