"""Label folders beside a source."""

import os
import unicodedata
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from rdd_deploy.errors import DataError, SourceError
from rdd_deploy.live.labels import LabelFolder
from rdd_deploy.live.sources import Folder, Source, open_source


def open_(source: str | None, camera: int | None = None, size: tuple[int, int] | None = None) -> Source:
    return open_source(source, camera, size, streets_live=False, info=print)


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
        (
            ["frame0"],
            (
                r"11 of 12 images have no mask of the same name in .*, the first is frame1.png; give the folder whose"
                r" names match, or differ by one ending \(frame1\.jpg, frame1_mask\.png\)"
            ),
        ),
        ([], r"12 of 12 images have no mask of the same name"),
        ([f"frame{index}mask" for index in range(12)], r"12 of 12 images have no mask"),
        ([f"frame{index}{end}" for index in range(12) for end in ("_mask", "_depth")], r"12 of 12 images have no mask"),
    ],
)
def test_label_names_must_match_the_images(folder: Path, tmp_path: Path, names: list[str], sentence: str) -> None:
    with pytest.raises(SourceError, match=sentence):
        LabelFolder(masks(tmp_path / "m", names), Folder(folder), 3, ())


def test_one_ending_behind_all_names(folder: Path, tmp_path: Path) -> None:
    """``frame1`` is how ``frame10_mask`` begins, too."""
    place = masks(tmp_path / "m", ["frame0_other"])
    for index in range(12):
        cv2.imwrite(str(place / f"frame{index}_mask.png"), np.full((48, 64), index % 3, np.uint8))
    images = Folder(folder)
    labels = LabelFolder(place, images, 3, ())
    images.open()
    seen = 0
    while (captured := images.read()) is not None:
        truth = labels.truth(captured)
        assert truth is not None
        assert (truth == int(captured.name.removeprefix("frame")) % 3).all()
        seen += 1
    assert seen == 12


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
    with pytest.raises(
        SourceError, match=r"can't read the image .*ü\.png: it isn't a file but a folder, pipe or device"
    ):
        source.read()


def test_a_turned_frame_is_told_and_needs_a_turned_mask(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x112] = 6
    (tmp_path / "i").mkdir()
    Image.fromarray(np.zeros((48, 64, 3), np.uint8)).save(tmp_path / "i" / "a.jpg", exif=exif.tobytes())
    said: list[str] = []
    source = open_source(str(tmp_path / "i"), None, None, streets_live=False, info=said.append)
    assert said == [
        f"1 of 1 image in {tmp_path / 'i'} is turned on reading, as their EXIF orientation says, the first is a.jpg"
        " (orientation 6): masks must be turned as well"
    ]
    captured = source.read()
    assert captured is not None
    assert captured.frame.shape == (64, 48, 3)
    with pytest.raises(
        DataError,
        match="is of size 64x48, its frame 48x64; the frame is turned on reading, as its EXIF orientation 6 says",
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
        DataError,
        match=(
            r"holds unknown class ids \[11\]; expected 0 to 2 or a void id \(255\): if they mean void, pass"
            r" --data-void 11"
        ),
    ):
        LabelFolder(masks(tmp_path / "a", names, 11), Folder(folder), 3, ()).truth(captured)
    with pytest.raises(DataError, match="is of size 8x4, its frame 64x48"):
        LabelFolder(masks(tmp_path / "b", names, 1, (4, 8)), Folder(folder), 3, ()).truth(captured)
    with pytest.raises(SourceError, match="there is no label folder"):
        LabelFolder(tmp_path / "none", Folder(folder), 3, ())
    with pytest.raises(
        SourceError, match="--labels goes with a video file or a folder of images; streets has no labels in a folder"
    ):
        LabelFolder(tmp_path / "a", open_("streets", size=(64, 48)), 3, ())


def test_two_masks_of_one_frame_are_named_as_such(video: Path, tmp_path: Path) -> None:
    for name in ("5", "000005"):
        cv2.imwrite(str(tmp_path / f"{name}.png"), np.zeros((48, 64), np.uint8))
    with pytest.raises(SourceError, match="two of them have the same number; expected the frame's number from 0"):
        LabelFolder(tmp_path, open_(str(video)), 3, ())
