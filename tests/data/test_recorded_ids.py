"""A bundle finds its data set, and what the values of its masks mean, by what its manifest records."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from toys import CLASSES, COLOURS, picture, write_data

from rdd_deploy.data.folder.config import FolderOptions
from rdd_deploy.data.ids import Ids
from rdd_deploy.data.open import label_ids, open_data, open_recorded
from rdd_deploy.errors import DataError


def manifest(**provenance: Any) -> Any:
    return SimpleNamespace(name="toy", classes=tuple(CLASSES), palette=COLOURS, provenance=provenance)


def written(root: Path, values: dict[int, int]) -> Path:
    """A data set whose masks hold other values."""
    write_data(root, train=2, val=2)
    for path in (*(root / "trainannot").iterdir(), *(root / "valannot").iterdir()):
        mask = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        assert mask is not None
        cv2.imwrite(str(path), np.vectorize(lambda value: values.get(value, value))(mask).astype(np.uint16))
    return root


@pytest.mark.parametrize(
    ("values", "options"),
    [
        ({255: 0, 0: 1, 1: 2, 2: 3}, {"ids": [1, 2, 3], "void_ids": [0]}),
        ({255: 3, 0: 7, 1: 11, 2: 26}, {"ids": [7, [11, 12], 26], "others_void": True}),
        ({255: 65535, 0: 1000, 1: 2000, 2: 3000}, {"ids": [1000, 2000, 3000], "void_ids": [65535]}),
        ({}, {}),
    ],
)
def test_a_bundle_reads_the_masks_as_its_run_did(
    tmp_path: Path, values: dict[int, int], options: dict[str, Any]
) -> None:
    data = FolderOptions(root=str(written(tmp_path, values)), size=(64, 64), classes=CLASSES, **options)
    expected = picture(1000)[1]
    assert (open_data(data, "val").labels(0) == expected).all()
    recorded = manifest(**data.provenance())
    assert all(isinstance(value, (str, int, float, type(None))) for value in recorded.provenance.values())
    assert (open_recorded(recorded, "val").labels(0) == expected).all()
    assert (Ids(3, **label_ids(recorded)).labels(tmp_path / "valannot" / "val1000.png") == expected).all()


def test_what_older_bundles_lack(tmp_path: Path) -> None:
    write_data(tmp_path)
    old = manifest(data="folder", data_root=str(tmp_path), data_height=64, data_width=64, data_void_ids="255")
    assert (open_recorded(old, "val").labels(0) == picture(1000)[1]).all()
    assert label_ids(old) == {"ids": None, "void_ids": [255], "others_void": False, "colours": COLOURS}
    assert label_ids(manifest(data="camvid")) == {"void_ids": [11, 255]}
    assert label_ids(manifest(data="streets")) == label_ids(manifest()) == {}
    with pytest.raises(
        DataError, match=r"the mask values that the manifest of 'toy' names can't be read: .*; export the bundle again"
    ):
        label_ids(manifest(data="folder", data_ids="1,x 2"))


def test_what_was_left_out_is_told_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_data(tmp_path)
    (tmp_path / "train" / "._train0000.png").write_bytes(b"x")
    data = FolderOptions(root=str(tmp_path), size=(64, 64), classes=CLASSES)
    for _ in range(2):
        open_data(data, "train")
    assert capsys.readouterr().err.count(f"1 hidden or system file in {tmp_path}/train passed over") == 1
