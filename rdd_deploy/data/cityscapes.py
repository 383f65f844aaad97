"""Cityscapes, 19 classes, in its official layout: leftImg8bit/<split>/<city>/ and gtFine/<split>/<city>/.

Cordts et al., "The Cityscapes Dataset for Semantic Urban Scene Understanding", CVPR 2016.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from rdd_deploy.data.config import DataOptions, check_split_name
from rdd_deploy.data.label_space import IGNORE, LabelSpace
from rdd_deploy.errors import DataError
from rdd_deploy.schema import Place, Size

if TYPE_CHECKING:
    from rdd_deploy.data.base import FileSplit
    from rdd_deploy.runtime import Manifest

_TABLE: tuple[tuple[str, int, tuple[int, int, int]], ...] = (
    ("road", 7, (128, 64, 128)),
    ("sidewalk", 8, (244, 35, 232)),
    ("building", 11, (70, 70, 70)),
    ("wall", 12, (102, 102, 156)),
    ("fence", 13, (190, 153, 153)),
    ("pole", 17, (153, 153, 153)),
    ("traffic light", 19, (250, 170, 30)),
    ("traffic sign", 20, (220, 220, 0)),
    ("vegetation", 21, (107, 142, 35)),
    ("terrain", 22, (152, 251, 152)),
    ("sky", 23, (70, 130, 180)),
    ("person", 24, (220, 20, 60)),
    ("rider", 25, (255, 0, 0)),
    ("car", 26, (0, 0, 142)),
    ("truck", 27, (0, 0, 70)),
    ("bus", 28, (0, 60, 100)),
    ("train", 31, (0, 80, 100)),
    ("motorcycle", 32, (0, 0, 230)),
    ("bicycle", 33, (119, 11, 32)),
)
"""Name, label id and colour of the classes that count, in the order of their train ids."""
CITYSCAPES = LabelSpace(tuple(name for name, _, _ in _TABLE), tuple(colour for _, _, colour in _TABLE))
LABEL_IDS = [[label] for _, label, _ in _TABLE]
OTHER_IDS = [label for label in range(34) if [label] not in LABEL_IDS]
"""Label ids that count as void."""
FRAMES, MASKS = "_leftImg8bit.png", {"labelIds": "_gtFine_labelIds.png", "trainIds": "_gtFine_labelTrainIds.png"}
ARCHIVES = "leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip of https://www.cityscapes-dataset.com/downloads"
_OTHERS = {
    "labelIds": "they look like trainIds, which hold 255 for void",
    "trainIds": "they look like labelIds, which go up to 33",
}
_MEANING: dict[str, dict[str, Any]] = {
    "labelIds": {"ids": LABEL_IDS, "void_ids": OTHER_IDS},
    "trainIds": {"void_ids": [IGNORE]},
}


class CityscapesOptions(DataOptions):
    """Cityscapes in its official layout, 19 classes."""

    name: Literal["cityscapes"] = "cityscapes"
    root: Place = Field("data/cityscapes", description="its folder, with leftImg8bit/ and gtFine/")
    size: Size = Field((1024, 2048), description="[height, width] that the deployed network sees")
    labels: Literal["auto", "labelIds", "trainIds"] = Field(
        "auto",
        description="which mask files: `*_labelIds.png` or `*_labelTrainIds.png`; auto: labelIds where they are there",
    )

    def open(self, split: str) -> FileSplit:
        return open_cityscapes(Path(self.root), split, self.labels)

    @classmethod
    def label_ids(cls, manifest: Manifest) -> dict[str, Any]:
        return _MEANING["trainIds" if manifest.provenance.get("data_labels") == "trainIds" else "labelIds"]


def open_cityscapes(root: Path, split: str, labels: str = "auto") -> FileSplit:
    """Open ``train``, ``val`` or ``test``, whose masks are void alone in the public archive.

    Args:
        labels: ``labelIds`` (0 to 33), ``trainIds`` (0 to 18 and 255), or ``auto``.

    Raises:
        DataError: files are missing, with what belongs where. Masks of the other kind are an error when they are read.
    """
    from rdd_deploy.data.base import FileSplit
    from rdd_deploy.data.ids import Ids

    check_split_name("Cityscapes", split)
    frames, masks = root / "leftImg8bit" / split, root / "gtFine" / split
    if not frames.is_dir() or not masks.is_dir():
        raise DataError(
            f"no Cityscapes {split} split in {root}: expected leftImg8bit/{split}/<city>/*{FRAMES} and"
            f" gtFine/{split}/<city>/*{MASKS['labelIds']}, as {ARCHIVES} unpack; put them there, or say where they are"
            " (data.root, --data)"
        )
    images = [path for path in sorted(frames.glob(f"*/*{FRAMES}")) if not path.name.startswith(".")]
    if not images:
        raise DataError(f"{frames} holds no images; expected <city>/*{FRAMES}, as {ARCHIVES} unpack")
    kind = labels if labels != "auto" else _kind(masks)
    pairs = [(path, masks / path.parent.name / (path.name.removesuffix(FRAMES) + MASKS[kind])) for path in images]
    if lost := [mask for _, mask in pairs if not mask.is_file()]:
        other = next(one for one in MASKS if one != kind)
        there = (
            f"; there are *{MASKS[other]} files: data.labels={other} reads these"
            if _any(masks, other) and labels != "auto"
            else ""
        )
        raise DataError(
            f"{len(lost)} of {len(images)} frames in {frames} have no {kind} mask, e.g. {lost[0]} is missing{there}"
        )
    way_out = f"{_OTHERS[kind]}; data.labels is {labels}, so *{MASKS[kind]} files are read as {kind}"
    return FileSplit(CITYSCAPES, pairs, Ids(len(CITYSCAPES), **_MEANING[kind], way_out=way_out))


def _kind(masks: Path) -> str:
    return "trainIds" if _any(masks, "trainIds") and not _any(masks, "labelIds") else "labelIds"


def _any(masks: Path, kind: str) -> bool:
    return next(masks.glob(f"*/*{MASKS[kind]}"), None) is not None
