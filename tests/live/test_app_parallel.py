"""Several frames of a file at a time, headless, in this process."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from live_app import Screen, count, run
from toy_bundle import toy_bundle

from rdd_deploy.errors import DeviceError, DiskError
from rdd_deploy.live import app, display, player
from rdd_deploy.live import bundles as bundles_module
from rdd_deploy.live.app import live
from rdd_deploy.live.options import LiveOptions
from rdd_deploy.utils.machine import available_cores


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_a_file_is_labelled_several_frames_at_a_time_with_the_same_result(
    tmp_path: Path, video: Path, monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    """Labels frame by frame, flicker, mIoU and the recording are those of one frame after the other."""
    pytest.importorskip(backend)
    if (os.cpu_count() or 1) < 2:
        pytest.skip("OpenVINO gives no more inferences at a time than there are cores")
    bundle = toy_bundle(tmp_path / "toy", 24, 32, manifest={"backend": backend, "profile": f"{backend}-fp32"}, work=2)
    masks = tmp_path / "masks"
    masks.mkdir()
    for index in range(0, 40, 3):
        cv2.imwrite(
            str(masks / f"{index}.png"),
            np.roll(np.repeat(np.arange(3, dtype=np.uint8)[None], 48, 0).repeat(22, 1)[:, :64], index, 1),
        )
    seen: list[tuple[int, bytes]] = []
    answered = player.Stats.answered

    def spy(self: Any, result: Any, labels: Any, classes: Any) -> None:
        seen.append((result.captured.index, labels[0].tobytes()))
        answered(self, result, labels, classes)

    monkeypatch.setattr(player.Stats, "answered", spy)
    monkeypatch.setattr(player.Picture, "_status", lambda *_: ["no figures, which differ from run to run"])
    runs = []
    for threads in (1, 2):
        seen.clear()
        recording = tmp_path / f"seen{threads}.avi"
        record = run(tmp_path, bundle, source=str(video), labels=masks, threads=threads, record=recording)
        assert record["inference_workers"] == threads
        runs.append(
            (
                [*seen],
                record["frames"],
                record["bad_frames"],
                record["drops"],
                record["bundles"],
                recording.read_bytes(),
            )
        )
    assert runs[0] == runs[1]
    assert [index for index, _ in runs[0][0]] == list(range(40))
    assert runs[0][4][0]["miou_pct"] is not None
    assert runs[0][4][0]["flicker_pct"] is not None


def test_one_at_a_time_where_the_age_counts(
    tmp_path: Path, bundles: tuple[Path, Path], video: Path, folder: Path
) -> None:
    """Live sources and --realtime: the frame that is there gets all threads."""
    workers = {
        "realtime": run(tmp_path, bundles[0], source=str(video), realtime=True, threads=2, max_frames=2),
        "streets": run(tmp_path, bundles[0], source="streets", size=(64, 48), threads=2, max_frames=2),
        "folder": run(tmp_path, bundles[0], source=str(folder), threads=2),
        "many": run(tmp_path, bundles[0], source=str(video), threads=64),
    }
    assert {name: record["inference_workers"] for name, record in workers.items()} == {
        "realtime": 1,
        "streets": 1,
        "folder": 2,
        "many": 4,
    }


def test_one_at_a_time_where_a_bundle_cant_more(
    tmp_path: Path, bundles: tuple[Path, Path], video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU; all bundles then take one, with all threads. What else is wrong with a device is still said."""
    load, asked = bundles_module.Segmenter.load, []

    def picky(path: Path, parallel: int, **options: Any) -> Any:
        asked.append((path.name, parallel, options["threads"]))
        if parallel > 1 and path == bundles[1]:
            raise DeviceError("takes one")
        return load(path, parallel=parallel, **options)

    monkeypatch.setattr(bundles_module.Segmenter, "load", picky)
    assert run(tmp_path, *bundles, source=str(video), threads=2)["inference_workers"] == 1
    assert asked == [("brightest", 2, 2), ("darkest", 2, 2), ("brightest", 1, 2), ("darkest", 1, 2)]
    with pytest.raises(DeviceError, match="unknown device 'tpu'"):
        run(tmp_path, bundles[0], source=str(video), threads=2, device="tpu")


@pytest.mark.parametrize("threads", [0, -1])
def test_no_threads_are_refused(tmp_path: Path, bundles: tuple[Path, Path], video: Path, threads: int) -> None:
    for options in ({"source": str(video)}, {"source": "streets", "max_frames": 2}):
        with pytest.raises(DeviceError, match=f"asked for {threads} threads; expected 1 or more"):
            run(tmp_path, bundles[0], threads=threads, **options)


def test_one_on_each_core_where_a_bundle_takes_no_more(tmp_path: Path, video: Path) -> None:
    """OpenVINO refuses more frames at a time than there are cores."""
    pytest.importorskip("openvino")
    cores = available_cores()
    if cores >= app.MAX_PARALLEL:
        pytest.skip("has cores enough for as many as are ever asked")
    bundle = toy_bundle(tmp_path / "toy", 24, 32, manifest={"backend": "openvino", "profile": "openvino-fp32"})
    assert run(tmp_path, bundle, source=str(video), threads=cores + 1, max_frames=4)["inference_workers"] == cores


def test_several_at_a_time_share_all_cores(
    tmp_path: Path, bundles: tuple[Path, Path], video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four frames at a time on eight cores have two threads each, not one."""
    load, asked = bundles_module.Segmenter.load, []

    def spy(path: Path, **options: Any) -> Any:
        asked.append((options["parallel"], options["threads"]))
        return load(path, **options)

    monkeypatch.setattr(bundles_module.Segmenter, "load", spy)
    for module in (app, bundles_module):
        monkeypatch.setattr(module, "available_cores", lambda: 8)
    run(tmp_path, bundles[0], source=str(video))
    run(tmp_path, bundles[0], source=str(video), realtime=True, max_frames=2)
    assert asked == [(4, 8), (1, None)]


@pytest.mark.parametrize("window", [True, False])
def test_ctrl_c_with_frames_in_flight(
    tmp_path: Path, bundles: tuple[Path, Path], video: Path, monkeypatch: pytest.MonkeyPatch, window: bool
) -> None:
    """Every frame up to then is in the recording once, and no thread is left (see the fixture)."""

    class Interrupting(Screen):
        visible = window

        def show(self, canvas: np.ndarray, at_s: float | None) -> None:
            super().show(canvas, at_s)
            if len(Screen.shown) == 9:
                os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(display, "Headless", Interrupting)
    Screen.script = {}
    stats, seen = tmp_path / "stats.json", tmp_path / "seen.avi"
    assert (
        live(
            LiveOptions(
                bundles=bundles, source=str(video), headless=True, stats=stats, record=seen, threads=3, split=True
            )
        )
        == 130
    )
    record = json.loads(stats.read_text())
    assert record["inference_workers"] == 3
    assert record["frames"] == count(seen) == len(Screen.shown)
    assert 9 <= record["frames"] <= 10


def test_a_recording_that_fails_ends_the_run(
    tmp_path: Path, bundles: tuple[Path, Path], video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:

    class Failing(app.Recorder):
        def write(self, canvas: np.ndarray, now: float) -> None:
            if self.frames == 5:
                raise DiskError("can't write: no space left")
            super().write(canvas, now)

    monkeypatch.setattr(app, "Recorder", Failing)
    stats, seen = tmp_path / "stats.json", tmp_path / "seen.avi"
    with pytest.raises(DiskError, match="no space left"):
        live(LiveOptions(bundles=bundles[:1], source=str(video), headless=True, stats=stats, record=seen, threads=2))
    assert count(seen) == 5
    assert json.loads(stats.read_text())["frames"] == 5
