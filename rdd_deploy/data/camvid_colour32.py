"""CamVid's own release: 701_StillsRaw_full/ and LabeledApproved_full/ with 32 colours at 960x720, folded to the usual
11 classes.

Brostow, Fauqueur, Cipolla, "Semantic object classes in video", Pattern Recognition Letters 2009. Groups as in Sturgess
et al., "Combining appearance and structure from motion features for road scene understanding", BMVC 2009, and SegNet
(Badrinarayanan et al., TPAMI 2017).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from rdd_deploy.data.colours import Colour
from rdd_deploy.data.label_space import IGNORE, LabelSpace
from rdd_deploy.errors import DataError

if TYPE_CHECKING:
    from rdd_deploy.data.base import FileSplit
    from rdd_deploy.data.colour_masks import ColourMap

VOID = "void"
TABLE: tuple[tuple[str, Colour, str], ...] = (
    ("Animal", (64, 128, 64), "pedestrian"),
    ("Archway", (192, 0, 128), "building"),
    ("Bicyclist", (0, 128, 192), "bicyclist"),
    ("Bridge", (0, 128, 64), "building"),
    ("Building", (128, 0, 0), "building"),
    ("Car", (64, 0, 128), "car"),
    ("CartLuggagePram", (64, 0, 192), "pedestrian"),
    ("Child", (192, 128, 64), "pedestrian"),
    ("Column_Pole", (192, 192, 128), "pole"),
    ("Fence", (64, 64, 128), "fence"),
    ("LaneMkgsDriv", (128, 0, 192), "road"),
    ("LaneMkgsNonDriv", (192, 0, 64), "road"),
    ("Misc_Text", (128, 128, 64), "sign"),
    ("MotorcycleScooter", (192, 0, 192), "bicyclist"),
    ("OtherMoving", (128, 64, 64), "car"),
    ("ParkingBlock", (64, 192, 128), "pavement"),
    ("Pedestrian", (64, 64, 0), "pedestrian"),
    ("Road", (128, 64, 128), "road"),
    ("RoadShoulder", (128, 128, 192), "pavement"),
    ("Sidewalk", (0, 0, 192), "pavement"),
    ("SignSymbol", (192, 128, 128), "sign"),
    ("Sky", (128, 128, 128), "sky"),
    ("SUVPickupTruck", (64, 128, 192), "car"),
    ("TrafficCone", (0, 0, 64), "pole"),
    ("TrafficLight", (0, 64, 64), "sign"),
    ("Train", (192, 64, 128), "car"),
    ("Tree", (128, 128, 0), "tree"),
    ("Truck_Bus", (192, 128, 192), "car"),
    ("Tunnel", (64, 0, 64), "building"),
    ("VegetationMisc", (192, 192, 0), "tree"),
    ("Void", (0, 0, 0), VOID),
    ("Wall", (64, 192, 0), "building"),
)
"""Name and colour of each of the 32, and the class that it is folded into."""
FRAMES, MASKS = "701_StillsRaw_full", "LabeledApproved_full"
ARCHIVES = (
    "701_StillsRaw_full.zip and LabeledApproved_full.zip of http://mi.eng.cam.ac.uk/research/projects/VideoRec/CamVid"
)
STRAY = 1e-3
"""Share of a mask's pixels with colours of no class that is taken as void."""
_VAL = range(7959, 8160)
_LAST_TRAIN = 8520


def split_of(stem: str) -> str:
    """The split of a frame in the usual division (367 / 101 / 233), by sequence and frame number; empty for a name that
    isn't CamVid's.

    The daytime sequence 0016E5 holds a part at 15 frames a second, 07959 to 08159, which is val; the rest of it, 0006R0
    and the first half of the dusk sequence 0001TP (to 008520) are train; the second half of that, and Seq05VD, are
    test.
    """
    match = re.fullmatch(r"(0001TP|0006R0|0016E5|Seq05VD)_f?(\d{5,6})", stem, re.ASCII)
    if match is None:
        return ""
    sequence, number = match[1], int(match[2])
    if sequence == "Seq05VD":
        return "test"
    if sequence == "0001TP":
        return "train" if number <= _LAST_TRAIN else "test"
    return "val" if sequence == "0016E5" and number in _VAL else "train"


def colours_of(space: LabelSpace) -> ColourMap:
    """The 32 colours as classes of the 11."""
    from rdd_deploy.data.colour_masks import colour_map

    index = {name: i for i, name in enumerate(space.classes)} | {VOID: IGNORE}
    return colour_map(
        [(name, index[group], [colour]) for name, colour, group in TABLE],
        where="CamVid's table of 32 colours",
        stray=STRAY,
    )


def open_colour32(root: Path, split: str, space: LabelSpace) -> FileSplit:
    """Open a split: by ``<split>.txt`` in the folder where it is there, else by ``split_of``. Raises DataError: what
    belongs where.
    """
    from rdd_deploy.data.base import FileSplit
    from rdd_deploy.data.folder.lists import listed_pairs
    from rdd_deploy.data.folder.patterns import Layout
    from rdd_deploy.data.ids import Ids

    if not (root / FRAMES).is_dir() or not (root / MASKS).is_dir():
        raise DataError(
            f"no CamVid of 32 colours in {root}: expected {FRAMES}/*.png and {MASKS}/*_L.png, as {ARCHIVES} unpack; put"
            " them there, or say where they are (data.root, --data), or set data.release=segnet11 for the release of"
            " 11 classes, which is downloaded"
        )
    layout = Layout(root, f"{FRAMES}/*.png", MASKS + "/{stem}_L.png")
    ids = Ids(len(space), colour_map=colours_of(space))
    if (path := root / f"{split}.txt").is_file():
        pairs, notes = listed_pairs(root, path, layout, split)
        return FileSplit(space, pairs, ids, notes)
    frames, _ = layout.frames(split)
    mine = [frame for frame in frames if split_of(frame.fields["stem"]) == split]
    if unknown := [frame for frame in frames if not split_of(frame.fields["stem"])]:
        layout.notes.append(
            f"{len(unknown)} of {len(frames)} frames in {root / FRAMES} have names of no CamVid sequence, the first is"
            f" {unknown[0].path.name}: left out"
        )
    if not mine:
        raise DataError(
            f"{root / FRAMES} holds no frame of the {split} split, which are told by their names, e.g."
            f" 0016E5_08001.png; expected the files of {ARCHIVES}, or a list {split}.txt beside it"
        )
    return FileSplit(space, layout.pairs(mine, split, whole=False), ids, layout.notes)
