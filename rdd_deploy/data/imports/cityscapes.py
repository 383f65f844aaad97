"""Cityscapes' layout: polygons as JSON or labelIds as PNG; CVAT's "Cityscapes 1.0" with label_colors.txt.

Source: cityscapesScripts, helpers/labels.py and preparation/json2labelImg.py: Pillow fills polygons, later ones on top;
groups count as their class; 19 classes are trained, all other labels are void.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rdd_deploy.data.cityscapes import CITYSCAPES, LABEL_IDS
from rdd_deploy.data.ids import Ids
from rdd_deploy.data.imports import masks, raster
from rdd_deploy.data.imports.export import (
    VOID,
    Area,
    Colour,
    Export,
    Format,
    ReadOptions,
    Region,
    Sample,
    byte,
    in_order,
    label_name,
    objects,
    size_of,
)
from rdd_deploy.data.imports.names import folder_of, split_of
from rdd_deploy.data.imports.source import Source
from rdd_deploy.data.label_space import IGNORE
from rdd_deploy.errors import DataError

CLASSES: dict[str, tuple[int, Colour]] = {
    name: (number, colour)
    for name, [number], colour in zip(CITYSCAPES.classes, LABEL_IDS, CITYSCAPES.palette, strict=True)
}
"""The trained classes in the order of their trainIds: id in labelIds, colour."""
VOIDS = {
    "unlabeled", "ego vehicle", "rectification border", "out of roi", "static", "dynamic", "ground", "parking", "rail track", "guard rail",
    "bridge", "tunnel", "polegroup", "caravan", "trailer",
}  # fmt: skip
_NOT_DRAWN = "license plate"
_IMAGE, _POLYGONS, _IDS, _COLOURS = "_leftImg8bit", "_polygons.json", "_labelIds.png", "_color.png"
_TRAIN_IDS = "_labelTrainIds.png"


def found(source: Source) -> bool:
    """Whether there are images and labels of Cityscapes' names."""
    labels = (_POLYGONS, _IDS, _COLOURS, _TRAIN_IDS)
    return any(_IMAGE in name for name in source.images) and any(
        name.endswith(labels) and "_gt" in name for name in source.files
    )


def read(source: Source, options: ReadOptions) -> Export:
    """All splits; labelIds where they are, else polygons; colours where label_colors.txt names other classes."""
    export = Export({}, [], background=VOID, drawing="polygons by Cityscapes' rule (Pillow); labelIds as they are")
    table = _colours(source)
    kinds = (_COLOURS,) if table else (_IDS, _POLYGONS)
    labels = [(name, kind) for name in source.files for kind in kinds if name.endswith(kind) and "_gt" in _last(name)]
    if not labels and any(name.endswith(_TRAIN_IDS) for name in source.files):
        raise DataError(
            f"{source.root} has its labels as *{_TRAIN_IDS} alone, which need no import: train with data.name=cityscapes"
            " data.root=… (leftImg8bit/<split>/<city>/ and gtFine/<split>/<city>/)"
        )
    pairs = _pairs(source, [(2 * kinds.index(kind) + ("_gtFine" not in name), name) for name, kind in labels], export)
    export.values = {
        **dict.fromkeys(range(34), VOID),
        **{number: label for label, (number, _) in CLASSES.items()},
    }
    ids = masks.ids_of(export.values)
    seen: list[str] = []
    for inside, name in sorted(pairs.items()):
        sample = Sample(inside, source.path(inside), split_of(folder_of(inside)), where=str(source.root / name))
        if name.endswith(_POLYGONS):
            tree = source.json(name)
            sample.size = size_of(tree, "imgHeight", "imgWidth", sample.where)
            sample.regions = [
                one
                for one in (
                    _region(node, place, export, seen) for place, node in objects(tree, "objects", sample.where)
                )
                if one
            ]
        elif table:
            sample.mask = partial(
                masks.by_colour, source.path(name), {colour: number for number, (_, colour) in enumerate(table.items())}
            )
        else:
            sample.mask = partial(_label_ids, source.path(name), ids)
        export.samples.append(sample)
    if table:
        export.labels, export.values = {**table}, dict(enumerate(table))
        return export
    own = set(seen) - {VOID, _NOT_DRAWN} - set(CLASSES)
    export.labels = (
        in_order(one for one in seen if one != _NOT_DRAWN)
        if own
        else {label: colour for label, (_, colour) in CLASSES.items()}
    )
    if plates := seen.count(_NOT_DRAWN):
        export.notes.append(f"{plates} annotations '{_NOT_DRAWN}' aren't drawn, as by Cityscapes' own program")
    if own:
        export.notes.append(f"labels that Cityscapes hasn't are classes of their own: {', '.join(sorted(own))}")
    return export


def _pairs(source: Source, labels: Sequence[tuple[int, str]], export: Export) -> dict[str, str]:
    """Image -> its labels, by the name's beginning and the folders below leftImg8bit and gt*.

    Args:
        labels: (rank, name): of an image's labels those of the least rank count.

    Raises:
        DataError: an image that may belong to several labels, or labels to several images.
    """
    images: dict[str, list[str]] = defaultdict(list)
    for name in source.images:
        if _IMAGE in _last(name):
            images[_last(name).partition(_IMAGE)[0]].append(name)
    chosen: dict[str, tuple[int, str]] = {}
    for rank, name in sorted(labels):
        before, below = _place(name)
        fitting = [
            image
            for image in images[_last(name).partition("_gt")[0]]
            if below is None or _place(image)[1] in (below, None)
        ]
        fitting = [image for image in fitting if _place(image) == (before, below)] or fitting
        if not fitting:
            export.left.add("image", "the image isn't in the export", name)
            continue
        image = fitting[0]
        if len(fitting) > 1:
            raise DataError(
                f"{source.root / name} may be of {image} or of {fitting[1]}; expected one image of that name below"
                " leftImg8bit, in the folder that the labels have below gtFine or gtCoarse"
            )
        if chosen.setdefault(image, (rank, name))[0] == rank and chosen[image][1] != name:
            raise DataError(
                f"{image} is annotated twice, by {chosen[image][1]} and by {name}; expected each image once: remove"
                " one of them"
            )
    for name in sorted({one for several in images.values() for one in several} - chosen.keys()):
        export.left.add("image", "it has no labels", name)
    return {image: name for image, (_, name) in chosen.items()}


def _last(name: str) -> str:
    return name.rpartition("/")[2]


def _place(name: str) -> tuple[str, str | None]:
    """The folders in front of leftImg8bit or gt*, and those behind it; None behind where there is no such folder."""
    parts = folder_of(name).split("/")
    at = next((at for at, part in enumerate(parts) if re.fullmatch(r"leftImg8bit|gt[A-Z]\w*", part)), None)
    if at is None:
        return "", None
    before = parts[: at - 1] if at and parts[at - 1] == "imgsFine" else parts[:at]
    return "/".join(before), "/".join(parts[at + 1 :])


def _colours(source: Source) -> dict[str, Colour]:
    """The classes of CVAT's label_colors.txt, which lies above the masks; empty where there is none. Raises DataError
    for masks without one beside others that have it, and for lists that differ.
    """
    lists = [name for name in source.files if _last(name) == "label_colors.txt"]
    tables = {name: _read_colours(source, name) for name in lists}
    for name in source.files if lists else ():
        if name.endswith(_COLOURS) and not any(
            f"/{name}".startswith(f"/{folder_of(one)}/".replace("//", "/")) for one in lists
        ):
            raise DataError(
                f"{source.root / name} has no label_colors.txt in a folder above it, as other masks have; give the"
                " folder of one export"
            )
    for name in lists[1:]:
        if list(tables[name].items()) != list(tables[lists[0]].items()):
            raise DataError(
                f"{source.root}: {lists[0]} and {name} name different classes or colours; give the folder of one export"
            )
    return tables[lists[0]] if lists else {}


def _read_colours(source: Source, name: str) -> dict[str, Colour]:
    table: dict[str, Colour] = {}
    where = str(source.root / name)
    for line in source.lines(name):
        words = line.split(maxsplit=3)
        numbers = [number for word in words[:3] if (number := byte(word)) is not None]
        if len(words) != 4 or len(numbers) != 3:
            raise DataError(f"{where}: a line is {line!r:.60}; expected R G B NAME")
        table[label_name(words[3], where)] = (numbers[0], numbers[1], numbers[2])
    if not table:
        raise DataError(f"{where} names no class; expected lines R G B NAME")
    if len(set(table.values())) < len(table):
        raise DataError(f"{where} gives one colour to two classes; give each its own, and export the masks again")
    return table


def _label_ids(path: Path, ids: Ids) -> masks.Values:
    values = masks.indices(path, ids)
    if (values == IGNORE).any():
        raise DataError(
            f"{path} holds {IGNORE}, which labelIds (0 to 33) never do: it looks like trainIds; put labelIds there, or"
            f" call such files *{_TRAIN_IDS} and train with data.name=cityscapes, which reads them as they are"
        )
    return values


def _region(node: dict[str, Any], where: str, export: Export, seen: list[str]) -> Region | None:
    label = label_name(node.get("label"), where)
    if label not in CLASSES and label not in VOIDS and label.endswith("group"):
        label = label.removesuffix("group")
    if node.get("deleted"):
        export.left.add("annotation", "it was deleted in the tool", f"{where} ({label})")
        return None
    if label == _NOT_DRAWN:
        seen.append(label)
        return None
    points = raster.points_of(node.get("polygon"), where)
    if len(points) < 3:
        export.left.add("annotation", "a polygon of less than 3 points", f"{where} ({label})")
        return None
    seen.append(VOID if label in VOIDS else label)
    return Region(seen[-1], partial(_polygon, points, where), where)


def _polygon(points: raster.Points, where: str, height: int, width: int) -> Area:
    return raster.by_pillow(points, height, width, where, outline=False)


FORMAT = Format(found, read)
