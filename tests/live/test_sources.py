import os
import shutil
import unicodedata
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from rdd_deploy.errors import DataError, SourceError
from rdd_deploy.live import captures, sources
from rdd_deploy.live.captures import Capture
from rdd_deploy.live.labels import LabelFolder
from rdd_deploy.live.sources import Folder, Source, Streets, open_source


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
        ((str(tmp_path / "none.mp4"),), "none.mp4; expected a video file, a folder of images, an rtsp:// or http:// address, or 'streets'"),
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
        return {cv2.CAP_PROP_FRAME_WIDTH: 320.0, cv2.CAP_PROP_FRAME_HEIGHT: 240.0, cv2.CAP_PROP_FPS: 30.0}.get(name, -1.0)

    def grab(self) -> bool:
        return True

    def retrieve(self) -> tuple[bool, np.ndarray]:
        return True, np.zeros((240, 320, 3), np.uint8)

    def release(self) -> None:
        pass


def test_a_camera_that_gives_another_size_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(cv2, "VideoCapture", FakeCamera)
    source = open_(None, 0, (640, 480))
    assert capsys.readouterr().err == "warning: asked camera 0 for 640x480, it gives 320x240\n"
    captured = source.read()
    assert captured is not None
    assert (source.live, source.fps, captured.index) == (True, 30.0, 0)
    assert isinstance(source, Capture)
    assert source._capture.asked[cv2.CAP_PROP_FRAME_WIDTH] == 640


@pytest.mark.parametrize("name", ["video7", "usb-Maker_Cam-video-index0", "cam\u00e4ra"])
def test_a_device_file_is_a_camera(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
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


@pytest.mark.parametrize("typed", ["rtsp:/me:secret@h/x", "me:secret@h/x", "http:me:secret@h", "RTSPS:/me:secret@h", "h/x?token=secret"])
def test_a_malformed_address_is_told_without_its_secret(typed: str) -> None:
    with pytest.raises(SourceError, match=r"there is no .*\*\*\*.*; the address of a stream begins like rtsp:// or http://") as caught:
        open_(typed)
    assert "secret" not in str(caught.value)


def test_unreachable_stream_hides_its_password() -> None:
    with pytest.raises(SourceError, match=r"can't open the stream http://\*\*\*@127.0.0.1:9/x: no answer within 5 s, or not a video"):
        open_("http://me:secret@127.0.0.1:9/x")


def test_odd_names_are_sorted(tmp_path: Path) -> None:
    for name in ("\u00b22.png", "1\u00b2.png", "10.png", "9.png"):
        cv2.imwrite(str(tmp_path / name), np.zeros((48, 64, 3), np.uint8))
    assert read_all(open_(str(tmp_path)))[1:3] == ["9", "10"]


def test_two_masks_of_one_frame_are_named_as_such(video: Path, tmp_path: Path) -> None:
    for name in ("5", "000005"):
        cv2.imwrite(str(tmp_path / f"{name}.png"), np.zeros((48, 64), np.uint8))
    with pytest.raises(SourceError, match="two of them have the same number; expected the frame's number from 0"):
        LabelFolder(tmp_path, open_(str(video)), 3, ())


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
    monkeypatch.setattr(sources.sys, "platform", "darwin")  # as where there are devices: one is tried, and why it isn't available is said
    open_source(None, None, None, streets_live=True, info=said.append)
    assert said[1] == "no camera: showing the procedural streets (choose with --camera or --source)"


def masks(folder: Path, names: list[str], value: int = 1, size: tuple[int, int] = (48, 64)) -> Path:
    folder.mkdir()
    for name in names:
        cv2.imwrite(str(folder / f"{name}.png"), np.full(size, value, np.uint8))
    return folder


def test_labels_by_stem_and_by_number(folder: Path, video: Path, tmp_path: Path) -> None:
    images = open_(str(folder))
    labels = LabelFolder(masks(tmp_path / "a", [f"frame{index}" for index in range(12)]), images, 3, ())
    captured = images.read()
    assert captured is not None
    truth = labels.truth(captured)
    assert truth is not None
    assert (truth == 1).all()
    drive = open_(str(video))
    sparse = LabelFolder(masks(tmp_path / "b", ["1", "000007"], 11), drive, 3, (11,))
    found = []
    while (captured := drive.read()) is not None:
        truth = sparse.truth(captured)
        if truth is not None:
            assert (truth == 255).all()
            found.append(captured.index)
    assert found == [1, 7]


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        (["frame0"], r"11 of 12 images have no mask of the same name in .*, the first is frame1.png; give the folder whose names match"),
        ([], r"12 of 12 images have no mask of the same name"),
    ],
)
def test_label_names_must_match_the_images(folder: Path, tmp_path: Path, names: list[str], sentence: str) -> None:
    with pytest.raises(SourceError, match=sentence):
        LabelFolder(masks(tmp_path / "m", names), Folder(folder), 3, ())


@pytest.mark.parametrize(
    ("names", "sentence"),
    [(["a"], "a.png isn't a number"), ([], "it holds no PNG"), (["40"], "go up to frame 40, drive.avi has 40 frames")],
)
def test_label_names_must_match_the_video(video: Path, tmp_path: Path, names: list[str], sentence: str) -> None:
    with pytest.raises(SourceError, match=sentence):
        LabelFolder(masks(tmp_path / "m", names), open_(str(video)), 3, ())


def test_a_folder_of_real_files(folder: Path, tmp_path: Path) -> None:
    """A Mac's companions, endings of either case, a pipe, names composed otherwise, kinds that aren't read."""
    images, labels = tmp_path / "images", tmp_path / "masks"
    images.mkdir()
    labels.mkdir()
    for index, name in enumerate(("a.PNG", "b.Jpg", "c.jfif", unicodedata.normalize("NFC", "é.png"))):
        frame = cv2.imread(str(folder / f"frame{index}.png"))
        assert frame is not None
        cv2.imwrite(str(images / "x.png"), frame)
        (images / "x.png").rename(images / name)
        cv2.imwrite(str(labels / "x.png"), np.full((48, 64), index % 3, np.uint8))
        (labels / "x.png").rename(labels / f"{unicodedata.normalize('NFD', name).rpartition('.')[0]}.PNG")
    for name in ("._a.png", ".DS_Store", "Thumbs.db"):
        (images / name).write_bytes(b"x")
        (labels / name.replace(".DS_Store", "._b.png")).write_bytes(b"x")
    (images / "d.heic").write_bytes(b"x")
    os.mkfifo(images / "ü.png")
    os.mkfifo(labels / "ü.png")
    said: list[str] = []
    source = open_source(str(images), None, None, streets_live=False, info=said.append)
    assert said == [
        f"1 file in {images} of other kinds (.heic), the first is d.heic: left out, convert them to use them",
        f"3 hidden or system files in {images} passed over",
    ]
    truth = LabelFolder(labels, source, 3, ())
    for index in range(4):
        captured = source.read()
        assert captured is not None
        got = truth.truth(captured)
        assert got is not None
        assert (got == index % 3).all()
    with pytest.raises(SourceError, match=r"can't read the image .*ü\.png: it isn't a file but a folder, pipe or device"):
        source.read()


def test_a_turned_frame_is_told_and_needs_a_turned_mask(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x112] = 6
    (tmp_path / "i").mkdir()
    Image.fromarray(np.zeros((48, 64, 3), np.uint8)).save(tmp_path / "i" / "a.jpg", exif=exif.tobytes())
    said: list[str] = []
    source = open_source(str(tmp_path / "i"), None, None, streets_live=False, info=said.append)
    assert said == [
        f"1 of 1 image in {tmp_path / 'i'} is turned on reading, as their EXIF orientation says, the first is a.jpg (orientation 6): "
        "masks must be turned as well"
    ]
    captured = source.read()
    assert captured is not None
    assert captured.frame.shape == (64, 48, 3)
    with pytest.raises(
        DataError, match="is of size 64x48, its frame 48x64; the frame is turned on reading, as its EXIF orientation 6 says"
    ):
        LabelFolder(masks(tmp_path / "m", ["a"]), source, 3, ()).truth(captured)


def test_labels_mean_what_the_bundles_data_says(folder: Path, tmp_path: Path) -> None:
    images = Folder(folder)
    captured = images.read()
    assert captured is not None
    recorded = {"ids": [[7], [11], [26]], "void_ids": [], "others_void": True}
    labels = masks(tmp_path / "a", [f"frame{index}" for index in range(12)], 11)
    truth = LabelFolder(labels, images, 3, (), recorded).truth(captured)
    assert truth is not None
    assert (truth == 1).all()
    with pytest.raises(DataError, match=r"unknown class ids \[11\]"):
        LabelFolder(labels, images, 3, (5,), recorded).truth(captured)  # --data-void was given: ids count as they are


def test_labels_that_cant_be_used(folder: Path, tmp_path: Path) -> None:
    names = [f"frame{index}" for index in range(12)]
    captured = Folder(folder).read()
    assert captured is not None
    with pytest.raises(
        DataError, match=r"holds unknown class ids \[11\]; expected 0 to 2 or a void id \(255\): if they mean void, pass --data-void 11"
    ):
        LabelFolder(masks(tmp_path / "a", names, 11), Folder(folder), 3, ()).truth(captured)
    with pytest.raises(DataError, match="is of size 8x4, its frame 64x48"):
        LabelFolder(masks(tmp_path / "b", names, 1, (4, 8)), Folder(folder), 3, ()).truth(captured)
    with pytest.raises(SourceError, match="there is no label folder"):
        LabelFolder(tmp_path / "none", Folder(folder), 3, ())
    with pytest.raises(SourceError, match="--labels goes with a video file or a folder of images; streets has no labels in a folder"):
        LabelFolder(tmp_path / "a", open_("streets", size=(64, 48)), 3, ())
