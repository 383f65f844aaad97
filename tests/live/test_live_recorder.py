from collections import namedtuple
from pathlib import Path

import cv2
import numpy as np
import pytest

from rdd_deploy.errors import DiskError, SourceError
from rdd_deploy.live import recorder
from rdd_deploy.live.recorder import Recorder

CANVAS = np.full((48, 64, 3), 90, np.uint8)


def frames(path: Path) -> int:
    capture, count = cv2.VideoCapture(str(path)), 0
    while capture.grab():
        count += 1
    return count


@pytest.mark.parametrize("ending", [".mp4", ".mkv", ".avi"])
def test_every_frame_of_a_file(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"out{ending}"
    writer = Recorder(path, 25.0, clocked=False)
    for _ in range(9):
        writer.write(CANVAS, 0.0)
    assert not path.exists()
    assert writer.close()
    assert not writer.close()
    assert frames(path) == 9
    assert list(tmp_path.iterdir()) == [path]


def test_live_plays_at_the_true_speed(tmp_path: Path) -> None:
    writer = Recorder(tmp_path / "out.avi", 10.0, clocked=True)
    for now in (5.0, 5.02, 5.5, 6.0):
        writer.write(CANVAS, now)
    assert writer.frames == 11
    writer.pause()
    writer.write(CANVAS, 100.0)
    assert writer.frames == 12
    writer.close()
    assert frames(tmp_path / "out.avi") == 12


def test_other_sizes_are_scaled(tmp_path: Path) -> None:
    writer = Recorder(tmp_path / "out.avi", 10.0, clocked=False)
    for size in ((48, 64), (31, 100), (480, 640)):
        writer.write(np.zeros((*size, 3), np.uint8), 0.0)
    writer.close()
    assert frames(tmp_path / "out.avi") == 3


@pytest.mark.parametrize("ending", [".mp4", ".avi"])
def test_odd_sizes_lose_nothing(tmp_path: Path, ending: str) -> None:
    canvas = np.zeros((133, 201, 3), np.uint8)
    canvas[-1], canvas[:, -1] = 200, 200
    writer = Recorder(tmp_path / f"out{ending}", 10.0, clocked=False)
    for _ in range(3):
        writer.write(canvas, 0.0)
    writer.close()
    good, frame = cv2.VideoCapture(str(writer.path)).read()
    assert good
    assert frame.shape == (134, 202, 3)
    assert frame[-2:, :190].mean() > 150
    assert frame[:120, -2:].mean() > 150


def test_a_recording_that_cant_be_put_in_place_is_kept(tmp_path: Path) -> None:
    writer = Recorder(tmp_path / "out.avi", 10.0, clocked=False)
    writer.write(CANVAS, 0.0)
    (tmp_path / "out.avi").mkdir()
    with pytest.raises(DiskError) as caught:
        writer.close()
    (kept,) = tmp_path.glob(".out.*.avi")
    assert f"the recording is kept as {kept}" in str(caught.value)
    assert frames(kept) == 1


def test_nothing_written_leaves_nothing(tmp_path: Path) -> None:
    assert not Recorder(tmp_path / "out.mp4", 10.0, clocked=False).close()
    assert not list(tmp_path.iterdir())


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"can't record to .*out.gif: expected a name that ends in .mp4, .mkv, .avi"):
        Recorder(tmp_path / "out.gif", 10.0, clocked=False)
    (tmp_path / "out.mp4").mkdir()
    with pytest.raises(DiskError, match=r"can't record to .*: it is a folder; choose another name"):
        Recorder(tmp_path / "out.mp4", 10.0, clocked=False)
    with pytest.raises(DiskError, match="there is no folder"):
        Recorder(tmp_path / "none" / "out.mp4", 10.0, clocked=False)


def test_full_disk_ends_the_recording_while_it_is_playable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(recorder.shutil, "disk_usage", lambda _: usage(1000))
    writer = Recorder(tmp_path / "out.mp4", 25.0, clocked=False)
    for _ in range(100):
        writer.write(CANVAS, 0.0)
    assert writer.full
    assert frames(tmp_path / "out.mp4") == writer.frames == 1


def test_unplayable_is_an_error_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder, "_plays", lambda _: False)
    writer = Recorder(tmp_path / "out.mp4", 25.0, clocked=False)
    writer.write(CANVAS, 0.0)
    with pytest.raises(DiskError, match="the recording isn't playable"):
        writer.close()
    assert not list(tmp_path.iterdir())
