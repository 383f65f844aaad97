import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from rdd_deploy.errors import SourceError
from rdd_deploy.live import captures, sources
from rdd_deploy.live.captures import Capture
from rdd_deploy.live.sources import Source, Streets, open_source


def open_(source: str | None, camera: int | None = None, size: tuple[int, int] | None = None) -> Source:
    return open_source(source, camera, size, streets_live=False, info=print)


def read_all(source: Source) -> list[str]:
    names = []
    while (captured := source.read()) is not None:
        assert captured.frame.shape == (48, 64, 3)
        names.append(captured.name)
    source.close()
    return names


def test_names_that_are_not_utf8(video: Path, folder: Path, tmp_path: Path) -> None:
    """OpenCV would end the process."""
    images = Path(os.fsdecode(os.fsencode(tmp_path) + b"/b\xff"))
    shutil.copytree(folder, images)
    (images / "frame3.png").rename(images / os.fsdecode(b"frame3\xff.png"))
    assert len(read_all(open_(str(images)))) == 12
    shutil.copy(video, images / "drive.avi")
    with pytest.raises(SourceError, match="takes no name that isn't UTF-8; rename it"):
        open_(str(images / "drive.avi"))


def test_video_is_read_whole(video: Path) -> None:
    source = open_(str(video))
    assert (source.title, source.live, source.fps) == ("drive.avi", False, 25.0)
    assert read_all(source) == [f"{index:06d}" for index in range(40)]


def test_folder_in_natural_order(folder: Path) -> None:
    assert read_all(open_(str(folder))) == [f"frame{index}" for index in range(12)]


def test_streets_bring_their_labels() -> None:
    source = open_("streets", size=(64, 48))
    assert isinstance(source, Streets)
    first, second = source.read(), source.read()
    assert first is not None
    assert second is not None
    assert (first.index, second.index) == (0, 1)
    assert first.frame.shape == (48, 64, 3)
    assert first.truth is not None
    assert first.truth.shape == (48, 64)
    assert len(source.classes) == 11


def test_bad_image_is_skipped(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "f")
    (tmp_path / "f" / "frame1.png").write_bytes(b"")
    source = open_(str(tmp_path / "f"))
    assert source.read() is not None
    with pytest.raises(SourceError, match=r"can't read the image .*frame1.png: the file is empty"):
        source.read()
    assert len(read_all(source)) == 10


def test_sentences(tmp_path: Path, video: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "x.mp4").write_bytes(b"no video" * 100)
    cases: list[tuple[tuple[object, ...], str]] = [
        (("streets", 0), "got --camera 0 and --source streets; give one of them"),
        (
            (str(tmp_path / "none.mp4"),),
            "none.mp4; expected a video file, a folder of images, an rtsp:// or http:// address, or 'streets'",
        ),
        (("0",), "for a camera: --camera 0"),
        ((str(tmp_path / "empty"),), "holds no images; expected files that end in .png, .jpg"),
        ((str(tmp_path / "x.mp4"),), "can't read the video"),
        ((None, -1), "got camera -1, expected a number from 0 to 999"),
        ((None, 99999999999), "got camera 99999999999, expected a number from 0 to 999"),
        ((None, 97), "there is no camera 97 (devices found: "),
        ((str(video), None, (64, 48)), "--size is for a camera or the streets"),
    ]
    for arguments, sentence in cases:
        with pytest.raises(SourceError) as caught:
            open_(*arguments)  # type: ignore[arg-type]
        assert sentence in str(caught.value)


class FakeCamera:
    """Delivers what it likes, whatever it is asked for."""

    def __init__(self, index: int) -> None:
        self.asked: dict[int, float] = {}

    def isOpened(self) -> bool:
        return True

    def set(self, name: int, value: float) -> None:
        self.asked[name] = value

    def get(self, name: int) -> float:
        return {cv2.CAP_PROP_FRAME_WIDTH: 320.0, cv2.CAP_PROP_FRAME_HEIGHT: 240.0, cv2.CAP_PROP_FPS: 30.0}.get(
            name, -1.0
        )

    def grab(self) -> bool:
        return True

    def retrieve(self) -> tuple[bool, np.ndarray]:
        return True, np.zeros((240, 320, 3), np.uint8)

    def release(self) -> None:
        pass


def test_a_camera_that_gives_another_size_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cv2, "VideoCapture", FakeCamera)
    source = open_(None, 0, (640, 480))
    assert capsys.readouterr().err == "warning: asked camera 0 for 640x480, it gives 320x240\n"
    captured = source.read()
    assert captured is not None
    assert (source.live, source.fps, captured.index) == (True, 30.0, 0)
    assert isinstance(source, Capture)
    assert source._capture.asked[cv2.CAP_PROP_FRAME_WIDTH] == 640


@pytest.mark.parametrize(
    ("size", "fps", "said"),
    [
        ((320, 240), 30.0, ""),
        ((320, 240), 29.97, ""),
        (None, 60.0, "asked camera 0 for 60 frames per second, it gives 30 frames per second"),
        (
            (640, 480),
            60.0,
            "asked camera 0 for 640x480 at 60 frames per second, it gives 320x240 at 30 frames per second",
        ),
    ],
)
def test_what_a_camera_gives_is_compared_at_every_opening(
    size: tuple[int, int] | None,
    fps: float,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Told once, and again only if it is something else after a reconnection."""
    monkeypatch.setattr(cv2, "VideoCapture", FakeCamera)
    source = open_source(None, 0, size, fps=fps, streets_live=False, info=print)
    assert isinstance(source, Capture)
    source.open()
    assert source._capture.asked[cv2.CAP_PROP_FPS] == fps
    assert capsys.readouterr().err == (f"warning: {said}\n" if said else "")
    monkeypatch.setattr(FakeCamera, "get", lambda *_: -1.0)
    source.open()
    assert "an unknown rate" in capsys.readouterr().err


@pytest.mark.parametrize("source", ["streets", "x.mp4", "rtsp://h/x", ""])
def test_a_rate_is_for_cameras(source: str) -> None:
    with pytest.raises(SourceError, match=r"--fps is for a camera"):
        open_source(source, None, None, fps=30.0, streets_live=False, info=print)


@pytest.mark.parametrize("name", ["video7", "usb-Maker_Cam-video-index0", "cam\u00e4ra"])
def test_a_device_file_is_a_camera(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By whatever name and link: live, asked for a size, and followed again at every opening."""
    opened: list[tuple[object, ...]] = []

    class Device(FakeCamera):
        def __init__(self, *arguments: object) -> None:
            opened.append(arguments)
            super().__init__(0)

    node = tmp_path / name
    node.symlink_to("/dev/null")  # the one device that every test machine has
    monkeypatch.setattr(cv2, "VideoCapture", Device)
    source = open_(str(node), size=(640, 480))
    assert isinstance(source, Capture)
    assert (source.live, source.title) == (True, f"camera {node}")
    assert source._capture.asked[cv2.CAP_PROP_FRAME_HEIGHT] == 480
    assert opened == [(str(node), cv2.CAP_V4L2)]
    assert f"asked camera {node} for 640x480" in capsys.readouterr().err
    monkeypatch.setattr(captures.os.path, "realpath", lambda _: "/dev/video3")
    source.open()
    assert opened[1:] == [(3,)]


def test_a_device_that_is_not_there_is_said_so() -> None:
    for name in ("/dev/video97", "/dev/v4l/by-id/usb-None-video-index0"):
        for size in (None, (640, 480)):
            with pytest.raises(SourceError, match=rf"there is no camera {name} \(devices found: "):
                open_(name, size=size)


@pytest.mark.parametrize(
    "typed", ["rtsp:/me:secret@h/x", "me:secret@h/x", "http:me:secret@h", "RTSPS:/me:secret@h", "h/x?token=secret"]
)
def test_a_malformed_address_is_told_without_its_secret(typed: str) -> None:
    with pytest.raises(
        SourceError, match=r"there is no .*\*\*\*.*; the address of a stream begins like rtsp:// or http://"
    ) as caught:
        open_(typed)
    assert "secret" not in str(caught.value)


def test_unreachable_stream_hides_its_password() -> None:
    with pytest.raises(
        SourceError, match=r"can't open the stream http://\*\*\*@127.0.0.1:9/x: no answer within 5 s, or not a video"
    ):
        open_("http://me:secret@127.0.0.1:9/x")


def test_odd_names_are_sorted(tmp_path: Path) -> None:
    for name in ("\u00b22.png", "1\u00b2.png", "10.png", "9.png"):
        cv2.imwrite(str(tmp_path / name), np.zeros((48, 64, 3), np.uint8))
    assert read_all(open_(str(tmp_path)))[1:3] == ["9", "10"]


def test_a_pipe_is_refused_and_a_colon_is_not(video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    with pytest.raises(SourceError, match=r"pipe\.mp4 is neither a file nor a folder"):
        open_(str(tmp_path / "pipe.mp4"))
    monkeypatch.chdir(tmp_path)
    shutil.copy(video, "c:d.avi")
    assert len(read_all(open_("c:d.avi"))) == 40


def test_an_empty_source_is_refused() -> None:
    with pytest.raises(SourceError, match="got an empty --source"):
        open_("")


@pytest.mark.parametrize(
    ("url", "camera", "size"),
    [("rtsp://me:secret[bad", None, None), ("http://me:secret@h/x", 0, None), ("http://me:secret@h/x", None, (64, 48))],
)
def test_no_mistake_tells_the_password(url: str, camera: int | None, size: tuple[int, int] | None) -> None:
    with pytest.raises(SourceError) as caught:
        open_(url, camera, size)
    assert "secret" not in str(caught.value)


def test_without_a_camera_the_streets_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> Capture:
        raise SourceError("no camera")

    monkeypatch.setattr(sources, "open_camera", none)
    said: list[str] = []
    source = open_source(None, None, None, streets_live=True, info=said.append)
    assert isinstance(source, Streets)
    assert source.live
    assert said == ["no camera found: showing the procedural streets (choose with --camera or --source)"]
    # As where there are devices: one is tried, and why it isn't available is said.
    monkeypatch.setattr(sources.sys, "platform", "darwin")
    open_source(None, None, None, streets_live=True, info=said.append)
    assert said[1] == "no camera: showing the procedural streets (choose with --camera or --source)"
