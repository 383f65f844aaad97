"""The thread that reads the source, keeps to its rate, and opens it again when it is lost."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from rdd_deploy.errors import DataError, SourceError
from rdd_deploy.live.channel import Channel
from rdd_deploy.live.labels import LabelFolder
from rdd_deploy.live.sources import Source
from rdd_deploy.live.types import Array, CapturedFrame

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 10.0
JOIN_S = 10.0
"""Longer than a silent stream can hold ``read`` or ``open`` (see captures)."""
LONGEST_STEP_S = 60.0
"""A longer one in a file's time stamps is a break in them, and isn't waited for."""
MAX_BAD = 30
"""So many frames or masks in a row that can't be used end the run; a live source that gives such frames counts as lost."""


@dataclass(frozen=True)
class Loss:
    """A lost connection: since when, and when it is tried again."""

    since_s: float
    attempt: int
    retry_s: float

    def sentence(self, now: float) -> str:
        wait = self.retry_s - now
        what = f"trying again in {wait:.0f} s" if wait > 0.5 else "trying again now"
        return f"connection lost {now - self.since_s:.0f} s ago, {what} (attempt {self.attempt})"


def pauses() -> Iterator[float]:
    """Seconds between attempts to open a source again: 0.5, 1, 2, 4, 8, 10, 10, …"""
    pause = FIRST_PAUSE_S
    while True:
        yield pause
        pause = min(2 * pause, LONGEST_PAUSE_S)


class Grabber:
    """Reads the source in a thread of its own, a little ahead or, ``lossy``, always the newest, until the end,
    ``stop()`` or an error.

    Args:
        source: open already; closed at the end.
        lossy: keep one frame, the newest, and count those that nobody took.
        realtime: keep a file to its own rate.
        labels: adds the truth to each frame.
        warn: called with a sentence about a frame that was skipped.
    """

    def __init__(
        self,
        source: Source,
        *,
        lossy: bool = False,
        realtime: bool = False,
        labels: LabelFolder | None,
        warn: Callable[[str], None],
    ) -> None:
        self._source, self._labels, self._warn = source, labels, warn
        self._channel: Channel[CapturedFrame] = Channel(1 if lossy else 2, lossy)
        self._thread = threading.Thread(target=self._run, name="grabber", daemon=True)
        self._interval = 1 / source.fps if realtime and not source.live and source.fps else 0.0
        self._due = 0.0
        self._at_s: float | None = None
        self._stopping = threading.Event()
        self._running = threading.Event()
        self._running.set()
        self.loss: Loss | None = None
        self.reconnects = 0
        self.bad = 0
        self._bad_in_a_row = self._bad_masks = self._good_masks = 0
        self._mask_error: DataError | None = None

    @property
    def drops(self) -> int:
        """Frames that nobody took, because a newer one came."""
        return self._channel.drops

    def start(self) -> None:
        """Start the thread; call it once."""
        self._thread.start()

    def get(self) -> CapturedFrame:
        """The next frame. Raises Finished at the end, or what the source failed with."""
        captured = self._channel.get()
        assert captured is not None, "only asked with a timeout"
        return captured

    def pause(self, paused: bool) -> None:
        """Hold a file where it is. A live source goes on being drained, so that its newest frame is new afterwards."""
        self._channel.counting = not paused
        if not self._source.live:
            self._running.clear() if paused else self._running.set()

    def abandon(self) -> None:
        """Nobody wants more frames."""
        self._stopping.set()
        self._running.set()
        self._channel.abandon()

    def stop(self) -> bool:
        """End the thread and close the source; False if its driver still holds it after JOIN_S."""
        self.abandon()
        if self._thread.ident is None:  # never started
            self._source.close()
            return True
        self._thread.join(JOIN_S)
        return not self._thread.is_alive()

    def _run(self) -> None:
        failure = None
        try:
            while (captured := self._next()) is not None and self._channel.put(captured):
                pass
        except BaseException as error:  # raised where the frames are taken
            failure = error
        finally:
            self._source.close()
            self._channel.finish(failure)

    def _next(self) -> CapturedFrame | None:
        """The next usable frame; None at the end."""
        while not self._stopping.is_set():
            if not self._running.is_set():
                self._running.wait()
                self._due = 0.0
            try:
                captured = self._source.read()
            except SourceError as error:
                self.bad += 1
                self._bad_in_a_row += 1
                self._warn(f"{error}; skipped")
                if self._source.live and self._bad_in_a_row >= MAX_BAD:
                    return self._reconnect()
                continue
            self._bad_in_a_row = 0
            if captured is not None:
                captured = self._paced(captured)
                return (
                    captured if self._labels is None else replace(captured, truth=self._truth(self._labels, captured))
                )
            if self._mask_error is not None and not self._good_masks:
                raise self._mask_error
            return self._reconnect() if self._source.live else None
        return None

    def _truth(self, labels: LabelFolder, captured: CapturedFrame) -> Array | None:
        """A bad mask costs its frame the truth. Raises DataError once MAX_BAD in a row were bad."""
        try:
            truth = labels.truth(captured)
        except DataError as error:
            self._mask_error = error
            self._bad_masks += 1
            if self._bad_masks >= MAX_BAD:
                raise
            self._warn(f"{error}; its frame counts for no mIoU")
            return None
        if truth is not None:
            self._good_masks += 1
            self._bad_masks = 0
        return truth

    def _paced(self, captured: CapturedFrame) -> CapturedFrame:
        """Hold a frame of a file until its time, by the file's own time stamps where it has them."""
        if not self._interval:
            return captured
        step = captured.at_s - self._at_s if captured.at_s is not None and self._at_s is not None else self._interval
        self._at_s = captured.at_s
        now, due = time.perf_counter(), self._due + (step if 0 < step < LONGEST_STEP_S else self._interval)
        # After a pause, or a frame that took longer than its turn, count from now instead of hurrying.
        self._due = due if now < due + 2 * self._interval else now
        wait = max(0.0, self._due - now)
        self._stopping.wait(wait)
        return replace(captured, grabbed_s=captured.grabbed_s + wait)

    def _reconnect(self) -> CapturedFrame | None:
        """Open the source again and again until it delivers a frame; None if stopped meanwhile."""
        since = time.perf_counter()
        self._bad_in_a_row = 0
        for attempt, pause in enumerate(pauses(), 1):
            self.loss = Loss(since, attempt, time.perf_counter() + pause)
            self._source.close()
            if self._stopping.wait(pause):
                return None
            try:
                self._source.open()
                captured = self._source.read()
            except SourceError:
                continue
            if captured is not None:
                self.reconnects += 1
                self.loss = None
                return captured
        return None
