"""Frames to labels: the active bundles on every frame, several frames at a time where a file is played whole."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Protocol

from rdd_deploy.errors import SourceError
from rdd_deploy.live.channel import Channel, Finished
from rdd_deploy.live.flicker import ROWS, Flicker, grey_rows
from rdd_deploy.live.grabber import MAX_BAD
from rdd_deploy.live.types import Array, CapturedFrame, Prediction, Result
from rdd_deploy.runtime import Segmenter


class Frames(Protocol):
    """Where frames come from: a Grabber, or a Channel."""

    def get(self) -> CapturedFrame | None:
        """The next frame. Raises Finished at the end."""

    def abandon(self) -> None:
        """No more frames are wanted."""


@dataclass(frozen=True)
class _Labelled:
    """What the bundles predicted for one frame, and the picture that each of them saw, for its flicker."""

    predictions: list[Prediction]
    greys: list[Array]


class Inference:
    """Runs the active bundles on every frame that it can get, and hands the results on in the order of the frames.

    One thread takes frames, gives them to a pool of ``workers`` threads and hands on what is ready; what one frame does
    to the next (flicker, bad frames in a row) is counted there, in order. In split view a frame's two bundles run one
    after the other.

    Args:
        segmenters: all loaded bundles. The pool has as many threads as the least ``parallel`` of them.
        frames, results: where frames come from, and where results go.
        warn: called with a sentence about a frame that was skipped.

    Attributes:
        active: numbers of the bundles that run. May be replaced at any time; the next frame follows it.
        workers: how many frames are computed at a time.
        bad: how many frames were skipped.
        error: what ended the run, to be raised by the main thread once all results before it were taken.
    """

    def __init__(
        self, segmenters: Sequence[Segmenter], frames: Frames, results: Channel[Result], warn: Callable[[str], None]
    ) -> None:
        self._segmenters, self._frames, self._results, self._warn = segmenters, frames, results, warn
        self.workers = min(segmenter.parallel for segmenter in segmenters)
        # One frame at a time is handed on at once; several may wait for a slow one before them, so that no thread of
        # the pool idles.
        self._most_pending = 2 * self.workers if self.workers > 1 else 1
        self.active: tuple[int, ...] = (0,)
        self.bad = 0
        self.error: BaseException | None = None
        self._bad_in_a_row = 0
        self._flicker = [Flicker() for _ in segmenters]
        self._running = threading.Event()
        self._running.set()
        self._thread = threading.Thread(target=self._work, name="inference", daemon=True)

    def start(self) -> None:
        """Start the threads; call it once."""
        self._thread.start()

    def pause(self, paused: bool) -> None:
        """Rest, or go on."""
        self._running.clear() if paused else self._running.set()

    def stop(self) -> None:
        """End the threads; running inferences are waited for."""
        self._frames.abandon()
        self._results.abandon()
        self._running.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _work(self) -> None:
        pool = ThreadPoolExecutor(self.workers, thread_name_prefix="inference")
        try:
            self._label_all(pool)
        except Finished:
            pass
        except BaseException as error:  # raised by the main thread
            self.error = error
        finally:
            pool.shutdown(cancel_futures=True)
            self._frames.abandon()
            self._results.finish()

    def _label_all(self, pool: ThreadPoolExecutor) -> None:
        """Label frames until nobody wants results any more. Raises what the source or an inference ended with, behind
        the frames before.
        """
        pending: deque[tuple[CapturedFrame, Future[_Labelled]]] = deque()
        ended: BaseException | None = None
        while ended is None:
            try:
                self._running.wait()
                captured = self._frames.get()
                assert captured is not None, "only asked with a timeout"
            except BaseException as error:  # Finished at the end; raised behind the frames before it
                ended = error
            else:
                pending.append((captured, pool.submit(self._label, captured, self.active)))
            while pending and (ended is not None or len(pending) >= self._most_pending or pending[0][1].done()):
                if not self._hand_on(*pending.popleft()):
                    return
        raise ended

    def _label(self, captured: CapturedFrame, active: Sequence[int]) -> _Labelled:
        """Ask the bundles; runs in the pool."""
        predictions, greys = [], []
        for index in active:
            start = time.perf_counter()
            network_input = self._segmenters[index].prepare(captured.frame)
            prepared = time.perf_counter()
            labels = self._segmenters[index].infer(network_input)
            predictions.append(
                Prediction(index, labels, (prepared - start) * 1e3, (time.perf_counter() - prepared) * 1e3)
            )
            greys.append(grey_rows(network_input))
        return _Labelled(predictions, greys)

    def _hand_on(self, captured: CapturedFrame, labelled: Future[_Labelled]) -> bool:
        """Wait for a frame's labels and pass them on; False if nobody wants them. Raises what ends the run."""
        try:
            done = labelled.result()
        except SourceError as error:
            self._skip(captured, error)
            return True
        self._bad_in_a_row = 0
        predictions = [
            replace(one, flicker=self._flicker[one.bundle].add(grey, one.labels[0, ::ROWS]))
            for one, grey in zip(done.predictions, done.greys, strict=True)
        ]
        return self._results.put(Result(captured, tuple(predictions)))

    def _skip(self, captured: CapturedFrame, error: SourceError) -> None:
        self.bad += 1
        self._bad_in_a_row += 1
        self._warn(f"frame {captured.name}: {error}; skipped")
        if self._bad_in_a_row >= MAX_BAD:
            raise SourceError(f"{MAX_BAD} frames in a row can't be used, the last one: {error}") from error
