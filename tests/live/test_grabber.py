import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

from rdd_deploy.errors import SourceError
from rdd_deploy.live import grabber as module
from rdd_deploy.live.channel import Finished
from rdd_deploy.live.grabber import Grabber, pauses
from rdd_deploy.live.types import CapturedFrame

FRAME = np.zeros((4, 4, 3), np.uint8)


class Scripted:
    """A source that does what its script says: a frame, a loss (None), a bad frame, a failing ``open``."""

    title = "scripted"

    def __init__(self, script: list[str], live: bool, fps: float | None = None) -> None:
        self.script, self.live, self.fps = iter(script), live, fps
        self.index = 0
        self.closed = 0
        self.failures = 0

    def open(self) -> None:
        if self.failures:
            self.failures -= 1
            raise SourceError("still away")

    def read(self) -> CapturedFrame | None:
        what = next(self.script, "end")
        if what == "bad":
            raise SourceError("frame 3 can't be decoded")
        if what.startswith("lose"):
            self.failures = int(what[4:])
            return None
        if what == "end":
            return None
        self.index += 1
        return CapturedFrame(FRAME, self.index, str(self.index), time.perf_counter(), 0.0)

    def close(self) -> None:
        self.closed += 1


@pytest.fixture(autouse=True)
def no_thread_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert not {thread for thread in threading.enumerate() if thread.name in ("grabber", "inference")} - before


def drain(grabber: Grabber) -> list[int]:
    got = []
    try:
        while True:
            got.append(grabber.get().index)
    except Finished:
        return got


def test_a_file_comes_whole_and_bad_frames_are_skipped() -> None:
    said: list[str] = []
    source = Scripted(["f", "f", "bad", "f"], live=False)
    grabber = Grabber(source, labels=None, warn=said.append)
    grabber.start()
    assert drain(grabber) == [1, 2, 3]
    assert grabber.stop()
    assert (grabber.bad, grabber.reconnects, source.closed) == (1, 0, 1)
    assert drain(grabber) == [], "the end stays the end"
    assert said == ["frame 3 can't be decoded; skipped"]


def test_pauses_grow_to_a_limit() -> None:
    assert [next(iterator) for iterator in [pauses()] for _ in range(7)] == [0.5, 1, 2, 4, 8, 10, 10]


def test_a_lost_source_is_opened_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_PAUSE_S", 0.01)
    source = Scripted(["f", "lose2", "f", "lose0", "f", *["f"] * 3], live=True)
    grabber = Grabber(source, labels=None, warn=print)
    grabber.start()
    for _ in range(6):
        grabber.get()
    assert grabber.reconnects == 2
    deadline = time.monotonic() + 5
    while grabber.loss is None and time.monotonic() < deadline:  # the script is over: lost for good
        time.sleep(0.01)
    loss = grabber.loss
    assert loss is not None
    assert "connection lost 0 s ago, trying again" in loss.sentence(time.perf_counter())
    assert grabber.stop()


def test_a_source_that_decodes_no_more_is_opened_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_PAUSE_S", 0.01)
    few = ["bad"] * (module.MAX_BAD - 1)
    source = Scripted(["f", *few, "f", *few, "f", *few, "bad", "f", "f"], live=True)
    grabber = Grabber(source, labels=None, warn=lambda _: None)
    grabber.start()
    for _ in range(5):
        grabber.get()
    assert grabber.stop()
    assert (grabber.reconnects, grabber.bad) == (1, 3 * module.MAX_BAD - 2)


def test_stop_ends_a_long_pause_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_PAUSE_S", 60.0)
    grabber = Grabber(Scripted([], live=True), lossy=True, labels=None, warn=print)
    grabber.start()
    while grabber.loss is None:
        time.sleep(0.01)
    assert grabber.loss.sentence(time.perf_counter()).endswith("s (attempt 1)")
    assert grabber.stop()


def test_stop_ends_a_waiting_put() -> None:
    grabber = Grabber(Scripted(["f"] * 50, live=False), labels=None, warn=print)
    grabber.start()
    assert grabber.stop()


def test_pause_holds_a_file() -> None:
    source = Scripted(["f"] * 1000, live=False)
    grabber = Grabber(source, labels=None, warn=print)
    grabber.pause(True)
    grabber.start()
    time.sleep(0.1)
    assert source.index == 0
    grabber.pause(False)
    assert grabber.get().index == 1
    assert grabber.stop()


def test_who_asks_a_paused_file_waits_and_can_be_sent_away() -> None:
    grabber = Grabber(Scripted(["f"] * 10, live=False), labels=None, warn=print)
    grabber.pause(True)
    got: list[int] = []
    grabber.start()
    asking = threading.Thread(target=lambda: got.extend(drain(grabber)), daemon=True)
    asking.start()
    time.sleep(0.05)
    assert got == []
    grabber.abandon()
    asking.join(5)
    assert not asking.is_alive()
    assert len(got) <= 1  # the one it had been asked for
    assert grabber.stop()


def test_realtime_paces_a_file_and_the_newest_wins() -> None:
    source = Scripted(["f"] * 1000, live=False, fps=200.0)
    grabber = Grabber(source, lossy=True, realtime=True, labels=None, warn=print)
    grabber.start()
    time.sleep(0.3)
    newest = grabber.get()
    assert grabber.stop()
    assert newest.index == grabber.drops + 1  # everything before it was dropped and counted
    assert newest.index < 500  # not as fast as it goes


def test_a_failing_source_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    source = Scripted(["f"], live=False)
    monkeypatch.setattr(source, "read", lambda: 1 / 0)
    grabber = Grabber(source, labels=None, warn=print)
    grabber.start()
    with pytest.raises(ZeroDivisionError):
        grabber.get()
    assert grabber.stop()
    assert source.closed == 1


def test_one_that_was_never_started_closes_its_source() -> None:
    source = Scripted(["f"], live=False)
    assert Grabber(source, labels=None, warn=print).stop()
    assert source.closed == 1
