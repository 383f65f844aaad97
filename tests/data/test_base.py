from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from toys import CLASSES, COLOURS, picture, write_data, write_pair

from rdd_deploy.data.base import FileSplit, LabelSpace
from rdd_deploy.data.ids import Ids
from rdd_deploy.data.open import open_split
from rdd_deploy.errors import DataError

TASK = LabelSpace(tuple(CLASSES), COLOURS)


def save_turned(path: Path, frame: np.ndarray, orientation: int) -> None:
    """A frame whose EXIF orientation says that it is to be turned."""
    exif = Image.Exif()
    exif[0x112] = orientation
    Image.fromarray(frame).save(path, exif=exif.tobytes(), quality=100, subsampling=0)


def test_a_mask_of_the_size_as_stored_is_an_error_that_names_the_tag(tmp_path: Path) -> None:
    write_data(tmp_path, height=48, width=64)
    for path in ("train/train0002.png", "trainannot/train0002.png"):
        (tmp_path / path).unlink()
    frame, labels = picture(2, 48, 64)
    save_turned(tmp_path / "train" / "train0002.jpg", frame, 6)
    mask = tmp_path / "trainannot" / "train0002.png"
    cv2.imwrite(str(mask), labels)
    sentence = (
        rf"train0002: the frame is 64x48, its mask 48x64, which is the frame's size as stored: its EXIF orientation is"
        rf" 6, so it is turned on "
        rf"reading\. Turn the mask as well, or store the frame .*; fix {tmp_path}/train/train0002\.jpg or {mask}"
    )
    with pytest.raises(DataError, match=sentence):
        open_split("folder", tmp_path, "train", classes=CLASSES).labels(2)
    cv2.imwrite(str(mask), np.ascontiguousarray(np.rot90(labels, -1)))
    split = open_split("folder", tmp_path, "train", classes=CLASSES)
    assert (split.labels(2) == np.rot90(labels, -1)).all()
    assert np.abs(split.frame(2).astype(int) - np.rot90(frame, -1)).mean() < 25
    cv2.imwrite(str(mask), labels[:40])
    with pytest.raises(DataError, match=r"train0002: the frame is 64x48, its mask 40x64; fix "):
        open_split("folder", tmp_path, "train", classes=CLASSES).labels(2)


@pytest.mark.parametrize("split", ["train", "val"])
def test_frames_that_are_turned_or_lie_across_are_told(tmp_path: Path, split: str) -> None:
    for index in range(5):
        write_pair(tmp_path, split, f"f{index}", *picture(index, 48, 64))
    for index in (5, 6):
        write_pair(tmp_path, split, f"f{index}", *picture(index, 64, 48))
    save_turned(tmp_path / split / "f1.png", picture(1, 48, 64)[0], 3)
    save_turned(tmp_path / split / "f2.png", picture(2, 48, 64)[0], 4)
    notes = open_split("folder", tmp_path, split, classes=CLASSES).notes((32, 48))
    where = tmp_path / split
    assert (
        notes[0]
        == f"2 of 7 images in {where} are turned on reading, as their EXIF orientation says, the first is f1.png"
        " (orientation 3): masks must be turned as well"
    )
    assert notes[1].startswith(
        f"2 of 7 images in {where} are upright (portrait), the first is f5.png (64x48): stretched to the network's"
        " 32x48 like all others"
    )
    assert len(notes) == 2
    assert open_split("folder", tmp_path, split, classes=CLASSES).notes((48, 48))[1] == notes[1].replace(
        "32x48", "48x48"
    )
    assert "5 of 7 images" in open_split("folder", tmp_path, split, classes=CLASSES).notes((48, 32))[1]
    assert len(open_split("folder", write_data(tmp_path / "other"), split, classes=CLASSES).notes((48, 32))) == 0


def test_a_frame_that_is_no_image_breaks_no_notes(tmp_path: Path) -> None:
    (write_data(tmp_path) / "train" / "train0001.png").write_bytes(b"x")
    split = open_split("folder", tmp_path, "train", classes=CLASSES)
    assert isinstance(split, FileSplit)
    assert split.notes((64, 64)) == []
    with pytest.raises(DataError, match=r"can't read the image .*train0001\.png: not an image"):
        split.frame(1)


def test_labels_come_through_the_ids(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.array([[0, 1, 2, 11]], np.uint8))
    assert FileSplit(TASK, [(tmp_path / "a.png", tmp_path / "a.png")], Ids(3, void_ids=[11])).labels(0).tolist() == [
        [0, 1, 2, 255]
    ]


def test_tasks() -> None:
    with pytest.raises(DataError, match="3 classes but 2 palette colours; give one colour a class"):
        LabelSpace(("a", "b", "c"), COLOURS[:2])
    with pytest.raises(DataError, match="got 1 classes, expected 2 to 255"):
        LabelSpace(("a",), COLOURS[:1])
