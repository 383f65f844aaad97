import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

from rdd_deploy.errors import SourceError
from rdd_deploy.live import grabber as module
from rdd_deploy.live.channel import Channel, Finished
from rdd_deploy.live.grabber import Grabber, pauses
from rdd_deploy.live.shot import Shot

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

    def read(self) -> Shot | None:
        what = next(self.script, "end")
        if what == "bad":
            raise SourceError("frame 3 can't be decoded")
        if what.startswith("lose"):
            self.failures = int(what[4:])
            return None
        if what == "end":
            return None
        self.index += 1
        return Shot(FRAME, self.index, str(self.index), time.perf_counter(), 0.0)

    def close(self) -> None:
        self.closed += 1


@pytest.fixture(autouse=True)
def no_thread_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert not {thread for thread in threading.enumerate() if thread.name in ("grabber", "inference")} - before


def drain(channel: Channel[Shot]) -> list[int]:
    got = []
    try:
        while True:
            shot = channel.get(5)
            assert shot is not None
            got.append(shot.index)
    except Finished:
        return got


def test_a_file_comes_whole_and_bad_frames_are_skipped() -> None:
    said: list[str] = []
    source, channel = Scripted(["f", "f", "bad", "f"], live=False), Channel[Shot](2, lossy=False)
    grabber = Grabber(source, channel, realtime=False, labels=None, warn=said.append)
    grabber.start()
    assert drain(channel) == [1, 2, 3]
    assert grabber.stop()
    assert (grabber.bad, grabber.reconnects, source.closed, grabber.error) == (1, 0, 1, None)
    assert said == ["frame 3 can't be decoded; skipped"]


def test_pauses_grow_to_a_limit() -> None:
    assert [next(iterator) for iterator in [pauses()] for _ in range(7)] == [0.5, 1, 2, 4, 8, 10, 10]


def test_a_lost_source_is_opened_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_PAUSE_S", 0.01)
    source, channel = Scripted(["f", "lose2", "f", "lose0", "f", *["f"] * 3], live=True), Channel[Shot](100, lossy=True)
    grabber = Grabber(source, channel, realtime=False, labels=None, warn=print)
    grabber.start()
    for _ in range(6):
        assert channel.get(5) is not None
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
    source, channel = Scripted(["f", *few, "f", *few, "f", *few, "bad", "f", "f"], live=True), Channel[Shot](100, lossy=True)
    grabber = Grabber(source, channel, realtime=False, labels=None, warn=lambda _: None)
    grabber.start()
    for _ in range(5):
        assert channel.get(5) is not None
    assert grabber.stop()
    assert (grabber.reconnects, grabber.bad) == (1, 3 * module.MAX_BAD - 2)


def test_stop_ends_a_long_pause_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_PAUSE_S", 60.0)
    grabber = Grabber(Scripted([], live=True), Channel[Shot](1, lossy=True), realtime=False, labels=None, warn=print)
    grabber.start()
    while grabber.loss is None:
        time.sleep(0.01)
    assert grabber.loss.sentence(time.perf_counter()).endswith("s (attempt 1)")
    assert grabber.stop()


def test_stop_ends_a_waiting_put() -> None:
    grabber = Grabber(Scripted(["f"] * 50, live=False), Channel[Shot](1, lossy=False), realtime=False, labels=None, warn=print)
    grabber.start()
    assert grabber.stop()


def test_pause_holds_a_file() -> None:
    source, channel = Scripted(["f"] * 1000, live=False), Channel[Shot](1, lossy=True)
    grabber = Grabber(source, channel, realtime=False, labels=None, warn=print)
    grabber.pause(True)
    grabber.start()
    assert channel.get(0.1) is None
    grabber.pause(False)
    assert channel.get(5) is not None
    assert grabber.stop()


def test_realtime_paces_a_file_and_the_newest_wins() -> None:
    source, channel = Scripted(["f"] * 1000, live=False, fps=200.0), Channel[Shot](1, lossy=True)
    grabber = Grabber(source, channel, realtime=True, labels=None, warn=print)
    grabber.start()
    time.sleep(0.3)
    newest = channel.get(5)
    assert grabber.stop()
    assert newest is not None
    assert newest.index == channel.drops + 1  # everything before it was dropped and counted
    assert newest.index < 500  # not as fast as it goes


def test_a_failing_source_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    source, channel = Scripted(["f"], live=False), Channel[Shot](1, lossy=False)
    monkeypatch.setattr(source, "read", lambda: 1 / 0)
    grabber = Grabber(source, channel, realtime=False, labels=None, warn=print)
    grabber.start()
    assert drain(channel) == []
    assert grabber.stop()
    assert isinstance(grabber.error, ZeroDivisionError)
    assert source.closed == 1
