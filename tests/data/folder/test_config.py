from pathlib import Path

import pytest
from toys import CLASSES, picture, write_data, write_pair

from rdd_deploy.data import DATASETS
from rdd_deploy.data.colours import spread_colours
from rdd_deploy.data.open import open_split
from rdd_deploy.errors import DataError


def test_pairs_by_stem(tmp_path: Path) -> None:
    write_data(tmp_path, train=3)
    (tmp_path / "train" / "train0001.png").rename(tmp_path / "train" / "train0001.PNG")
    (tmp_path / "train" / "notes.txt").write_text("no image")
    split = open_split("folder", tmp_path, "train", classes=CLASSES)
    assert list(split.names) == ["train0000", "train0001", "train0002"]
    frame, labels = picture(1)
    assert (split.frame(1) == frame).all()
    assert (split.labels(1) == labels).all()


def test_two_frames_of_one_mask(tmp_path: Path) -> None:
    write_data(tmp_path)
    (tmp_path / "train" / "train0001.jpg").write_bytes((tmp_path / "train" / "train0001.png").read_bytes())
    with pytest.raises(
        DataError,
        match=r"train0001\.jpg and train0001\.png have the same name but for the ending; rename or remove one",
    ):
        open_split("folder", tmp_path, "train", classes=CLASSES)


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no val split in .*: expected the folders val/ \(frames\) and valannot/"):
        open_split("folder", tmp_path, "val", classes=CLASSES)
    (tmp_path / "val").mkdir()
    (tmp_path / "valannot").mkdir()
    with pytest.raises(DataError, match=r"holds no images; expected files ending in \.png, \.jpg"):
        open_split("folder", tmp_path, "val", classes=CLASSES)
    write_pair(tmp_path, "val", "a", *picture(0))
    (tmp_path / "valannot" / "a.png").unlink()
    with pytest.raises(DataError, match=r"1 of 1 frames in .* have no mask in .*, e\.g\. a\.png needs a\.png"):
        open_split("folder", tmp_path, "val", classes=CLASSES)


def test_unknown_data_set() -> None:
    with pytest.raises(DataError, match=f"unknown data set 'kamvid'; expected one of {', '.join(DATASETS)}"):
        open_split("kamvid", ".", "train")


@pytest.mark.parametrize("count", [2, 3, 19, 150])
def test_colours_differ(count: int) -> None:
    colours = spread_colours(count)
    assert len(set(colours)) == count
    assert all(0 <= value <= 255 for colour in colours for value in colour)
