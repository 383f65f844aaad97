"""What a run measured: per-stage times, accuracy, disagreement, flicker; for the screen and as JSON."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rdd_deploy.live.types import Array, Result
from rdd_deploy.metrics import Confusion
from rdd_deploy.runtime import Segmenter
from rdd_deploy.utils.machine import versions

SCHEMA_VERSION = 1
STAGES = ("capture", "prepare", "infer", "draw", "show")
KEPT = 1 << 17
"""Percentiles are over the last so many frames (over an hour at 30 per second)."""
RECENT = 60


class Meter:
    """Times in milliseconds, the last KEPT of them."""

    def __init__(self) -> None:
        self._values: NDArray[np.float32] = np.zeros(1024, np.float32)
        self.count = 0

    def add(self, value: float) -> None:
        if self.count == len(self._values) < KEPT:
            self._values = np.concatenate([self._values, np.zeros_like(self._values)])
        self._values[self.count % len(self._values)] = value
        self.count += 1

    def recent(self, *percentiles: float) -> list[float]:
        """Percentiles of the last RECENT values; NaN without any."""
        where = np.arange(max(0, self.count - RECENT), self.count) % len(self._values)
        return (
            [float("nan")] * len(percentiles)
            if not self.count
            else [float(v) for v in np.percentile(self._values[where], percentiles)]
        )

    def summary(self) -> dict[str, float] | None:
        """p50, p95 and p99 of all kept values; None without any."""
        if not self.count:
            return None
        values = np.percentile(self._values[: min(self.count, len(self._values))], (50, 95, 99))
        return {name: round(float(value), 3) for name, value in zip(("p50", "p95", "p99"), values, strict=True)}


class Mean:
    """A running mean of shares in [0, 1]."""

    def __init__(self) -> None:
        self.total, self.count = 0.0, 0
        self._recent: deque[float] = deque(maxlen=RECENT)

    def add(self, value: float) -> None:
        self.total, self.count = self.total + value, self.count + 1
        self._recent.append(value)

    def percent(self) -> float | None:
        """Mean over the whole run in percent; None without values."""
        return round(100 * self.total / self.count, 3) if self.count else None

    def recent_percent(self) -> float | None:
        """Mean over the last RECENT frames in percent; None without values."""
        return 100 * sum(self._recent) / len(self._recent) if self._recent else None


class BundleStats:
    """The figures of one bundle."""

    def __init__(self, segmenter: Segmenter) -> None:
        self.segmenter = segmenter
        self.frames = self.labelled = 0
        self.confusion = Confusion(segmenter.classes)
        self.flicker = Mean()

    def record(self) -> dict[str, Any]:
        bundle, seen = self.segmenter, bool(self.confusion.matrix.any())
        accuracy = self.confusion.summary()
        return {
            "name": bundle.manifest.name,
            "profile": bundle.manifest.profile,
            "backend": bundle.backend,
            "precision": bundle.precision,
            "device": bundle.device,
            "provider": bundle.provider,
            "frames": self.frames,
            "labelled_frames": self.labelled,
            "miou_pct": accuracy["miou_pct"] if seen else None,
            "iou_pct": accuracy["iou_pct"] if seen else None,
            "flicker_pct": self.flicker.percent(),
        }


class Stats:
    """The figures of a run, counted frame by frame in the main thread."""

    def __init__(self, segmenters: Sequence[Segmenter]) -> None:
        self.stages = {name: Meter() for name in STAGES}
        self.age = Meter()
        self.bundles = [BundleStats(segmenter) for segmenter in segmenters]
        self.disagreements: dict[tuple[int, ...], Mean] = {}
        """By the numbers of two bundles, from 0, that the split view showed together; the pair that was shown last is the last."""
        self.frames = 0
        self._started = time.perf_counter()
        self._first_s = self._last_s = self._resumed_s = 0.0
        self._shown: deque[float] = deque(maxlen=RECENT)

    def answered(self, result: Result, labels: Sequence[Array] | None, truth_classes: Sequence[str] | None) -> None:
        """Count one result; ``labels`` are its predictions at the frame's size, needed with a truth, whose ids
        ``truth_classes`` name.
        """
        self.stages["capture"].add(result.captured.capture_ms)
        self.stages["prepare"].add(sum(prediction.prepare_ms for prediction in result.predictions))
        self.stages["infer"].add(sum(prediction.infer_ms for prediction in result.predictions))
        for prediction in result.predictions:
            bundle = self.bundles[prediction.bundle]
            bundle.frames += 1
            if prediction.flicker is not None:
                bundle.flicker.add(prediction.flicker)
        if result.captured.truth is None or labels is None or truth_classes is None:
            return
        for prediction, predicted in zip(result.predictions, labels, strict=True):
            bundle = self.bundles[prediction.bundle]
            if tuple(truth_classes) == bundle.segmenter.classes:
                bundle.confusion.add(result.captured.truth, predicted)
                bundle.labelled += 1

    def differed(self, bundles: Iterable[int], share: float) -> None:
        """Count a frame of the split view: ``share`` of its pixels, in [0, 1], isn't the same in both bundles."""
        pair = tuple(sorted(bundles))
        mean = self.disagreements.pop(pair, None) or Mean()
        mean.add(share)
        self.disagreements[pair] = mean

    @property
    def disagreement(self) -> Mean | None:
        """The mean of the pair that was shown last."""
        return next(reversed(self.disagreements.values()), None)

    def shown(self, draw_ms: float, show_ms: float, grabbed_s: float) -> None:
        """Count a frame that was shown, recorded or, headless, counted only."""
        now = time.perf_counter()
        self.stages["draw"].add(draw_ms)
        self.stages["show"].add(show_ms)
        if grabbed_s >= self._resumed_s:  # a frame that waited for a key isn't late
            self.age.add((now - grabbed_s) * 1e3)
        self.frames += 1
        self._first_s, self._last_s = self._first_s or now, now
        self._shown.append(now)

    def paused(self, seconds: float) -> None:
        """The user paused until now; that time counts for no rate and no age."""
        self._resumed_s = time.perf_counter()
        self._first_s += seconds * bool(self._first_s)
        self._shown.clear()

    def recent_fps(self) -> float:
        """Frames per second over the last RECENT frames; 0 before the second."""
        span = self._shown[-1] - self._shown[0] if len(self._shown) > 1 else 0.0
        return (len(self._shown) - 1) / span if span else 0.0

    def record(
        self, source: str, live: bool, drops: int, reconnects: int, bad_frames: int, workers: int
    ) -> dict[str, Any]:
        """Everything as JSON can hold it; None where nothing was measured.

        Stages are the time of one frame, also where ``workers`` of them are in ``prepare`` and ``infer`` at a time.

        ``disagreement_pct`` is that of the pair that the split view showed last, ``disagreements`` that of every pair.

        ``fps`` counts from the first shown frame to the last. ``end_to_end_ms`` is the age of a frame when it is shown:
        from the grab of a camera or stream, from the start of reading of a file.
        """
        span = self._last_s - self._first_s
        return {
            "schema_version": SCHEMA_VERSION,
            "source": source,
            "live": live,
            "seconds": round(time.perf_counter() - self._started, 3),
            "frames": self.frames,
            "fps": round((self.frames - 1) / span, 3) if span else None,
            "end_to_end_ms": self.age.summary(),
            "inference_workers": workers,
            "stages_ms": {name: meter.summary() for name, meter in self.stages.items()},
            "drops": drops,
            "reconnects": reconnects,
            "bad_frames": bad_frames,
            "disagreement_pct": self.disagreement.percent() if self.disagreement else None,
            "disagreements": [
                {"bundles": [index + 1 for index in pair], "frames": mean.count, "pct": mean.percent()}
                for pair, mean in self.disagreements.items()
            ],
            "bundles": [bundle.record() for bundle in self.bundles],
            "versions": versions(),
        }
