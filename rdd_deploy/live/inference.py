"""The threads that turn frames into labels."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np

from rdd_deploy.errors import SourceError
from rdd_deploy.live.channel import Channel, Finished, Relay
from rdd_deploy.live.flicker import ROWS, Flicker, seen
from rdd_deploy.live.grabber import MAX_BAD
from rdd_deploy.live.types import Array, CapturedFrame, Prediction, Result
from rdd_deploy.runtime import Segmenter

AT_ONCE = 16
"""So many frames in a row go through a network before its thread reads again, unless that takes longer than TURN_S: most likely network and
decoder push each other out of the core's cache (a loop of the demo's network, two cores: 0.87 of bare speed frame by frame, 0.97 with 16,
medians of 25 rounds, quartiles 0.82 to 0.90 and 0.85 to 1.04; 2026-11-24)."""
TURN_S = 0.03
TURN_BYTES = 1 << 24
"""Frames of a turn take no more memory than that and one frame; several threads hold two turns each."""


class Frames(Protocol):
    """Where frames come from: a Grabber, or a Channel."""

    def get(self) -> CapturedFrame | None:
        """The next frame. Raises Finished at the end."""

    def abandon(self) -> None:
        """No more frames are wanted."""


@dataclass
class _Frame:
    """A frame on its way, with what went wrong with it or (without a frame) before it."""

    shot: CapturedFrame | None
    inputs: list[tuple[int, Array, float]] = field(default_factory=list)
    """Of each bundle that is still to be asked its number, what it is to see, and the milliseconds that making that took."""
    greys: list[Array] = field(default_factory=list)
    """What flicker is told by, for each answer."""
    answers: list[Prediction] = field(default_factory=list)
    error: BaseException | None = None


class Inference:
    """Runs the active bundles on every frame that it can get: so many frames at a time as each of the bundles can.

    Each thread takes a turn's frames (one, or a few in a row where networks are fast), labels them one after the other and hands them on.
    Results leave in the order in which their frames came, and what one frame does to the next (flicker, bad frames in a row) is counted in
    that order; a thread that is done early goes on to another turn. In split view a frame's two bundles run one after the other.

    Args:
        segmenters: all loaded bundles.
        frames, results: where frames come from, and where results go.
        warn: called with a sentence about a frame that was skipped.
        at_once: so many frames are a turn at most, if they take no longer than TURN_S. More than one where frames needn't be waited for
            and only the rate counts.

    ``active`` may be replaced at any time: the next turn follows it.
    """

    def __init__(
        self,
        segmenters: Sequence[Segmenter],
        frames: Frames,
        results: Channel[Result] | Relay[Result],
        warn: Callable[[str], None],
        at_once: int = 1,
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
        self._done: dict[int, list[_Frame]] = {}
        self._taken = self._given = 0
        self._at_once = at_once
        self._next: tuple[tuple[int, ...], int] = ((), 1)
        """Of how many frames the next turn is, for the bundles that took the last one: others may be slow."""
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
        """Take a turn's frames, label them and hand them on if it is their turn; False to end."""
        with self._taking:  # turns are numbered in the order in which their frames come
            self._running.wait()
            if self._ended:
                return False
            started, number = time.perf_counter(), self._taken
            active, (timed, count) = self.active, self._next
            turn = self._take(active, count if active == timed else 1)
            if not turn:
                return False
            self._taken += 1
        for frame in turn:
            self._label(frame)
        per_frame = (time.perf_counter() - started) / len(turn)
        self._next = active, max(1, min(self._at_once, int(TURN_S / per_frame)))
        return self._deliver(number, turn)

    def _take(self, active: Sequence[int], count: int) -> list[_Frame]:
        """The next ``count`` frames, made ready for the bundles while they are in the core's cache; fewer, or none, at the end."""
        turn: list[_Frame] = []
        size = 0
        try:
            while len(turn) < count and size < TURN_BYTES and (not turn or self._running.is_set()):
                shot = self._frames.get()
                assert shot is not None, "only asked with a timeout"
                turn.append(self._prepared(shot, active))
                size += np.asarray(shot.frame).nbytes
        except Finished:
            pass
        except BaseException as error:  # shown by the main thread, behind the frames before it
            turn.append(_Frame(None, error=error))
        return turn

    def _prepared(self, shot: CapturedFrame, active: Sequence[int]) -> _Frame:
        frame = _Frame(shot)
        try:
            for index in active:
                start = time.perf_counter()
                network_input = self._segmenters[index].prepare(shot.frame)
                frame.inputs.append((index, network_input, (time.perf_counter() - start) * 1e3))
                frame.greys.append(seen(network_input))
        except BaseException as error:  # each frame that was taken must have its turn, or those behind it wait for ever
            frame.error = error
        return frame

    def _label(self, frame: _Frame) -> None:
        """Ask the bundles, unless something went wrong already."""
        try:
            for index, network_input, prepare_ms in frame.inputs if frame.error is None else ():
                start = time.perf_counter()
                labels = self._segmenters[index].infer(network_input)
                frame.answers.append(Prediction(index, labels, prepare_ms, (time.perf_counter() - start) * 1e3))
        except BaseException as error:  # as above
            frame.error = error
        frame.inputs.clear()

    def _deliver(self, number: int, turn: list[_Frame]) -> bool:
        """Hand on what has its turn by now; False if that was the end. Waits where too much waits already for an earlier turn."""
        with self._turn:
            self._done[number] = turn
            while not self._ended and self._given in self._done:
                try:
                    self._ended = not self._hand_on(self._done.pop(self._given))
                except BaseException as error:  # shown by the main thread
                    self._ended, self.error = True, error
                self._given += 1
                self._turn.notify_all()
            self._turn.wait_for(lambda: self._ended or len(self._done) < len(self._threads))
            return not self._ended

    def _hand_on(self, turn: list[_Frame]) -> bool:
        """Pass on what came of a turn's frames; False if nobody wants it. Raises what ends the run."""
        self._count_flicker([frame for frame in turn if frame.error is None])
        return all(self._pass_on(frame) for frame in turn)

    def _count_flicker(self, frames: Sequence[_Frame]) -> None:
        """All of them were answered by the same bundles."""
        for place, bundle in enumerate([answer.bundle for answer in frames[0].answers] if frames else ()):
            labels = [frame.answers[place].labels[0, ::ROWS] for frame in frames]
            shares = self._flicker[bundle].add([frame.greys[place] for frame in frames], labels)
            for frame, share in zip(frames, shares, strict=True):
                frame.answers[place] = replace(frame.answers[place], flicker=share)

    def _pass_on(self, frame: _Frame) -> bool:
        if frame.shot is not None and isinstance(frame.error, SourceError):
            self._skip(frame.shot, frame.error)
            return True
        if frame.error is not None:
            raise frame.error
        assert frame.shot is not None
        self._bad_in_a_row = 0
        return self._results.put(Result(frame.shot, tuple(frame.answers)))

    def _skip(self, shot: CapturedFrame, error: SourceError) -> None:
        self.bad += 1
        self._bad_in_a_row += 1
        self._warn(f"frame {shot.name}: {error}; skipped")
        if self._bad_in_a_row >= MAX_BAD:
            raise SourceError(f"{MAX_BAD} frames in a row can't be used, the last one: {error}") from error
