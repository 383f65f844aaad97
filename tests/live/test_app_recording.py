"""The live app's recordings keep the times of their source."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from live_app import count, run
from vfr import timeline, write_vfr

from rdd_deploy.live import captures, player, sources

TIMES = [0, 40, 80, 120, 500, 540, 1000, 1020, 1040, 1080, 1500, 1540]
"""Milliseconds of the frames of a video of variable rate."""


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


@pytest.mark.parametrize("realtime", [False, True])
def test_a_recording_of_a_variable_rate_video_keeps_its_times(
    tmp_path: Path,
    bundles: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    realtime: bool,
) -> None:
    monkeypatch.setattr(
        player.Picture, "with_panels", lambda _, __, result, *___, **____: np.ascontiguousarray(result.captured.frame)
    )
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
