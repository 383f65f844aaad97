"""Which image an export names: never one of another folder's because it has the same name."""

import base64
from pathlib import Path
from typing import Any

import exports
import pytest
from exports import H, W, box, convert, opened, photo, write

from rdd_deploy.data.imports.lookup import Lookup, NotFoundError
from rdd_deploy.data.imports.names import split_of, split_of_file


@pytest.mark.parametrize(
    ("files", "name", "folders", "found"),
    [
        (["photos/a.jpg"], "a.jpg", ["annotations"], "photos/a.jpg"),
        (["a.jpg"], "cam1/a.jpg", [""], "a.jpg"),  # all put into one folder
        (["images/cam2/a.jpg"], "cam1/a.jpg", ["", "images"], None),
        (["images/cam2/a.jpg", "images/cam1/b.jpg"], "/home/me/cam1/a.jpg", [""], None),
        (["images/cam1/a.jpg", "images/cam2/a.jpg"], "C:\\data\\cam2\\a.jpg", [""], "images/cam2/a.jpg"),
        (["pictures/a.jpg"], "/home/me/cam1/a.jpg", [""], "pictures/a.jpg"),  # the export has no cam1
        (["valid/a.jpg"], "a.jpg", ["train"], None),
        (["val2017/a.jpg"], "a.jpg", ["annotations", "train2017"], None),
        (["two/a.jpg", "two/b.json"], "a.jpg", ["one"], None),  # a data set of its own
        (["two/a.jpg"], "a.jpg", ["one"], "two/a.jpg"),
        (["img/train/a.jpg", "img/val/a.jpg"], "a.jpg", ["ann/train"], "img/train/a.jpg"),
        (["masks/a.png"], "a.png", ["annotations", "images"], None),
        (["trainannot/a.png"], "a.png", [""], None),
        (["x/SegmentationClass/a.png"], "a", [""], None),
        (["images/e\u0301.jpg"], "\u00e9.jpg", ["images"], "images/e\u0301.jpg"),
    ],
)
def test_which_image_is_meant(files: list[str], name: str, folders: list[str], found: str | None) -> None:
    lookup = Lookup(files)
    if found is None:
        with pytest.raises(NotFoundError, match=r"the image isn't in the export \(files of its name belong to other"):
            lookup.find(name, folders)
    else:
        assert lookup.find(name, folders) == found


def test_what_was_found_by_its_name_alone_is_told() -> None:
    lookup = Lookup(["photos/a.jpg", "img/b.jpg", "cam1/c.jpg"])
    assert lookup.find("a.jpg", [""]) == "photos/a.jpg"
    assert lookup.find("b.jpg", ["ann"]) == "img/b.jpg"
    assert lookup.find("../data/cam1/c.jpg", ["ann"]) == "cam1/c.jpg"
    assert lookup.guessed == ["photos/a.jpg"]
    with pytest.raises(NotFoundError):
        lookup.find("a.jpg", ["ann"], by_name=False)
    assert Lookup(["panoptic/masks/a.png"]).find("a.png", ["annotations"], masks=True) == "panoptic/masks/a.png"


def test_splits_are_whole_names_of_folders() -> None:
    for folder in ("test_drive", "train_station", "dev_kit", "valley", "images/test_drive"):
        assert split_of(folder) is None
    for folder, split in (
        ("train2017", "train"),
        ("Valid", "val"),
        ("test_images", "test"),
        ("obj_train_data/x", "train"),
    ):
        assert split_of(folder) == split
    assert split_of_file("annotations/instances_val2017.json") == "val"
    assert split_of_file("train/_annotations.coco.json") == "train"


def coco(path: Path, *names: str) -> None:
    images = [{"id": number, "file_name": name, "height": H, "width": W} for number, name in enumerate(names)]
    shape = [0, 0, 9, 0, 9, 9]
    shapes = [{"image_id": number, "category_id": 1, "segmentation": [shape]} for number in range(len(names))]
    write(path, exports.coco(images, shapes, ["car"]))


def test_an_image_that_is_missing_isnt_taken_from_another_split(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    coco(tmp_path / "e/train/_annotations.coco.json", "0001.jpg", "0002.jpg")
    coco(tmp_path / "e/valid/_annotations.coco.json", "0001.jpg")
    photo(tmp_path / "e/train/0002.jpg", 2)
    photo(tmp_path / "e/valid/0001.jpg", 1)
    part, result = convert(tmp_path / "e", tmp_path / "out")
    assert result.images == {"train": 1, "val": 1}
    assert list(opened(part)) == ["0002"]
    assert "1 image left out: the image isn't in the export (files of its name" in " ".join(
        capsys.readouterr().err.split()
    )


def test_images_that_are_found_by_their_name_alone_are_noted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    coco(tmp_path / "e/annotations/instances_default.json", "a.jpg")
    photo(tmp_path / "e/pictures/a.jpg")
    convert(tmp_path / "e", tmp_path / "out")
    assert "1 image found by their name alone, the first is pictures/a.jpg" in capsys.readouterr().out


def labelme(path: Path, image: str, **more: Any) -> None:
    shapes = [{"label": name, "points": box(0, 0, 5, 5), "shape_type": "polygon"} for name in ("a", "b")]
    write(path, {"shapes": shapes, "imagePath": image, "imageHeight": H, "imageWidth": W, **more})


def test_labelmes_own_copy_counts_before_another_folders_image(tmp_path: Path) -> None:
    photo(tmp_path / "e/two/a.jpg", 5)
    own = photo(tmp_path / "own.jpg", 6).read_bytes()
    labelme(tmp_path / "e/one/a.json", "a.jpg", imageData=base64.b64encode(own).decode())
    convert(tmp_path / "e", tmp_path / "out")
    assert (tmp_path / "out/train/a.jpg").read_bytes() == own


def test_superviselys_data_sets_stay_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    node = {"classTitle": "car", "geometryType": "polygon", "points": {"exterior": box(0, 0, 9, 9), "interior": []}}
    write(tmp_path / "e/meta.json", {"classes": [{"title": "car"}], "tags": []})
    for name in ("ds1/ann/a.jpg.json", "ds1/ann/b.jpg.json"):
        write(tmp_path / "e" / name, {"size": {"height": H, "width": W}, "objects": [node]})
    photo(tmp_path / "e/ds1/img/b.jpg")
    photo(tmp_path / "e/ds2/img/a.jpg", 1)
    part, _ = convert(tmp_path / "e", tmp_path / "out")
    assert list(opened(part)) == ["b"]
    assert "it has no file in ann/, the first is ds2/img/a.jpg" in capsys.readouterr().err
