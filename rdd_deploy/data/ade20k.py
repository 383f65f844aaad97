"""ADE20k's scene parsing benchmark, 150 classes, in its official layout: images/ and annotations/ with training/ and
validation/.

Zhou et al., "Scene Parsing through ADE20K Dataset", CVPR 2017. Classes are named by the first word of each line of its
objectInfo150.txt.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from rdd_deploy.data.colours import voc_colour
from rdd_deploy.data.config import DataOptions, check_split_name
from rdd_deploy.data.label_space import LabelSpace
from rdd_deploy.errors import DataError
from rdd_deploy.schema import Place, Size

if TYPE_CHECKING:
    from rdd_deploy.data.base import FileSplit
    from rdd_deploy.runtime import Manifest

CLASSES = (
    "wall", "building", "sky", "floor", "tree", "ceiling", "road", "bed", "windowpane", "grass",
    "cabinet", "sidewalk", "person", "earth", "door", "table", "mountain", "plant", "curtain", "chair",
    "car", "water", "painting", "sofa", "shelf", "house", "sea", "mirror", "rug", "field",
    "armchair", "seat", "fence", "desk", "rock", "wardrobe", "lamp", "bathtub", "railing", "cushion",
    "base", "box", "column", "signboard", "chest of drawers", "counter", "sand", "sink", "skyscraper", "fireplace",
    "refrigerator", "grandstand", "path", "stairs", "runway", "case", "pool table", "pillow", "screen door", "stairway",
    "river", "bridge", "bookcase", "blind", "coffee table", "toilet", "flower", "book", "hill", "bench",
    "countertop", "stove", "palm", "kitchen island", "computer", "swivel chair", "boat", "bar", "arcade machine", "hovel",
    "bus", "towel", "light", "truck", "tower", "chandelier", "awning", "streetlight", "booth", "television receiver",
    "airplane", "dirt track", "apparel", "pole", "land", "bannister", "escalator", "ottoman", "bottle", "buffet",
    "poster", "stage", "van", "ship", "fountain", "conveyer belt", "canopy", "washer", "plaything", "swimming pool",
    "stool", "barrel", "basket", "waterfall", "tent", "bag", "minibike", "cradle", "oven", "ball",
    "food", "step", "tank", "trade name", "microwave", "pot", "animal", "bicycle", "lake", "dishwasher",
    "screen", "blanket", "sculpture", "hood", "sconce", "vase", "traffic light", "tray", "ashcan", "fan",
    "pier", "crt screen", "plate", "monitor", "bulletin board", "shower", "radiator", "glass", "clock", "flag",
)  # fmt: skip
ADE20K = LabelSpace(CLASSES, tuple(voc_colour(index + 1) for index in range(len(CLASSES))))
"""Its masks hold the class id + 1, and 0 for void."""
_MEANING: dict[str, Any] = {"ids": [[index + 1] for index in range(len(CLASSES))], "void_ids": [0]}
FOLDERS = {"train": "training", "val": "validation"}
ARCHIVE = "ADEChallengeData2016.zip of http://sceneparsing.csail.mit.edu"


class Ade20kOptions(DataOptions):
    """ADE20k's scene parsing benchmark in its official layout, 150 classes."""

    name: Literal["ade20k"] = "ade20k"
    root: Place = Field("data/ade20k", description="the folder that holds ADEChallengeData2016, or this")
    size: Size = Field((512, 512), description="[height, width] that the deployed network sees")

    def open(self, split: str) -> FileSplit:
        return open_ade20k(Path(self.root), split)

    @classmethod
    def label_ids(cls, manifest: Manifest) -> dict[str, Any]:
        return _MEANING


def open_ade20k(root: Path, split: str) -> FileSplit:
    """Open ``train`` or ``val``; the labels of the test split aren't public. Raises DataError, which says what belongs
    where.
    """
    from rdd_deploy.data.base import FileSplit
    from rdd_deploy.data.ids import Ids
    from rdd_deploy.data.listing import pair_up

    check_split_name("ADE20k", split, tuple(FOLDERS))
    place = next((one for one in (root / "ADEChallengeData2016", root) if (one / "annotations").is_dir()), root)
    frames, masks = place / "images" / FOLDERS[split], place / "annotations" / FOLDERS[split]
    if not frames.is_dir() or not masks.is_dir():
        raise DataError(
            f"no ADE20k {split} split in {root}: expected ADEChallengeData2016/ with images/{FOLDERS[split]}/*.jpg and"
            f" annotations/{FOLDERS[split]}/*.png, as {ARCHIVE} unpacks (the full ADE20k, with *_seg.png files, is"
            " another release); put it there, or say where it is (data.root, --data)"
        )
    pairs, notes = pair_up(frames, masks, (".jpg",))
    way_out = f"expected the masks of {ARCHIVE}, which hold the class's number and 0 for void"
    return FileSplit(ADE20K, pairs, Ids(len(ADE20K), **_MEANING, way_out=way_out), notes)
