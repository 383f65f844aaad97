from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from layouts import SIZE, coloured, stripes, write_image, write_mask

from rdd_deploy.data.camvid import CAMVID, CamvidOptions
from rdd_deploy.data.camvid_colour32 import TABLE, split_of
from rdd_deploy.data.download import TEST_NAMES
from rdd_deploy.data.ids import Ids
from rdd_deploy.errors import DataError

COLOURS = {index: colour for index, (_, colour, _) in enumerate(TABLE)}
FOLDED = [CAMVID.classes.index(group) if group != "void" else 255 for _, _, group in TABLE]
STEMS = {"train": "0001TP_006690", "val": "0016E5_08001", "test": "Seq05VD_f02610"}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for stem in STEMS.values():
        write_image(tmp_path / f"701_StillsRaw_full/{stem}.png")
        write_mask(tmp_path / f"LabeledApproved_full/{stem}_L.png", coloured(stripes(list(range(32))), COLOURS))
    return tmp_path


def options(root: Path, **keys: Any) -> CamvidOptions:
    return CamvidOptions.model_validate({"root": str(root), "release": "colour32", **keys})


@pytest.mark.parametrize("split", STEMS)
def test_the_colours_are_folded_to_eleven_classes(root: Path, split: str) -> None:
    data = options(root)
    data.fetch()  # nothing to be fetched of this release
    opened = data.open(split)
    assert opened.names == [STEMS[split]]
    assert (opened.labels(0) == stripes(FOLDED)).all()
    manifest: Any = SimpleNamespace(provenance=data.provenance())
    assert CamvidOptions.own_recorded(manifest) == {"release": "colour32"}
    mask = root / f"LabeledApproved_full/{STEMS[split]}_L.png"
    assert (Ids(11, **CamvidOptions.label_ids(manifest)).labels(mask) == stripes(FOLDED)).all()


def test_the_usual_division() -> None:
    names = [f"0001TP_{n:06}" for n in range(6690, 10381, 30)] + [f"0006R0_f{n:05}" for n in (901, 930, 3930)]
    names += [f"0016E5_{n:05}" for n in [*range(390, 7951, 30), *range(7959, 8160, 2), *range(8190, 8641, 30)]]
    counted = Counter(map(split_of, names))
    assert counted["val"] == 101
    assert counted["test"] == 62
    assert {split_of(name.removesuffix(".png")) for name in TEST_NAMES} == {"test"}
    assert split_of("holiday_0001") == ""


def test_lists_come_first(root: Path) -> None:
    (root / "val.txt").write_text(f"{STEMS['test']}\n")
    assert options(root).open("val").names == [STEMS["test"]]


def test_stray_colours_are_void_and_many_are_an_error(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = root / f"LabeledApproved_full/{STEMS['val']}_L.png"
    picture = coloured(stripes([3, 4], (48, 64)), COLOURS)
    picture[0, 0] = (1, 2, 3)
    write_image(root / f"701_StillsRaw_full/{STEMS['val']}.png", size=(48, 64))
    write_mask(path, picture)
    labels = options(root).open("val").labels(0)
    assert labels[0, 0] == 255
    assert (labels == 255).sum() == 1
    assert "holds the colour (1, 2, 3) at 1 of 3072 pixels" in capsys.readouterr().err
    write_mask(path, np.full((*SIZE, 3), 77, np.uint8))
    with pytest.raises(
        DataError, match=r"colour \(77, 77, 77\) at 768 of 768 pixels, which CamVid's table of 32 colours doesn't name"
    ):
        options(root).open("val").ids.labels(path)


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(
        DataError,
        match=(
            r"expected 701_StillsRaw_full/\*\.png and LabeledApproved_full/\*_L\.png, as .*or set data.release=segnet11"
        ),
    ):
        options(tmp_path).open("train")
