"""The threads that turn frames into labels."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import cv2
import numpy as np

from rdd_deploy.errors import SourceError
from rdd_deploy.live.channel import Channel, Finished, Relay
from rdd_deploy.live.grabber import MAX_BAD
from rdd_deploy.live.shot import Answer, Array, Result, Shot
from rdd_deploy.runtime import Segmenter

STILL = 4
"""Grey levels of 255: a pixel that differs by no more from the frame before hardly changed."""
ROWS = 4
"""Flicker is counted on every so many-th row: what the frame before left lies in another core's cache (the demo's network, two cores: 0.83 of
bare speed with all rows, 0.85 with every fourth, medians of 25 rounds, quartiles 0.79 to 0.86 and 0.82 to 0.88; 2026-11-23)."""


class Frames(Protocol):
    """Where frames come from: a Grabber, or a Channel."""

    def get(self) -> Shot | None:
        """The next frame. Raises Finished at the end."""

    def abandon(self) -> None:
        """No more frames are wanted."""


@dataclass
class _Done:
    """What came of taking a frame: the frame with its answers, each with the grey rows that flicker looks at, or what went wrong with the
    frame or (without a frame) before it."""

    shot: Shot | None
    answers: Sequence[tuple[Answer, Array]] = ()
    error: BaseException | None = None


class Inference:
    """Runs the active bundles on every frame that it can get: so many frames at a time as each of the bundles can.

    Results leave in the order in which their frames came, and what one frame does to the next (flicker, bad frames in a row) is counted in
    that order; a thread that is done early goes on to another frame. In split view a frame's two bundles run one after the other.

    Args:
        segmenters: all loaded bundles.
        frames, results: where frames come from, and where results go.
        warn: called with a sentence about a frame that was skipped.

    ``active`` may be replaced at any time: the next frame follows it.
    """

    def __init__(
        self, segmenters: Sequence[Segmenter], frames: Frames, results: Channel[Result] | Relay[Result], warn: Callable[[str], None]
    ) -> None:
        self.workers = min(segmenter.parallel for segmenter in segmenters)
        """So many frames are computed at a time."""
        self._threads = [threading.Thread(target=self._work, name="inference", daemon=True) for _ in range(self.workers)]
        self._segmenters, self._frames, self._results, self._warn = segmenters, frames, results, warn
        self._flicker = [Flicker() for _ in segmenters]
        self.active: tuple[int, ...] = (0,)
        self.bad = 0
        self._bad_in_a_row = 0
        self._running = threading.Event()
        self._running.set()
        self._taking = threading.Lock()
        self._turn = threading.Condition()
        self._done: dict[int, _Done] = {}
        self._taken = self._given = 0
        self._ended, self._working = False, self.workers
        self.error: BaseException | None = None

    def start(self) -> None:
        """Start the threads; call it once."""
        for thread in self._threads:
            thread.start()

    def pause(self, paused: bool) -> None:
        """Rest, or go on."""
        self._running.clear() if paused else self._running.set()

    def stop(self) -> None:
        """End the threads; running inferences are waited for."""
        self._frames.abandon()
        self._results.abandon()
        self._running.set()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()

    def _work(self) -> None:
        try:
            while self._step():
                pass
        finally:
            self._frames.abandon()
            with self._turn:
                self._working -= 1
                if not self._working:
                    self._results.finish()

    def _step(self) -> bool:
        """Take a frame, label it and hand it on if it is its turn; False to end."""
        with self._taking:  # the frames are numbered in the order in which they come
            self._running.wait()
            if self._ended:
                return False
            try:
                done = _Done(self._frames.get())
            except Finished:
                return False
            except BaseException as error:  # shown by the main thread, behind the frames before it
                done = _Done(None, error=error)
            number, active = self._taken, self.active
            self._taken += 1
        if done.shot is not None:
            try:
                done.answers = [self._run(index, done.shot.frame) for index in active]
            except BaseException as error:  # each frame that was taken must have its turn, or those behind it wait for ever
                done.error = error
        return self._deliver(number, done)

    def _deliver(self, number: int, done: _Done) -> bool:
        """Hand on what has its turn by now; False if that was the end. Waits where too much waits already for an earlier frame."""
        with self._turn:
            self._done[number] = done
            while not self._ended and self._given in self._done:
                try:
                    self._ended = not self._hand_on(self._done.pop(self._given))
                except BaseException as error:  # shown by the main thread
                    self._ended, self.error = True, error
                self._given += 1
                self._turn.notify_all()
            self._turn.wait_for(lambda: self._ended or len(self._done) < len(self._threads))
            return not self._ended

    def _hand_on(self, done: _Done) -> bool:
        """Pass on what came of a frame; False if nobody wants it. Raises what ends the run."""
        if done.shot is not None and isinstance(done.error, SourceError):
            self._skip(done.shot, done.error)
            return True
        if done.error is not None:
            raise done.error
        assert done.shot is not None
        self._bad_in_a_row = 0
        answers = (
            replace(answer, flicker=self._flicker[answer.bundle].add(grey, answer.labels[0, ::ROWS])) for answer, grey in done.answers
        )
        return self._results.put(Result(done.shot, tuple(answers)))

    def _skip(self, shot: Shot, error: SourceError) -> None:
        self.bad += 1
        self._bad_in_a_row += 1
        self._warn(f"frame {shot.name}: {error}; skipped")
        if self._bad_in_a_row >= MAX_BAD:
            raise SourceError(f"{MAX_BAD} frames in a row can't be used, the last one: {error}") from error

    def _run(self, index: int, frame: Array) -> tuple[Answer, Array]:
        """What a bundle says to a frame, and every ROWS-th row of what it saw, in grey: uint8 (rows, w)."""
        segmenter = self._segmenters[index]
        start = time.perf_counter()
        blob = segmenter.prepare(frame)
        prepared = time.perf_counter()
        grey = np.asarray(cv2.cvtColor(blob[0, ::ROWS], cv2.COLOR_BGR2GRAY), np.uint8)  # while it is in the core's cache
        inferring = time.perf_counter()
        labels = segmenter.infer(blob)
        inferred = time.perf_counter()
        return Answer(index, labels, (prepared - start) * 1e3, (inferred - inferring) * 1e3), grey


class Flicker:
    """How many labels change where the image hardly does."""

    def __init__(self) -> None:
        self._grey: Array | None = None
        self._labels: Array | None = None

    def add(self, grey: Array, labels: Array) -> float | None:
        """A frame's rows in grey and their labels, uint8 (rows, w) -> share in [0, 1] of the still pixels; None without any."""
        before, labels_before = self._grey, self._labels
        self._grey, self._labels = grey, labels
        if before is None or labels_before is None:
            return None
        _, moved = cv2.threshold(cv2.absdiff(grey, before), STILL, 255, cv2.THRESH_BINARY)
        still = moved.size - cv2.countNonZero(moved)
        if not still:
            return None
        changed = cv2.subtract(cv2.compare(labels, labels_before, cv2.CMP_NE), moved)  # 255 - 255 and 0 - 255 are 0
        return float(cv2.countNonZero(changed) / still)
