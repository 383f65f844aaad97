"""The whole app in this process, headless, on real files and a real stream."""

import json
import os
import re
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from cameras import Camera, MjpegCamera, RtspCamera
from toy_bundle import toy_bundle, truth
from vfr import timeline, write_vfr

from rdd_deploy.errors import BundleError, DataError, DeviceError, DiskError, RddError, SourceError
from rdd_deploy.live import app, captures, display, grabber, inference, player, sources
from rdd_deploy.live import bundles as bundles_module
from rdd_deploy.live.app import live
from rdd_deploy.live.options import LiveOptions, parse_size
from rdd_deploy.live.x_server import check_display
from rdd_deploy.utils.machine import available_cores


@pytest.fixture(autouse=True)
def no_thread_left() -> Iterator[None]:
    yield
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith(("grabber", "inference"))]


def run(tmp_path: Path, *bundles: Path, **options: Any) -> dict[str, Any]:
    stats = tmp_path / "stats.json"
    assert live(LiveOptions(bundles=bundles, headless=True, stats=stats, **options)) == 0
    record: dict[str, Any] = json.loads(stats.read_text())
    return record


def count(path: Path) -> int:
    capture, frames = cv2.VideoCapture(str(path)), 0
    while capture.grab():
        frames += 1
    return frames


def test_video_is_played_whole(tmp_path: Path, bundles: tuple[Path, Path], video: Path) -> None:
    record = run(tmp_path, bundles[0], source=str(video), record=tmp_path / "seen.mp4")
    assert (record["frames"], record["drops"], record["reconnects"], record["live"]) == (40, 0, 0, False)
    assert count(tmp_path / "seen.mp4") == 40
    assert record["fps"] > 0
    for times in (record["end_to_end_ms"], *record["stages_ms"].values()):
        assert 0 <= times["p50"] <= times["p95"] <= times["p99"]
    assert record["bundles"][0]["miou_pct"] is None


def test_max_frames(tmp_path: Path, bundles: tuple[Path, Path], video: Path) -> None:
    assert run(tmp_path, bundles[0], source=str(video), max_frames=7)["frames"] == 7


def test_split_measures_disagreement(tmp_path: Path, bundles: tuple[Path, Path], video: Path) -> None:
    same = run(tmp_path, bundles[0], bundles[0], source=str(video), split=True)
    assert same["disagreement_pct"] == 0
    other = run(tmp_path, *bundles, source=str(video), split=True, record=tmp_path / "seen.avi")
    assert other["disagreement_pct"] > 90
    assert [bundle["frames"] for bundle in other["bundles"]] == [40, 40]


def test_labels_give_the_running_miou(tmp_path: Path, bundles: tuple[Path, Path], folder: Path) -> None:
    masks = tmp_path / "masks"
    masks.mkdir()
    for path in folder.iterdir():
        mask = truth(np.asarray(cv2.imread(str(path))))
        mask[:4] = 7
        cv2.imwrite(str(masks / path.name), mask)
    record = run(tmp_path, bundles[0], source=str(folder), labels=masks, data_void=(7,))
    assert record["bundles"][0]["miou_pct"] == 100.0
    with pytest.raises(DataError, match="pass --data-void 7"):
        run(tmp_path, bundles[0], source=str(folder), labels=masks)


def masks_of(folder: Path, place: Path) -> Path:
    """A folder with the toy network's own prediction to each frame."""
    masks = place / "masks"
    masks.mkdir()
    for path in folder.iterdir():
        cv2.imwrite(str(masks / path.name), truth(np.asarray(cv2.imread(str(path)))))
    return masks


def test_a_bad_mask_costs_one_frame_its_truth(
    tmp_path: Path, bundles: tuple[Path, Path], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    masks = masks_of(folder, tmp_path)
    (masks / "frame0.png").write_bytes(b"no mask")
    record = run(tmp_path, bundles[0], source=str(folder), labels=masks)
    assert (record["frames"], record["bad_frames"], record["bundles"][0]["miou_pct"]) == (12, 0, 100.0)
    assert "frame0.png" in (said := capsys.readouterr().err)
    assert "its frame counts for no mIoU" in said


def test_bad_masks_in_a_row_end_the_run(tmp_path: Path, bundles: tuple[Path, Path], video: Path) -> None:
    masks = tmp_path / "masks"
    masks.mkdir()
    for index in range(40):
        cv2.imwrite(str(masks / f"{index}.png"), np.full((48, 64), 7 if index else 0, np.uint8))
    with pytest.raises(DataError, match=r"30\.png holds unknown class ids \[7\]"):
        run(tmp_path, bundles[0], source=str(video), labels=masks)
    assert json.loads((tmp_path / "stats.json").read_text())["frames"] == 30


def test_a_bundle_of_other_classes_than_the_labels_is_named(
    tmp_path: Path, bundles: tuple[Path, Path], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    masks = masks_of(folder, tmp_path)
    other = toy_bundle(tmp_path / "animals", manifest={"classes": ["cat", "dog", "cow"]})
    run(tmp_path, bundles[0], other, source=str(folder), labels=masks, max_frames=1)
    assert capsys.readouterr().err == (
        "warning: bundle 2 animals has other classes than bundle 1, whose ids the labels hold: no mIoU for it\n"
    )


def test_streets_count_against_their_own_labels(tmp_path: Path) -> None:
    from rdd_deploy.data.camvid import CAMVID

    label_space = {"classes": list(CAMVID.classes), "palette": list(CAMVID.palette)}
    record = run(tmp_path, toy_bundle(tmp_path / "toy", manifest=label_space), source="streets", size=(64, 48), max_frames=3)
    assert record["bundles"][0]["miou_pct"] is not None
    assert record["frames"] == 3


@pytest.mark.parametrize("kind", [MjpegCamera, RtspCamera])
def test_a_stream_stalls_vanishes_and_comes_back(
    tmp_path: Path, bundles: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, kind: type[Camera]
) -> None:
    """The picture lives on meanwhile and says what is wrong; afterwards frames flow, and nothing is left behind."""
    monkeypatch.setattr(captures, "READ_TIMEOUT_MS", 600)
    monkeypatch.setattr(grabber, "FIRST_PAUSE_S", 0.1)
    monkeypatch.setattr(player, "STALL_S", 0.2)
    troubles: list[str] = []
    draw = player.Picture.draw

    def spy(self: Any, result: Any, labels: Any, drops: int, trouble: str = "", paused: bool = False) -> Any:
        troubles.append(trouble)
        return draw(self, result, labels, drops, trouble, paused)

    monkeypatch.setattr(player.Picture, "draw", spy)
    done: list[object] = []

    def said(what: str) -> bool:
        return any(what in trouble for trouble in troubles)

    with kind() as camera:

        def play() -> None:
            try:
                done.append(run(tmp_path, bundles[0], source=camera.url, record=tmp_path / "seen.avi", max_frames=60))
            except BaseException as error:
                done.append(error)

        playing = threading.Thread(target=play)
        playing.start()

        def wait(condition: Any) -> None:
            end = time.monotonic() + 20
            while not condition() and not done:
                assert time.monotonic() < end
                time.sleep(0.01)

        wait(lambda: len(troubles) >= 10)
        camera.stall()
        wait(lambda: said("no frame for") and said("connection lost"))
        camera.flow()
        seen = len([trouble for trouble in troubles if not trouble])
        wait(lambda: len([trouble for trouble in troubles if not trouble]) > seen + 10)
        camera.vanish()
        troubles.clear()
        wait(lambda: said("(attempt 2)"))
        camera.come_back()
        playing.join(30)
    assert isinstance(done[0], dict), done
    assert done[0]["reconnects"] == 2
    assert done[0]["frames"] == 60
    assert done[0]["live"]
    assert count(tmp_path / "seen.avi") > 0


def test_a_slow_network_drops_frames_of_a_stream(tmp_path: Path, bundles: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    infer = inference.Inference._label
    monkeypatch.setattr(inference.Inference, "_label", lambda self, *a: (time.sleep(0.1), infer(self, *a))[1])
    with MjpegCamera() as camera:
        record = run(tmp_path, bundles[0], source=camera.url, max_frames=8)
    assert record["drops"] > 8


def test_a_slow_bundle_shows_in_the_age(tmp_path: Path, bundles: tuple[Path, Path], video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quick = run(tmp_path, bundles[0], source=str(video), max_frames=8)["end_to_end_ms"]
    infer = inference.Inference._label
    monkeypatch.setattr(inference.Inference, "_label", lambda self, *a: (time.sleep(0.3), infer(self, *a))[1])
    slow = run(tmp_path, bundles[0], source=str(video), max_frames=8)["end_to_end_ms"]
    assert slow["p50"] >= 300 > quick["p50"]


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
            str(masks / f"{index}.png"), np.roll(np.repeat(np.arange(3, dtype=np.uint8)[None], 48, 0).repeat(22, 1)[:, :64], index, 1)
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
        runs.append(([*seen], record["frames"], record["bad_frames"], record["drops"], record["bundles"], recording.read_bytes()))
    assert runs[0] == runs[1]
    assert [index for index, _ in runs[0][0]] == list(range(40))
    assert runs[0][4][0]["miou_pct"] is not None
    assert runs[0][4][0]["flicker_pct"] is not None


def test_one_at_a_time_where_the_age_counts(tmp_path: Path, bundles: tuple[Path, Path], video: Path, folder: Path) -> None:
    """Live sources and --realtime: the frame that is there gets all threads."""
    workers = {
        "realtime": run(tmp_path, bundles[0], source=str(video), realtime=True, threads=2, max_frames=2),
        "streets": run(tmp_path, bundles[0], source="streets", size=(64, 48), threads=2, max_frames=2),
        "folder": run(tmp_path, bundles[0], source=str(folder), threads=2),
        "many": run(tmp_path, bundles[0], source=str(video), threads=64),
    }
    assert {name: record["inference_workers"] for name, record in workers.items()} == {"realtime": 1, "streets": 1, "folder": 2, "many": 4}


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
    assert live(LiveOptions(bundles=bundles, source=str(video), headless=True, stats=stats, record=seen, threads=3, split=True)) == 130
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


class Screen:
    """Headless, but keys are pressed at given frames and pictures are wanted."""

    visible = True
    script: dict[int, str] = {}  # noqa: RUF012
    shown: list[np.ndarray] = []  # noqa: RUF012

    def __init__(self, options: LiveOptions) -> None:
        self.keys: list[str] = []
        Screen.shown = []

    def show(self, canvas: np.ndarray, at_s: float | None) -> None:
        Screen.shown.append(canvas.copy())
        self.keys += Screen.script.get(len(Screen.shown), "")

    @staticmethod
    def check() -> None:
        pass

    def key(self) -> str | None:
        return self.keys.pop(0) if self.keys else None

    def close(self) -> None:
        pass


def test_keys(tmp_path: Path, bundles: tuple[Path, Path], video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(display, "Headless", Screen)
    Screen.script = {
        2: "+++++",
        4: "2",
        8: "9",
        9: "v",
        19: "s",
        20: "h",
        21: "  ",
        22: "v",
        30: "q",
    }  # a key takes effect behind the frames in flight
    record = run(tmp_path, *bundles, source=str(video), save_to=tmp_path / "saved")
    assert 29 <= record["frames"] <= 31
    assert all(bundle["frames"] > 5 for bundle in record["bundles"])
    assert record["disagreement_pct"] > 90
    names = {path.name.partition("_")[2] for path in (tmp_path / "saved").iterdir()}
    assert names == {"", "overlay.png", "labels_1.png", "labels_2.png"}
    (labels,) = (tmp_path / "saved").glob("*labels_1.png")
    assert np.asarray(cv2.imread(str(labels), cv2.IMREAD_UNCHANGED)).max() <= 2


def test_a_frame_saved_twice_is_there_twice_and_a_pause_holds_the_picture(
    tmp_path: Path, bundles: tuple[Path, Path], video: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is saved while paused is what is shown: the predictions of before."""

    class Unseen(Screen):
        visible = False

    monkeypatch.setattr(display, "Headless", Unseen)
    Screen.script = {3: "s 2ss "}
    saved = tmp_path / "saved"
    run(tmp_path, *bundles, source=str(video), save_to=saved, record=tmp_path / "seen.avi", threads=1)
    stems = sorted(path.stem for path in saved.glob("*[!ys].png"))
    assert [stem.removeprefix(stems[0]) for stem in stems] == ["", "-2", "-3"]
    assert len({path.read_bytes() for path in saved.glob("*_labels.png")}) == 1
    assert "bundle 2: darkest, after the pause" in capsys.readouterr().out


def test_each_pair_of_the_split_view_has_its_own_disagreement(
    tmp_path: Path, bundles: tuple[Path, Path], video: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    same = tmp_path / "same"
    shutil.copytree(bundles[0], same)
    monkeypatch.setattr(display, "Headless", Screen)
    Screen.script = {15: "3"}  # the chosen one goes left, what was left goes right
    record = run(tmp_path, bundles[0], same, bundles[1], source=str(video), split=True, threads=1)
    first, second = record["disagreements"]
    assert (first["bundles"], first["pct"]) == ([1, 2], 0)
    assert second["bundles"] == [1, 3]
    assert second["pct"] > 90
    assert first["frames"] + second["frames"] == 40
    assert record["disagreement_pct"] == second["pct"]
    assert "bundles 1 and 2 differ on 0.00 % of the pixels of" in capsys.readouterr().out


def test_the_frames_behind_an_miou_are_counted(
    tmp_path: Path, bundles: tuple[Path, Path], video: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "masks").mkdir()
    for index in (3, 17):
        cv2.imwrite(str(tmp_path / "masks" / f"{index}.png"), np.zeros((48, 64), np.uint8))
    (bundle,) = run(tmp_path, bundles[0], source=str(video), labels=tmp_path / "masks")["bundles"]
    assert (bundle["frames"], bundle["labelled_frames"]) == (40, 2)
    assert "% over 2 frames" in capsys.readouterr().out


def test_a_folder_has_no_rate_to_keep_to(
    tmp_path: Path, bundles: tuple[Path, Path], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = run(tmp_path, bundles[0], source=str(folder), realtime=True)
    assert (record["frames"], record["drops"]) == (12, 0)
    assert "has no frame rate: it is played whole, not in real time" in capsys.readouterr().err


@pytest.mark.parametrize("fps", [0.5, 120.0])
def test_a_recording_of_a_file_keeps_its_rate(tmp_path: Path, bundles: tuple[Path, Path], fps: float) -> None:
    writer = cv2.VideoWriter(str(tmp_path / "odd.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), fps, (64, 48))
    for _ in range(6):
        writer.write(np.zeros((48, 64, 3), np.uint8))
    writer.release()
    run(tmp_path, bundles[0], source=str(tmp_path / "odd.mp4"), record=tmp_path / "seen.mp4")
    capture = cv2.VideoCapture(str(tmp_path / "seen.mp4"))
    assert capture.get(cv2.CAP_PROP_FPS) == pytest.approx(fps)
    assert count(tmp_path / "seen.mp4") == 6


def test_without_a_picture_a_lost_stream_is_said_in_words(
    tmp_path: Path, bundles: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(grabber, "FIRST_PAUSE_S", 0.1)
    with MjpegCamera() as camera:
        lost, back = threading.Timer(0.5, camera.vanish), threading.Timer(1.0, camera.come_back)
        for timer in (lost, back):
            timer.start()
        assert run(tmp_path, bundles[0], source=camera.url, max_frames=60)["reconnects"] == 1
        for timer in (lost, back):
            timer.join()
    said = capsys.readouterr()
    assert re.search(r"video\.mjpg: connection lost \d+ s ago, trying again .*\(attempt 1\)", said.err)
    assert "video.mjpg: connected again" in said.out


def test_a_frame_that_cant_be_saved_ends_nothing(
    tmp_path: Path, bundles: tuple[Path, Path], video: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    saved = tmp_path / "saved"

    class Blocking(Screen):
        """Puts a file where the folder should come, after the check at the start."""

        def show(self, canvas: np.ndarray, at_s: float | None) -> None:
            saved.touch()
            super().show(canvas, at_s)

    monkeypatch.setattr(display, "Headless", Blocking)
    Screen.script = {3: "s"}
    assert run(tmp_path, bundles[0], source=str(video), save_to=saved)["frames"] == 40
    assert f"warning: can't write {saved}" in capsys.readouterr().err


def test_capture_inference_and_drawing_overlap(
    tmp_path: Path, bundles: tuple[Path, Path], video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three stages that sleep for 50 ms each: one after the other no frame would come more often than every 150 ms."""

    def slowed(function: Any) -> Any:
        return lambda *arguments: (time.sleep(0.05), function(*arguments))[1]

    monkeypatch.setattr(display, "Headless", Screen)
    Screen.script = {}
    monkeypatch.setattr(captures.Capture, "read", slowed(captures.Capture.read))
    monkeypatch.setattr(inference.Inference, "_label", slowed(inference.Inference._label))
    monkeypatch.setattr(player.Picture, "draw", slowed(player.Picture.draw))
    record = run(tmp_path, bundles[0], source=str(video), max_frames=10)
    assert record["frames"] == 10
    assert 1 / record["fps"] < 0.11


def test_pause_shows_the_keys_work(tmp_path: Path, bundles: tuple[Path, Path], video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Paused, a key still redraws the picture; space goes on to the end."""
    monkeypatch.setattr(display, "Headless", Screen)
    Screen.script = {3: " ", 4: "-", 5: "h", 6: " "}
    record = run(tmp_path, bundles[0], source=str(video))
    assert record["frames"] == 40
    assert len(Screen.shown) >= 43


def test_a_stream_can_be_paused(tmp_path: Path, bundles: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a second of pause on a stream, then it goes on."""
    monkeypatch.setattr(display, "Headless", Screen)
    Screen.script = {5: " "}
    with MjpegCamera() as camera:
        waited: list[float] = []

        def sleep(self: Any) -> None:
            waited.append(time.monotonic())
            if waited[-1] - waited[0] > 0.5:
                self._pause()
            time.sleep(0.02)

        wait = player.Player._wait
        monkeypatch.setattr(player.Player, "_wait", lambda self: sleep(self) if self._paused else wait(self))
        record = run(tmp_path, bundles[0], source=camera.url, max_frames=10)
    assert record["frames"] == 10
    assert waited[-1] - waited[0] > 0.5


def test_split_needs_a_second_bundle(tmp_path: Path, bundles: tuple[Path, Path], video: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, bundles[0], source=str(video), split=True, max_frames=2)["disagreement_pct"] is None
    assert "split view needs a second bundle of the same classes" in capsys.readouterr().out


@pytest.mark.parametrize(
    "bad", [np.zeros((48, 64), np.uint8), np.zeros((48, 64, 4), np.uint8), np.zeros((0, 64, 3), np.uint8), np.zeros((48, 64, 3), np.uint16)]
)
def test_a_bad_frame_is_skipped(
    tmp_path: Path,
    bundles: tuple[Path, Path],
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    bad: np.ndarray,
    capsys: pytest.CaptureFixture[str],
) -> None:
    read = sources.read_image
    monkeypatch.setattr(sources, "read_image", lambda path: bad if path.name == "frame3.png" else read(path))
    record = run(tmp_path, bundles[0], source=str(folder))
    assert (record["frames"], record["bad_frames"]) == (11, 1)
    assert "warning: frame frame3: got a frame of shape" in capsys.readouterr().err


def test_nothing_but_bad_frames(tmp_path: Path, bundles: tuple[Path, Path], video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "i").mkdir()
    for index in range(3):
        (tmp_path / "i" / f"{index}.png").write_bytes(b"x")
    with pytest.raises(SourceError, match=r"i gave no usable frame \(3 were skipped\); check the source"):
        run(tmp_path, bundles[0], source=str(tmp_path / "i"))
    monkeypatch.setattr(inference.Segmenter, "prepare", lambda *_: (_ for _ in ()).throw(SourceError("grey")))
    with pytest.raises(SourceError, match="30 frames in a row can't be used, the last one: grey"):
        run(tmp_path, bundles[0], source=str(video))


def test_a_truncated_video_is_reported(tmp_path: Path, bundles: tuple[Path, Path], video: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cut = tmp_path / "cut.avi"
    chunk = b"00dc"  # named once in an AVI's head, then before every frame; the index behind the last one is lost
    cut.write_bytes(chunk.join(video.read_bytes().split(chunk)[:22]))
    assert run(tmp_path, bundles[0], source=str(cut))["frames"] == 20
    assert "frames early; the file is damaged or cut off" in capsys.readouterr().err


def test_bundle_errors(tmp_path: Path, bundles: tuple[Path, Path], video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BundleError, match=r"there is no bundle in runs/latest/export; make one with `python -m rdd_deploy.export --onnx`"):
        run(tmp_path, source=str(video))
    with pytest.raises(BundleError, match="got 10 bundles, expected at most 9"):
        run(tmp_path, *[bundles[0]] * 10, source=str(video))
    broken = toy_bundle(tmp_path / "broken")
    (broken / "model.onnx").write_bytes(b"edited")
    with pytest.raises(BundleError, match="isn't the file that was exported"):
        run(tmp_path, broken, source=str(video))


def test_the_newest_bundle_is_the_default(tmp_path: Path, video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    monkeypatch.chdir(tmp_path)
    for age, name in ((100, "b"), (50, "c"), (200, "a")):
        folder = toy_bundle(tmp_path / bundles_module.EXPORTS / name)
        os.utime(folder / "manifest.json", (time.time() - age,) * 2)
    assert run(tmp_path, source=str(video), max_frames=1)["bundles"][0]["name"] == "c"


def test_a_model_that_misbehaves_is_found_before_the_run(tmp_path: Path, video: Path) -> None:
    with pytest.raises(BundleError, match="gave the class id"):
        run(tmp_path, toy_bundle(tmp_path / "toy", offset=9), source=str(video), record=tmp_path / "seen.mp4")
    assert not (tmp_path / "seen.mp4").exists()
    assert not (tmp_path / "stats.json").exists()


def test_bundles_are_warm_before_the_first_frame(
    tmp_path: Path, bundles: tuple[Path, Path], video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each inference that can run at a time has run once before the source is opened."""
    infer, opened, early = bundles_module.Segmenter.infer, [], []

    def spy(self: Any, network_input: np.ndarray) -> np.ndarray:
        if not opened:
            early.append(self.manifest.name)
        return infer(self, network_input)

    open_source = app.open_source
    monkeypatch.setattr(bundles_module.Segmenter, "infer", spy)
    monkeypatch.setattr(app, "open_source", lambda *given, **options: (opened.append(True), open_source(*given, **options))[1])
    record = run(tmp_path, *bundles, source=str(video), threads=2, max_frames=3)
    assert len(early) == 2 * record["inference_workers"] == 4
    assert len(set(early)) == 2
    assert record["frames"] == 3


def test_size_is_checked() -> None:
    assert parse_size("640x480") == (640, 480)
    for text in ("640", "x", "640x", "0x0", "-1x5", "99999x99999"):
        with pytest.raises(RddError, match="expected WIDTHxHEIGHT"):
            parse_size(text)


def test_stats_that_cant_be_written_are_found_before_the_run(tmp_path: Path, bundles: tuple[Path, Path]) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path, tmp_path / "file" / "out.json"):
        with pytest.raises(DiskError, match=r"can't write .*; (give the file's name as well|free some space or choose another folder)"):
            live(LiveOptions(bundles=(bundles[0],), source="streets", headless=True, stats=path))
    with pytest.raises(DiskError, match=r"can't save frames to .*; choose another one with --save-to"):
        live(LiveOptions(bundles=(bundles[0],), source="streets", headless=True, save_to=tmp_path / "file" / "x"))


def test_one_file_for_two_purposes_is_refused(tmp_path: Path, bundles: tuple[Path, Path], video: Path) -> None:
    own = tmp_path / "own.avi"
    own.write_bytes(video.read_bytes())
    (tmp_path / "link.avi").symlink_to(own)
    both = tmp_path / "both.mp4"
    cases: list[tuple[dict[str, Any], str]] = [
        ({"source": str(own), "record": own}, "--source and --record"),
        ({"source": str(own), "record": tmp_path / "link.avi"}, "--source and --record"),
        ({"source": f"file://{own}", "stats": tmp_path / "." / "own.avi"}, "--source and --stats"),
        ({"source": str(video), "record": both, "stats": both}, "--record and --stats"),
    ]
    for options, which in cases:
        with pytest.raises(DiskError, match=f"{which} are the same file, .*; it would be overwritten"):
            live(LiveOptions(bundles=(bundles[0],), headless=True, **options))
    assert own.read_bytes() == video.read_bytes()
    assert not both.exists()


@pytest.mark.parametrize(
    ("display", "sentence"),
    [("", "DISPLAY isn't set"), (":987", "no X server answers at DISPLAY=:987"), ("nonsense", "expected something like :0")],
)
def test_without_a_display(monkeypatch: pytest.MonkeyPatch, display: str, sentence: str) -> None:
    """Qt would end the process; we say what to do instead."""
    monkeypatch.setenv("DISPLAY", display)
    monkeypatch.setattr("sys.platform", "linux")
    with pytest.raises(DeviceError, match=f"{sentence}.*--headless"):
        check_display()


TIMES = [0, 40, 80, 120, 500, 540, 1000, 1020, 1040, 1080, 1500, 1540]


@pytest.mark.parametrize("realtime", [False, True])
def test_a_recording_of_a_variable_rate_video_keeps_its_times(
    tmp_path: Path, bundles: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], realtime: bool
) -> None:
    monkeypatch.setattr(player.Picture, "draw", lambda _, result, *__, **___: np.ascontiguousarray(result.captured.frame))
    source, seen = write_vfr(tmp_path / "odd.mkv", TIMES), tmp_path / "seen.mp4"
    assert [at for at, _ in timeline(source)] == TIMES
    record = run(tmp_path, bundles[0], source=str(source), record=seen, realtime=realtime, threads=2)
    assert capsys.readouterr().err == ""  # fewer frames than the container estimates aren't a damage
    found = {index: at for at, index in timeline(seen)}
    if realtime:
        assert record["seconds"] > 1.5
        assert {0, 3, 4, 9, 10} <= set(found)  # some may be dropped, as a camera's are
        assert all(found[index] == pytest.approx(TIMES[index], abs=150) for index in found)
    else:
        assert record["frames"] == len(TIMES) == len(found)
        assert all(found[index] == pytest.approx(TIMES[index], abs=21) for index in found)


def test_a_constant_rate_stays_what_it_is(video: Path, tmp_path: Path) -> None:
    steady = sources.open_source(str(video), None, None, streets_live=False, info=print)
    assert isinstance(steady, captures.Capture)
    assert steady.even_fps() == steady.fps == 25.0
    steady.close()
    odd = captures.open_video(write_vfr(tmp_path / "odd.mkv", TIMES))
    assert odd.even_fps() == 50.0
    odd.close()


def test_leftovers_of_killed_runs_are_swept(tmp_path: Path, bundles: tuple[Path, Path], video: Path) -> None:
    """Of stats, recordings and saved pictures, each in its folder."""
    saved = tmp_path / "saved"
    saved.mkdir()
    for name in (".stats.json.4194305.part", ".seen.4194305.part.avi", "saved/.frame.png.4194305.part"):
        (tmp_path / name).touch()
    run(tmp_path, bundles[0], source=str(video), record=tmp_path / "seen.avi", save_to=saved, max_frames=1)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["saved", "seen.avi", "stats.json"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_during_a_pause_finishes_the_recording(
    tmp_path: Path, bundles: tuple[Path, Path], video: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(display, "Headless", Screen)
    Screen.script = {5: " "}
    wait = player.Player._wait
    monkeypatch.setattr(player.Player, "_wait", lambda self: (self._paused and os.kill(os.getpid(), number), wait(self))[1])
    before = signal.signal(number, signal.SIG_DFL)
    try:
        options = LiveOptions(
            bundles=bundles[:1], source=str(video), headless=True, stats=tmp_path / "s.json", record=tmp_path / "seen.avi"
        )
        assert live(options) == 128 + number
    finally:
        signal.signal(number, before)
    assert json.loads((tmp_path / "s.json").read_text())["frames"] == count(tmp_path / "seen.avi") >= 5


def test_the_stats_are_there_before_a_silent_source_is_waited_for(
    tmp_path: Path, bundles: tuple[Path, Path], video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who asks to stop may kill a few seconds later."""
    seen: list[bool] = []
    stop = grabber.Grabber.stop
    monkeypatch.setattr(grabber.Grabber, "stop", lambda self: (seen.append((tmp_path / "stats.json").is_file()), stop(self))[1])
    run(tmp_path, bundles[0], source=str(video), realtime=True, max_frames=2)
    assert seen == [True]
