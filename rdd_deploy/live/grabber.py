"""The thread that reads the source, keeps to its rate, and opens it again when it is lost."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from rdd_deploy.errors import DataError, SourceError
from rdd_deploy.live.channel import Channel
from rdd_deploy.live.labels import LabelFolder
from rdd_deploy.live.shot import Array, Shot
from rdd_deploy.live.sources import Source

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 10.0
JOIN_S = 10.0
"""Longer than a silent stream can hold ``read`` or ``open`` (see captures)."""
MAX_BAD = 30
"""So many frames or masks in a row that can't be used end the run; a live source that gives such frames counts as lost."""


@dataclass(frozen=True)
class Loss:
    """The connection is gone."""

    since_s: float
    attempt: int
    retry_s: float

    def sentence(self, now: float) -> str:
        wait = self.retry_s - now
        what = f"trying again in {wait:.0f} s" if wait > 0.5 else "trying again now"
        return f"connection lost {now - self.since_s:.0f} s ago, {what} (attempt {self.attempt})"


def pauses() -> Iterator[float]:
    """0.5, 1, 2, 4, 8, 10, 10, … seconds."""
    pause = FIRST_PAUSE_S
    while True:
        yield pause
        pause = min(2 * pause, LONGEST_PAUSE_S)


class Grabber(threading.Thread):
    """Reads until the end, ``stop()`` or an error, then closes the source and finishes the channel.

    Args:
        source: open already.
        channel: where frames go; a lossy one holds one frame, the newest.
        realtime: keep a file to its own rate.
        labels: adds the truth to each frame.
        warn: called with a sentence about a frame that was skipped.
    """

    def __init__(
        self, source: Source, channel: Channel[Shot], *, realtime: bool, labels: LabelFolder | None, warn: Callable[[str], None]
    ) -> None:
        super().__init__(name="grabber", daemon=True)
        self._source, self._channel, self._labels, self._warn = source, channel, labels, warn
        self._interval = 1 / source.fps if realtime and not source.live and source.fps else 0.0
        self._due = 0.0
        self._stopping = threading.Event()
        self._running = threading.Event()
        self._running.set()
        self.loss: Loss | None = None
        self.reconnects = 0
        self.bad = 0
        self._bad_in_a_row = self._bad_masks = self._good_masks = 0
        self._mask_error: DataError | None = None
        self.error: BaseException | None = None

    def pause(self, paused: bool) -> None:
        """Hold a file where it is. A live source goes on being drained, so that its newest frame is new afterwards."""
        self._channel.counting = not paused
        if not self._source.live:
            self._running.clear() if paused else self._running.set()

    def stop(self) -> bool:
        """End the thread; False if the source's driver still holds it after JOIN_S."""
        self._stopping.set()
        self._running.set()
        self._channel.abandon()
        if self.ident is not None:
            self.join(JOIN_S)
        return not self.is_alive()

    def run(self) -> None:
        try:
            while not self._stopping.is_set() and self._step():
                pass
        except BaseException as error:  # shown by the main thread
            self.error = error
        finally:
            self._source.close()
            self._channel.finish()

    def _step(self) -> bool:
        """Read and hand over one frame; False to end."""
        self._pace()
        try:
            shot = self._source.read()
        except SourceError as error:
            self.bad += 1
            self._bad_in_a_row += 1
            self._warn(f"{error}; skipped")
            return not self._source.live or self._bad_in_a_row < MAX_BAD or self._reconnect()
        self._bad_in_a_row = 0
        if shot is not None:
            return self._channel.put(shot if self._labels is None else replace(shot, truth=self._truth(self._labels, shot)))
        if self._mask_error is not None and not self._good_masks:
            raise self._mask_error
        return self._source.live and self._reconnect()

    def _truth(self, labels: LabelFolder, shot: Shot) -> Array | None:
        """A bad mask costs its frame the truth. Raises DataError once MAX_BAD in a row were bad."""
        try:
            truth = labels.truth(shot)
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

    def _pace(self) -> None:
        if not self._running.is_set():
            self._running.wait()
            self._due = 0.0
        if self._interval:
            now = time.perf_counter()
            # After a pause, or a frame that took longer than its turn, count from now instead of hurrying.
            self._due = self._due + self._interval if now < self._due + 2 * self._interval else now
            self._stopping.wait(max(0.0, self._due - now))

    def _reconnect(self) -> bool:
        """Open the source again and again until it delivers a frame; False if stopped meanwhile."""
        since = time.perf_counter()
        self._bad_in_a_row = 0
        for attempt, pause in enumerate(pauses(), 1):
            self.loss = Loss(since, attempt, time.perf_counter() + pause)
            self._source.close()
            if self._stopping.wait(pause):
                return False
            try:
                self._source.open()
                shot = self._source.read()
            except SourceError:
                continue
            if shot is not None:
                self.reconnects += 1
                self.loss = None
                return self._channel.put(shot)
        return False
