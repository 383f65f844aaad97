from pathlib import Path

import numpy as np
import pytest
from toys import picture, write_pair

from rdd_deploy.data.camvid import open_camvid
from rdd_deploy.errors import DataError


def test_layout_and_void(tmp_path: Path) -> None:
    frame, labels = picture(0)
    write_pair(tmp_path, "train", "0001TP", frame, np.where(labels == 255, 11, labels).astype(np.uint8))
    split = open_camvid(tmp_path, "train")
    assert len(split.label_space) == 11
    assert (split.labels(0) == labels).all()


@pytest.mark.parametrize(
    ("split", "sentence"),
    [
        (
            "train",
            (
                r"no CamVid train split in .*: expected the folders train/ and trainannot/ with PNG files, as in the"
                r" folder CamVid of "
            ),
        ),
        ("dev", "CamVid has no split 'dev'; expected train, val, test"),
        ("val", "val holds no images; expected files ending in \.png"),
        ("test", r"1 of 1 frames in .*test have no mask in .*testannot, e\.g\. a\.png needs a\.png"),
    ],
)
def test_missing(tmp_path: Path, split: str, sentence: str) -> None:
    for folder in ("val", "valannot", "test", "testannot"):
        (tmp_path / folder).mkdir()
    (tmp_path / "test" / "a.png").write_bytes(b"")
    with pytest.raises(DataError, match=sentence):
        open_camvid(tmp_path, split)
