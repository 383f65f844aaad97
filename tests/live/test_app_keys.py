"""Keys, pauses and what is shown, by a screen that presses keys at given frames."""

import json
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from cameras import MjpegCamera
from live_app import Screen, count, run

from rdd_deploy.live import captures, display, inference, player
from rdd_deploy.live.app import live
from rdd_deploy.live.options import LiveOptions


def test_keys(tmp_path: Path, bundles: tuple[Path, Path], video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(display, "Headless", Screen)
    # A key takes effect behind the frames in flight.
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
    }
    record = run(tmp_path, *bundles, source=str(video), save_to=tmp_path / "saved")
    assert 29 <= record["frames"] <= 31
    assert all(bundle["frames"] > 5 for bundle in record["bundles"])
    assert record["disagreement_pct"] > 90
    names = {path.name.partition("_")[2] for path in (tmp_path / "saved").iterdir()}
    assert names == {"", "overlay.png", "labels_1.png", "labels_2.png"}
    (labels,) = (tmp_path / "saved").glob("*labels_1.png")
    assert np.asarray(cv2.imread(str(labels), cv2.IMREAD_UNCHANGED)).max() <= 2


def test_a_frame_saved_twice_is_there_twice_and_a_pause_holds_the_picture(
    tmp_path: Path,
    bundles: tuple[Path, Path],
    video: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
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
    tmp_path: Path,
    bundles: tuple[Path, Path],
    video: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
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


def test_a_frame_that_cant_be_saved_ends_nothing(
    tmp_path: Path,
    bundles: tuple[Path, Path],
    video: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
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
    monkeypatch.setattr(player.Picture, "coloured", slowed(player.Picture.coloured))
    record = run(tmp_path, bundles[0], source=str(video), max_frames=10)
    assert record["frames"] == 10
    assert 1 / record["fps"] < 0.11


def test_pause_shows_the_keys_work(
    tmp_path: Path, bundles: tuple[Path, Path], video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_during_a_pause_finishes_the_recording(
    tmp_path: Path, bundles: tuple[Path, Path], video: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(display, "Headless", Screen)
    Screen.script = {5: " "}
    wait = player.Player._wait
    monkeypatch.setattr(
        player.Player, "_wait", lambda self: (self._paused and os.kill(os.getpid(), number), wait(self))[1]
    )
    before = signal.signal(number, signal.SIG_DFL)
    try:
        options = LiveOptions(
            bundles=bundles[:1],
            source=str(video),
            headless=True,
            stats=tmp_path / "s.json",
            record=tmp_path / "seen.avi",
        )
        assert live(options) == 128 + number
    finally:
        signal.signal(number, before)
    assert json.loads((tmp_path / "s.json").read_text())["frames"] == count(tmp_path / "seen.avi") >= 5
