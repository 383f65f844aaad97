from pathlib import Path

import numpy as np
import pytest
from layouts import stripes, write_image, write_mask

from rdd_deploy.data.cityscapes import CITYSCAPES, LABEL_IDS, CityscapesOptions, open_cityscapes
from rdd_deploy.data.ids import Ids
from rdd_deploy.errors import DataError

LABELS = list(range(34))


def write(root: Path, kind: str, values: list[int], split: str = "val") -> Path:
    for city in ("lindau", "munster"):
        stem = f"{city}_000000_000019"
        write_image(root / f"leftImg8bit/{split}/{city}/{stem}_leftImg8bit.png")
        write_mask(root / f"gtFine/{split}/{city}/{stem}_gtFine_{kind}.png", stripes(values))
        write_mask(root / f"gtFine/{split}/{city}/{stem}_gtFine_color.png", np.zeros((24, 32, 3), np.uint8))
        write_mask(root / f"gtFine/{split}/{city}/{stem}_gtFine_instanceIds.png", stripes([26001, 7]))
    return root


def test_label_ids_and_train_ids_mean_the_same(tmp_path: Path) -> None:
    shown = [0, 7, 8, 14, 17, 23, 26, 31, 33, 30]
    as_train = [next((i for i, ids in enumerate(LABEL_IDS) if value in ids), 255) for value in shown]
    one = open_cityscapes(write(tmp_path / "a", "labelIds", shown), "val")
    other = open_cityscapes(write(tmp_path / "b", "labelTrainIds", as_train), "val")
    assert one.names == ["lindau_000000_000019_leftImg8bit", "munster_000000_000019_leftImg8bit"]
    assert (one.labels(1) == other.labels(1)).all()
    assert (one.labels(1) == stripes(as_train)).all()
    assert len(CITYSCAPES) == 19
    assert [CITYSCAPES.classes[i] for i in (0, 13, 18)] == ["road", "car", "bicycle"]


@pytest.mark.parametrize(
    ("kind", "values", "labels", "sentence"),
    [
        (
            "labelTrainIds",
            [0, 26, 33],
            "auto",
            r"unknown class ids \[26, 33\].*they look like labelIds, which go up to 33; data.labels is auto",
        ),
        (
            "labelIds",
            [0, 10, 255],
            "labelIds",
            r"unknown class ids \[255\].*they look like trainIds, which hold 255 for void",
        ),
    ],
)
def test_the_values_are_checked(tmp_path: Path, kind: str, values: list[int], labels: str, sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        open_cityscapes(write(tmp_path, kind, values), "val", labels).labels(0)


def test_a_colour_file_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "labelIds", LABELS) / "gtFine/val/lindau/lindau_000000_000019_gtFine_labelIds.png"
    picture = np.zeros((24, 32, 3), np.uint8)
    picture[..., 0] = 128
    write_mask(path, picture)
    with pytest.raises(DataError, match="expected one 8-bit channel of class ids"):
        open_cityscapes(tmp_path, "val").labels(0)


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(
        DataError,
        match=r"no Cityscapes train split in .*: expected leftImg8bit/train/<city>/.* as leftImg8bit_trainvaltest\.zip",
    ):
        open_cityscapes(tmp_path, "train")
    write(tmp_path, "labelIds", LABELS)
    with pytest.raises(
        DataError,
        match=r"2 of 2 frames .* have no trainIds mask.*\*_gtFine_labelIds.png files: data.labels=labelIds reads these",
    ):
        open_cityscapes(tmp_path, "val", "trainIds")
    with pytest.raises(DataError, match="Cityscapes has no split 'dev'"):
        open_cityscapes(tmp_path, "dev")


def test_a_bundle_reads_masks_as_its_run_did(tmp_path: Path) -> None:
    class Manifest:
        provenance = CityscapesOptions(root=str(tmp_path), labels="trainIds").provenance()

    write_mask(tmp_path / "a.png", stripes([0, 18, 255]))
    assert (
        Ids(19, **CityscapesOptions.label_ids(Manifest())).labels(tmp_path / "a.png") == stripes([0, 18, 255])
    ).all()  # type: ignore[arg-type]
    assert CityscapesOptions.own_recorded(Manifest()) == {"labels": "trainIds"}  # type: ignore[arg-type]
