import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from toy_bundle import CLASSES, PALETTE

from rdd_deploy.benchmark.images import Images
from rdd_deploy.data.base import IGNORE
from rdd_deploy.data.open import open_split
from rdd_deploy.data.streets.dataset import open_streets
from rdd_deploy.errors import DataError


def test_frames_come_in_bgr_and_labels_with_void(toy_split) -> None:
    images = Images(toy_split)
    assert len(images) == 12
    assert (images.decode(3) == toy_split.frame(3)[..., ::-1]).all()
    assert (images.truth(3) == toy_split.labels(3)).all()
    assert (images.known(3) == (toy_split.labels(3) != IGNORE)).all()


@pytest.mark.parametrize(
    ("limit", "names"), [(1, ["000"]), (3, ["000", "006", "011"]), (99, [f"{i:03d}" for i in range(12)])]
)
def test_a_limit_spreads_over_the_split(toy_split, limit: int, names: list[str]) -> None:
    assert Images(toy_split, limit).names == names


def test_made_frames_are_encoded_without_loss() -> None:
    split = open_streets("val", height=48, width=64, count=2)
    images = Images(split)
    for number in range(2):
        assert (images.decode(number) == split.frame(number)[..., ::-1]).all()
        assert (images.truth(number) == split.labels(number)).all()


def test_the_hash_knows_the_content(toy_data: Path, toy_split, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(toy_data, copy)
    assert (
        Images(open_split("folder", copy, "val", classes=CLASSES, palette=PALETTE)).sha256 == Images(toy_split).sha256
    )
    shutil.copy(copy / "valannot" / "001.png", copy / "valannot" / "002.png")
    assert (
        Images(open_split("folder", copy, "val", classes=CLASSES, palette=PALETTE)).sha256 != Images(toy_split).sha256
    )


def test_an_unreadable_image_is_reported_and_left_out(
    toy_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(toy_data, copy)
    (copy / "val" / "004.png").write_bytes(b"no picture")
    images = Images(open_split("folder", copy, "val", classes=CLASSES, palette=PALETTE))
    assert (len(images), images.skipped) == (11, ["004"])
    assert "004.png" in capsys.readouterr().err
    assert "004" not in images.names
    assert np.unique(images.truth(4)).max() <= IGNORE


def test_nothing_but_void_is_an_error(toy_data: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(toy_data, copy)
    masks = sorted((copy / "valannot").iterdir())
    for file in masks[1:]:
        cv2.imwrite(str(file), np.full((60, 80), IGNORE, np.uint8))
    assert len(Images(open_split("folder", copy, "val", classes=CLASSES, palette=PALETTE))) == 12
    cv2.imwrite(str(masks[0]), np.full((60, 80), IGNORE, np.uint8))
    with pytest.raises(
        DataError, match="all pixels of the 12 label maps are void, so there is no mIoU; check the labels"
    ):
        Images(open_split("folder", copy, "val", classes=CLASSES, palette=PALETTE))


def test_no_readable_image_is_an_error(toy_data: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(toy_data, copy)
    for file in (copy / "val").iterdir():
        file.write_bytes(b"")
    with pytest.raises(DataError, match="none of the 12 images can be used; the first: 000"):
        Images(open_split("folder", copy, "val", classes=CLASSES, palette=PALETTE))
