"""Cityscapes' layout: polygons as JSON or labelIds as PNG; CVAT's "Cityscapes 1.0" with label_colors.txt.

Source: cityscapesScripts, helpers/labels.py and preparation/json2labelImg.py: Pillow fills polygons, later ones on top;
groups count as their class; 19 classes are trained, all other labels are void.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from rdd_deploy.data.cityscapes import CITYSCAPES, LABEL_IDS
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
from rdd_deploy.data.imports.source import NotFoundError, Source, folder_of, split_of
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
    images = {name.rpartition("/")[2].partition(_IMAGE)[0]: name for name in source.images if _IMAGE in name}
    coloured = source.has("label_colors.txt")
    kinds = (_COLOURS,) if coloured else (_IDS, _POLYGONS)
    labels: dict[str, tuple[int, str]] = {}
    for name in source.files:
        for order, kind in enumerate(kinds):
            if name.endswith(kind) and "_gt" in name.rpartition("/")[2]:
                stem = name.rpartition("/")[2].partition("_gt")[0]
                labels[stem] = min(labels.get(stem, (9, "")), (2 * order + ("_gtFine" not in name), name))
    if not labels and any(name.endswith(_TRAIN_IDS) for name in source.files):
        raise DataError(
            f"{source.root} has its labels as *{_TRAIN_IDS} alone, which need no import: train with data.name=cityscapes"
            " data.root=… (leftImg8bit/<split>/<city>/ and gtFine/<split>/<city>/)"
        )
    table = _colours(source) if coloured else {}
    seen: list[str] = []
    for stem, (_, name) in sorted(labels.items()):
        try:
            inside, path = source.image(images.pop(stem, f"{stem}{_IMAGE}.png"))
        except NotFoundError as error:
            export.left.add("image", str(error), name)
            continue
        sample = Sample(inside, path, split_of(folder_of(inside)), where=str(source.root / name))
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
        elif coloured:
            sample.mask = partial(
                masks.by_colour, source.path(name), {colour: number for number, (_, colour) in enumerate(table.items())}
            )
        else:
            sample.mask = partial(_label_ids, source.path(name))
        export.samples.append(sample)
    for name in images.values():
        export.left.add("image", "it has no labels", name)
    if coloured:
        export.labels, export.values = {**table}, dict(enumerate(table))
        return export
    own = set(seen) - {VOID, _NOT_DRAWN} - set(CLASSES)
    export.labels = (
        in_order(one for one in seen if one != _NOT_DRAWN)
        if own
        else {label: colour for label, (_, colour) in CLASSES.items()}
    )
    export.values = {
        **dict.fromkeys(range(34), VOID),
        **{number: label for label, (number, _) in CLASSES.items()},
    }
    if plates := seen.count(_NOT_DRAWN):
        export.notes.append(f"{plates} annotations '{_NOT_DRAWN}' aren't drawn, as by Cityscapes' own program")
    if own:
        export.notes.append(f"labels that Cityscapes hasn't are classes of their own: {', '.join(sorted(own))}")
    return export


def _colours(source: Source) -> dict[str, Colour]:
    table: dict[str, Colour] = {}
    where = str(source.root / "label_colors.txt")
    for line in source.lines("label_colors.txt"):
        words = line.split(maxsplit=3)
        numbers = [number for word in words[:3] if (number := byte(word)) is not None]
        if len(words) != 4 or len(numbers) != 3:
            raise DataError(f"{where}: a line is {line!r:.60}; expected R G B NAME")
        table[label_name(words[3], where)] = (numbers[0], numbers[1], numbers[2])
    if len(set(table.values())) < len(table):
        raise DataError(f"{where} gives one colour to two classes; give each its own, and export the masks again")
    return table


def _label_ids(path: Path) -> masks.Values:
    values = masks.indices(path, range(34))
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
