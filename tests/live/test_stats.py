import json
import time
from pathlib import Path

import numpy as np
import pytest

from rdd_deploy.live.stats import KEPT, Meter, Stats
from rdd_deploy.live.types import CapturedFrame, Prediction, Result
from rdd_deploy.runtime import Segmenter

FRAME = np.full((10, 10, 3), 100, np.uint8)


def test_meter() -> None:
    meter = Meter()
    assert meter.summary() is None
    assert np.isnan(meter.recent(50)[0])
    for value in range(1, 2001):
        meter.add(value)
    summary = meter.summary()
    assert summary is not None
    assert summary["p50"] == pytest.approx(1000.5)
    assert summary["p99"] == pytest.approx(1980.01)
    assert meter.recent(0, 100) == [1941, 2000]


def test_meter_is_bounded() -> None:
    meter = Meter()
    for value in range(KEPT + 5):
        meter.add(value)
    assert len(meter._values) == KEPT
    assert meter._values.min() == 5
    assert meter.recent(100) == [KEPT + 4]


def test_a_pause_is_neither_latency_nor_a_slow_rate(bundles: tuple[Path, Path]) -> None:
    with Segmenter.load(bundles[0]) as segmenter:
        stats = Stats([segmenter])
        stats.shown(0.0, 0.0, time.perf_counter())
        grabbed = time.perf_counter()
        stats.paused(1000.0)
        stats.shown(0.0, 0.0, grabbed)
        assert stats.age.count == 1, "a frame that waited for the pause to end isn't late"
        stats.shown(0.0, 0.0, time.perf_counter())
        assert stats.age.count == 2
        assert stats._last_s - stats._first_s < 0, "the pause doesn't count"


def test_record_is_json_with_known_figures(bundles: tuple[Path, Path]) -> None:
    with Segmenter.load(bundles[0]) as segmenter:
        stats = Stats([segmenter])
        truth = np.zeros((10, 10), np.uint8)
        predicted = truth.copy()
        predicted[0] = 1
        truth[9] = 255
        result = Result(
            CapturedFrame(FRAME, 0, "0", 0.0, 4.0, truth), (Prediction(0, predicted[None], 1.0, 2.0, 0.25),)
        )
        stats.answered(result, [predicted], segmenter.classes)
        stats.answered(result, [predicted], ("other", "class", "names"))
        stats.shown(3.0, 5.0, 0.0)
        record = json.loads(json.dumps(stats.record("x", True, 7, 1, 2, 3), allow_nan=False))
    assert (record["drops"], record["reconnects"], record["bad_frames"], record["frames"]) == (7, 1, 2, 1)
    assert record["inference_workers"] == 3
    assert record["fps"] is None
    assert record["stages_ms"]["draw"] == {"p50": 3.0, "p95": 3.0, "p99": 3.0}
    (bundle,) = record["bundles"]
    assert bundle["miou_pct"] == pytest.approx(100 * (80 / 90 + 0) / 2, abs=1e-3)
    assert bundle["iou_pct"]["red"] is None
    assert bundle["flicker_pct"] == 25.0
    assert "numpy" in record["versions"]
