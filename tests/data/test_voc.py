from pathlib import Path

import pytest
from layouts import stripes, write_image, write_mask, write_palette

from rdd_deploy.data.colours import voc_colour
from rdd_deploy.data.voc import VOC, VocOptions, open_voc
from rdd_deploy.errors import DataError

PALETTE = [voc_colour(index) for index in range(256)]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    place = tmp_path / "VOCdevkit/VOC2012"
    for number, stem in enumerate(("2007_000032", "2007_000039", "2008_000008", "2008_000009")):
        write_image(place / f"JPEGImages/{stem}.jpg")
        if number < 3:
            write_palette(place / f"SegmentationClass/{stem}.png", stripes([0, number + 1, 20, 255]), PALETTE)
        write_mask(place / f"SegmentationClassAug/{stem}.png", stripes([0, number + 1, 255]))
    lists = place / "ImageSets/Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("2007_000032\n")
    (lists / "val.txt").write_text("2007_000039\n2008_000008\n")
    (lists / "train_aug.txt").write_text(
        "".join(f"/JPEGImages/{s}.jpg /SegmentationClassAug/{s}.png\n" for s in ("2007_000032", "2008_000009"))
    )
    return tmp_path


def test_lists_and_masks(root: Path) -> None:
    assert VOC.classes[:2] == ("background", "aeroplane")
    assert VOC.palette[1] == (128, 0, 0)
    assert open_voc(root, "train", "train").names == ["2007_000032"]
    aug = VocOptions(root=str(root / "VOCdevkit")).open("train")
    assert aug.names == ["2007_000032", "2008_000009"]
    assert (aug.labels(1) == stripes([0, 4, 255])).all()
    val = open_voc(root / "VOCdevkit/VOC2012", "val")
    assert val.names == ["2007_000039", "2008_000008"]
    assert (val.labels(0) == stripes([0, 2, 20, 255])).all()
    (root / "VOCdevkit/VOC2012/ImageSets/Segmentation/train_aug.txt").write_text("2008_000009\n")
    assert open_voc(root, "train").names == ["2008_000009"]


def test_missing(root: Path, tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"no PASCAL VOC in .*: expected VOCdevkit/VOC2012/ .* as VOCtrainval_11-May-2012\.tar"
    ):
        open_voc(tmp_path / "nowhere", "val")
    with pytest.raises(DataError, match="PASCAL VOC has no split 'test'; expected train, val"):
        open_voc(root, "test")
    (root / "VOCdevkit/VOC2012/ImageSets/Segmentation/train_aug.txt").unlink()
    with pytest.raises(
        DataError,
        match=r"has no ImageSets/Segmentation/train_aug.txt; .*SegmentationClassAug.zip.*set data.train_list=train",
    ):
        open_voc(root, "train")
    (root / "VOCdevkit/VOC2012/ImageSets/Segmentation/train.txt").write_text("2007_000032\n2007_999999\n")
    with pytest.raises(DataError, match=r"train.txt, line 2 names '2007_999999', which is none of the images"):
        open_voc(root, "train", "train")


def test_an_unknown_value_names_no_key_that_voc_lacks(root: Path) -> None:
    write_mask(root / "VOCdevkit/VOC2012/SegmentationClass/2007_000039.png", stripes([0, 77]))
    with pytest.raises(
        DataError, match=r"ids \[77\]; expected 0 to 20 or a void id \(255\): expected masks as VOCtrainval.* have them"
    ) as caught:
        open_voc(root, "val").labels(0)
    assert "data.ids" not in str(caught.value)
