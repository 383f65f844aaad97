"""PASCAL VOC 2012, 20 classes and background, in its official layout, with the larger training list of SBD.

Everingham et al., "The PASCAL Visual Object Classes Challenge: A Retrospective", IJCV 2015; Hariharan et al., "Semantic
contours from inverse detectors", ICCV 2011 (SBD).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from rdd_deploy.data.colours import voc_colour
from rdd_deploy.data.config import DataOptions, check_split_name
from rdd_deploy.data.label_space import IGNORE, LabelSpace
from rdd_deploy.errors import DataError
from rdd_deploy.schema import Place, Size

if TYPE_CHECKING:
    from rdd_deploy.data.base import FileSplit
    from rdd_deploy.runtime import Manifest

CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog", "horse",
    "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
VOC = LabelSpace(CLASSES, tuple(voc_colour(index) for index in range(len(CLASSES))))
ARCHIVE = "VOCtrainval_11-May-2012.tar of http://host.robots.ox.ac.uk/pascal/VOC/voc2012"
_LISTS, _FRAMES, _MASKS, _AUG = "ImageSets/Segmentation", "JPEGImages", "SegmentationClass", "SegmentationClassAug"
_WAY_OUT = f"expected masks as {ARCHIVE} and SBD have them, which hold the class's number and 255 for void"
_AUG_NAMES = ("train_aug.txt", "trainaug.txt")


class VocOptions(DataOptions):
    """PASCAL VOC 2012 in its official layout, 21 classes with background."""

    name: Literal["voc"] = "voc"
    root: Place = Field("data/voc", description="the folder that holds VOCdevkit/VOC2012, or one of these")
    size: Size = Field((512, 512), description="[height, width] that the deployed network sees")
    train_list: Literal["train_aug", "train"] = Field(
        "train_aug",
        description="train_aug: 10 582 frames with SBD's masks in SegmentationClassAug; train: VOC's own 1 464",
    )

    def open(self, split: str) -> FileSplit:
        return open_voc(Path(self.root), split, self.train_list)

    @classmethod
    def label_ids(cls, manifest: Manifest) -> dict[str, Any]:
        return {"void_ids": [IGNORE]}


def open_voc(root: Path, split: str, train_list: str = "train_aug") -> FileSplit:
    """Open ``train`` or ``val``; the labels of VOC's test split aren't public.

    Args:
        train_list: which list is the training split.

    Raises:
        DataError: files are missing, with what belongs where.
    """
    from rdd_deploy.data.base import FileSplit
    from rdd_deploy.data.folder.lists import listed_pairs
    from rdd_deploy.data.folder.patterns import Layout
    from rdd_deploy.data.ids import Ids

    check_split_name("PASCAL VOC", split, ("train", "val"))
    place = next(
        (one for one in (root / "VOCdevkit/VOC2012", root / "VOC2012", root) if (one / _FRAMES).is_dir()), None
    )
    if place is None:
        raise DataError(
            f"no PASCAL VOC in {root}: expected VOCdevkit/VOC2012/ with {_FRAMES}/, {_MASKS}/ and {_LISTS}/, as"
            f" {ARCHIVE} unpacks; put it there, or say where it is (data.root, --data)"
        )
    aug = split == "train" and train_list == "train_aug"
    names = _AUG_NAMES if aug else (f"{split}.txt",)
    masks = _AUG if aug else _MASKS
    path = next((place / _LISTS / name for name in names if (place / _LISTS / name).is_file()), None)
    if path is None or not (place / masks).is_dir():
        lacking = f"{_LISTS}/{names[0]}" if path is None else f"{masks}/"
        raise DataError(
            f"{place} has no {lacking}; "
            + (
                "the list train_aug and the masks of SBD (SegmentationClassAug.zip, PNG files of class ids) come apart"
                f" from {ARCHIVE}: put them there as {_LISTS}/train_aug.txt and {_AUG}/, or set data.train_list=train"
                " for VOC's own frames alone"
                if aug
                else f"expected it as {ARCHIVE} unpacks"
            )
        )
    pairs, _ = listed_pairs(place, path, Layout(place, f"{_FRAMES}/*.jpg", masks + "/{stem}.png"), split)
    return FileSplit(VOC, pairs, Ids(len(VOC), void_ids=[IGNORE], way_out=_WAY_OUT))
