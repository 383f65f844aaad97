"""The data set that a manifest names, found again or told in words."""

from pathlib import Path
from typing import Any

import pytest
import toys

from rdd_deploy.data.camvid import CamvidOptions
from rdd_deploy.data.open import data_at, open_recorded
from rdd_deploy.data.streets.config import StreetsOptions
from rdd_deploy.data.streets.dataset import open_streets
from rdd_deploy.errors import DataError
from rdd_deploy.runtime import InputSpec, Manifest


def manifest(**provenance: Any) -> Manifest:
    """Of toy classes, or of the streets'."""
    classes, palette = list(toys.CLASSES), list(toys.COLOURS)
    if provenance["data"] == "streets":
        label_space = open_streets("val", height=64, width=64).label_space
        classes, palette = list(label_space.classes), list(label_space.palette)
    return Manifest(
        name="toy", classes=classes, palette=palette, input=InputSpec(height=64, width=64), backend="onnxruntime", precision="fp32",
        profile="onnxruntime-fp32", model="model.onnx", files={"model.onnx": "0" * 64},
        provenance={"data_height": 64, "data_width": 64, "data_void_ids": "255"} | provenance,
    )  # fmt: skip


def test_streets_lie_in_no_folder() -> None:
    made = manifest(data="streets", data_seed=0)
    assert len(open_recorded(made, "val"))
    sentence = (
        "got --data /does/not/exist, but streets are made as they are needed and lie in no folder; leave --data out"
    )
    with pytest.raises(DataError, match=sentence):
        open_recorded(made, "val", Path("/does/not/exist"))
    with pytest.raises(DataError, match=sentence):
        data_at(StreetsOptions(), Path("/does/not/exist"))
    assert data_at(CamvidOptions(), Path("there")).root == "there"


def test_a_relative_folder_is_told_whole_and_with_the_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toys.write_data(tmp_path / "data")
    made = manifest(data="folder", data_root="data")
    monkeypatch.chdir(tmp_path)
    assert len(open_recorded(made, "val")) == 3
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    with pytest.raises(DataError) as error:
        open_recorded(made, "val")
    assert (
        str(error.value)
        == f"the data of 'toy' isn't in {tmp_path}/elsewhere/data: its manifest says data, which is relative to the"
        " folder that the run was started in; say where it lies now with --data"
    )
    assert len(open_recorded(made, "val", tmp_path / "data")) == 3
