from pathlib import Path

import pytest
from layouts import stripes, write_image, write_mask

from rdd_deploy.data.ade20k import ADE20K, Ade20kOptions, open_ade20k
from rdd_deploy.errors import DataError


def test_zero_is_void_and_the_classes_begin_at_one(tmp_path: Path) -> None:
    for folder in ("training", "validation"):
        write_image(tmp_path / f"ADEChallengeData2016/images/{folder}/ADE_{folder[:5]}_00000001.jpg")
        write_mask(
            tmp_path / f"ADEChallengeData2016/annotations/{folder}/ADE_{folder[:5]}_00000001.png",
            stripes([0, 1, 13, 150]),
        )
    for root in (tmp_path, tmp_path / "ADEChallengeData2016"):
        for split in ("train", "val"):
            assert (Ade20kOptions(root=str(root)).open(split).labels(0) == stripes([255, 0, 12, 149])).all()
    assert (ADE20K.classes[12], ADE20K.classes[149], len(set(ADE20K.classes))) == ("person", "flag", 150)
    assert len(set(ADE20K.palette)) == 150
    write_mask(tmp_path / "ADEChallengeData2016/annotations/training/ADE_train_00000001.png", stripes([0, 151]))
    with pytest.raises(DataError, match=r"unknown class ids \[151\].*expected the masks of ADEChallengeData2016.zip"):
        open_ade20k(tmp_path, "train").labels(0)


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"no ADE20k val split in .*images/validation/\*\.jpg .* as ADEChallengeData2016\.zip of http"
    ):
        open_ade20k(tmp_path, "val")
    with pytest.raises(DataError, match="ADE20k has no split 'test'; expected train, val"):
        open_ade20k(tmp_path, "test")
