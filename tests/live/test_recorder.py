import os
import re
from collections import namedtuple
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vfr import level, timeline

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


def test_a_link_stays_and_a_device_is_refused(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    for target in ("other/new.mp4", "other/old.bin"):
        link = tmp_path / f"{Path(target).stem}.avi"
        link.symlink_to(target)
        writer = Recorder(link, 25.0, clocked=False)
        writer.write(CANVAS, 0.0)
        writer.close()
        assert link.is_symlink()
        assert frames(tmp_path / target) == 1
    (tmp_path / "null.mp4").symlink_to(os.devnull)
    os.mkfifo(tmp_path / "pipe.mkv")
    for name in ("null.mp4", "pipe.mkv"):
        with pytest.raises(DiskError, match="device or pipe"):
            Recorder(tmp_path / name, 25.0, clocked=False)


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


TIMES = [0, 40, 80, 120, 500, 540, 1500, 1520, 1540, 1580, 2600, 2640]


def test_times_of_a_video_are_kept(tmp_path: Path) -> None:
    """Until a frame's own time the one before is seen."""
    writer = Recorder(tmp_path / "out.avi", 50.0, clocked=False)
    for index, at in enumerate(TIMES):
        writer.write(np.full((48, 64, 3), level(index), np.uint8), 7.0 + at / 1e3)
    writer.close()
    assert timeline(tmp_path / "out.avi") == [(pytest.approx(at, abs=10), index) for index, at in enumerate(TIMES)]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 400), min_size=1, max_size=40), st.sampled_from([5.0, 25.0, 60.0]))
def test_no_time_is_off_by_more_than_the_rate_allows(steps: list[int], fps: float) -> None:
    with TemporaryDirectory() as place:
        writer = Recorder(Path(place) / "out.avi", fps, clocked=False)
        written: list[int] = []
        writer._open(CANVAS)
        writer._put = lambda canvas: (written.append(int(canvas[0, 0, 0])), setattr(writer, "frames", len(written)))  # type: ignore[assignment]
        at = 0
        for index, step in enumerate([0, *steps]):
            at += step
            writer.write(np.full((48, 64, 3), index, np.uint8), at / 1e3)
            if written[-1] == index:
                assert abs((len(written) - 1) / fps - at / 1e3) <= max(0.5 / fps, recorder.AHEAD_S + 1 / fps) + 1e-6
        writer._discard()


def test_times_that_say_nothing_lose_no_frame(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for times in ([0.0] * 9, [None] * 9, [9.0 - index for index in range(9)]):
        writer = Recorder(tmp_path / "out.avi", 25.0, clocked=False)
        for at in times:
            writer.write(CANVAS, at)
        assert writer.frames == 9
        writer.close()
    assert capsys.readouterr().err == ""
    writer = Recorder(tmp_path / "out.avi", 25.0, clocked=False)
    for at in (0.0, 0.04, 95443.7, 95443.74):
        writer.write(CANVAS, at)
    assert writer.frames == 4
    writer.close()
    assert "out.avi: nothing for 95444 s at frame 2; the recording goes on without that gap" in capsys.readouterr().err


def test_killed_recordings_are_swept_and_running_ones_are_not(tmp_path: Path) -> None:
    """Whatever process number either has: in containers all begin with 1."""
    running = Recorder(tmp_path / "a.mp4", 25.0, clocked=False)
    running.write(CANVAS, None)
    (part,) = tmp_path.glob(".a.*.part.mp4")
    assert re.fullmatch(rf"\.a\.{os.getpid()}\.[0-9a-f]{{16}}\.part\.mp4", part.name)
    for name in (f".seen.{os.getpid()}.{'0' * 16}.part.mp4", ".seen.4194305.part.avi", f".x\n.1.{'a' * 16}.part.mkv"):
        (tmp_path / name).touch()
    mine = [f".seen.{os.getpid()}.part.mp4", ".notes.part.mp4", ".seen.12.part.gif", "seen.1.part.mp4"]
    for name in mine:
        (tmp_path / name).touch()
    (tmp_path / f".link.1.{'b' * 16}.part.mp4").symlink_to(tmp_path / mine[0])
    Recorder(tmp_path / "b.mp4", 25.0, clocked=False)
    assert {path.name for path in tmp_path.iterdir()} == {part.name, *mine, f".link.1.{'b' * 16}.part.mp4"}
    assert running.close()
    assert frames(tmp_path / "a.mp4") == 1


def test_a_long_name_can_be_recorded_to(tmp_path: Path) -> None:
    path = tmp_path / ("\u00e4" * 120 + ".avi")
    writer = Recorder(path, 25.0, clocked=False)
    writer.write(CANVAS, None)
    writer.close()
    assert frames(path) == 1


def test_a_full_disk_ends_the_recording_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recorder = Recorder(tmp_path / "seen.avi", 25, clocked=False)
    canvas = np.zeros((48, 64, 3), np.uint8)
    for number in range(5):
        if number == 3:
            monkeypatch.setattr("rdd_deploy.live.recorder.RESERVE_BYTES", 1 << 62)
        recorder.show(canvas, number / 25)
    assert (recorder.full, recorder.frames) == (True, 4)
    assert "seen.avi ends here, at frame 4" in capsys.readouterr().err.replace("\n", " ")
    assert [path.name for path in tmp_path.iterdir()] == ["seen.avi"]
