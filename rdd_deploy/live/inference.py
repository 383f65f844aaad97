"""The thread that turns frames into labels."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

import cv2
import numpy as np

from rdd_deploy.errors import SourceError
from rdd_deploy.live.channel import Channel, Finished
from rdd_deploy.live.grabber import MAX_BAD
from rdd_deploy.live.shot import Answer, Array, Result, Shot
from rdd_deploy.runtime import Segmenter

STILL = 4
"""Grey levels of 255: a pixel that differs by no more from the frame before hardly changed."""


class Inference(threading.Thread):
    """Runs the active bundles on every frame that it can get.

    Args:
        segmenters: all loaded bundles.
        frames, results: the channels before and behind.
        warn: called with a sentence about a frame that was skipped.

    ``active`` may be replaced at any time: the next frame follows it.
    """

    def __init__(
        self, segmenters: Sequence[Segmenter], frames: Channel[Shot], results: Channel[Result], warn: Callable[[str], None]
    ) -> None:
        super().__init__(name="inference", daemon=True)
        self._segmenters, self._frames, self._results, self._warn = segmenters, frames, results, warn
        self._flicker = [Flicker() for _ in segmenters]
        self.active: tuple[int, ...] = (0,)
        self.bad = 0
        self._bad_in_a_row = 0
        self._running = threading.Event()
        self._running.set()
        self.error: BaseException | None = None

    def pause(self, paused: bool) -> None:
        """Rest, or go on."""
        self._running.clear() if paused else self._running.set()

    def stop(self) -> None:
        """End the thread; a running inference is waited for."""
        self._frames.abandon()
        self._results.abandon()
        self._running.set()
        if self.ident is not None:
            self.join()

    def run(self) -> None:
        try:
            while True:
                self._running.wait()
                shot = self._frames.get()
                result = self._answer(shot) if shot is not None else None
                if result is not None and not self._results.put(result):
                    break
        except Finished:
            pass
        except BaseException as error:  # shown by the main thread
            self.error = error
        finally:
            self._frames.abandon()
            self._results.finish()

    def _answer(self, shot: Shot) -> Result | None:
        try:
            result = Result(shot, tuple(self._run(index, shot.frame) for index in self.active))
        except SourceError as error:
            self.bad += 1
            self._bad_in_a_row += 1
            self._warn(f"frame {shot.name}: {error}; skipped")
            if self._bad_in_a_row >= MAX_BAD:
                raise SourceError(f"{MAX_BAD} frames in a row can't be used, the last one: {error}") from error
            return None
        self._bad_in_a_row = 0
        return result

    def _run(self, index: int, frame: Array) -> Answer:
        segmenter = self._segmenters[index]
        start = time.perf_counter()
        blob = segmenter.prepare(frame)
        prepared = time.perf_counter()
        labels = segmenter.infer(blob)
        inferred = time.perf_counter()
        flicker = self._flicker[index].add(blob[0], labels[0])
        return Answer(index, labels, (prepared - start) * 1e3, (inferred - prepared) * 1e3, flicker)


class Flicker:
    """How many labels change where the image hardly does."""

    def __init__(self) -> None:
        self._grey: Array | None = None
        self._labels: Array | None = None

    def add(self, frame: Array, labels: Array) -> float | None:
        """Frame uint8 (h, w, 3) and labels (h, w), both at the network's size -> share in [0, 1] of the still pixels."""
        grey = np.asarray(cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY), np.uint8)
        before, labels_before = self._grey, self._labels
        self._grey, self._labels = grey, labels
        if before is None or labels_before is None:
            return None
        still = cv2.compare(cv2.absdiff(grey, before), STILL, cv2.CMP_LE)
        pixels = cv2.countNonZero(still)
        if not pixels:
            return None
        changed = cv2.bitwise_and(cv2.compare(labels, labels_before, cv2.CMP_NE), still)
        return cv2.countNonZero(changed) / pixels
