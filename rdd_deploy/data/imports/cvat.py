"""CVAT's own XML, "CVAT for images 1.1": polygons, masks, boxes and ellipses in layers.

Source: docs.cvat.ai, XML annotation format; pixels as the tool's own mask exports make them (polygons and boxes by
pycocotools, ellipses by OpenCV), later ones on top within a layer.
"""

from __future__ import annotations

import re
from functools import partial
from xml.etree import ElementTree

import numpy as np

from rdd_deploy.data.imports import raster, rle
from rdd_deploy.data.imports.export import Area, Colour, Export, Format, ReadOptions, Region, Sample, label_name
from rdd_deploy.data.imports.lookup import NotFoundError
from rdd_deploy.data.imports.names import folder_of, split_of
from rdd_deploy.data.imports.source import Source
from rdd_deploy.errors import DataError

_SKIPPED = {
    "polyline": "it is a line",
    "points": "it is points",
    "cuboid": "it is a cuboid",
    "skeleton": "it is a skeleton",
    "tag": "it is a tag",
}


def found(source: Source) -> bool:
    """Whether there is an XML file of CVAT's."""
    return any(_is_cvats(source, name) for name in source.named(".xml"))


def _is_cvats(source: Source, name: str) -> bool:
    """VOC, say, has an XML file an image, which begins otherwise."""
    return re.search(rb"<annotations[\s/>]", source.head(name, 65536)) is not None


def read(source: Source, options: ReadOptions) -> Export:
    """All XML files of the export."""
    export = Export(
        {},
        [],
        drawing="polygons and boxes by COCO's rule (pycocotools), ellipses by OpenCV, layers as in CVAT (z_order)",
    )
    for name in [name for name in source.named(".xml") if _is_cvats(source, name)]:
        _read_file(source, name, export)
    return export


def _read_file(source: Source, name: str, export: Export) -> None:
    where = str(source.root / name)
    root = _parsed(source, name)
    if root.tag != "annotations":
        return
    if root.find("track") is not None:
        raise DataError(
            f"{where} is CVAT for video; expected CVAT for images 1.1, which the tool exports of the same task"
        )
    for label in root.iterfind(".//labels/label"):
        text = label.findtext("name")
        export.labels.setdefault(label_name(text, f"{where}: a label"), _colour(label.findtext("color")))
    for number, image in enumerate(root.iterfind("image")):
        file = image.get("name") or ""
        place = f"{where}: image {number} ({file})"
        regions = [one for one in (_region(shape, place, export) for shape in image) if one]
        subset = image.get("subset") or ""
        folders = [folder_of(name), f"{folder_of(name)}/images", "images", *([f"images/{subset}"] if subset else [])]
        try:
            inside, path = source.image(file, *folders)
        except NotFoundError as error:
            export.left.add("image", str(error), file or place)
            if regions:
                export.left.add("annotation", "its image is left out", place, len(regions))
            continue
        size = _whole(image, "height", place), _whole(image, "width", place)
        export.samples.append(Sample(inside, path, split_of(folder_of(inside), subset), size, regions, where=place))


def _parsed(source: Source, name: str) -> ElementTree.Element:
    data = source.read(name)
    if re.search(rb"<!(?:DOCTYPE|ENTITY)", data, re.IGNORECASE):
        raise DataError(f"{source.root / name} defines entities, which CVAT never does; export it again")
    try:
        return ElementTree.fromstring(data, ElementTree.XMLParser(encoding="utf-8"))
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise DataError(
            f"{source.root / name} isn't valid XML: {error}; export it again, or copy it again if it was cut off"
        ) from error
    except RecursionError:
        raise DataError(f"{source.root / name} is nested too deep; export it again") from None


def _colour(text: str | None) -> Colour | None:
    if not re.fullmatch(r"#[0-9a-fA-F]{6}", text or ""):
        return None
    number = int((text or "")[1:], 16)
    return number >> 16, number >> 8 & 255, number & 255


def _number(shape: ElementTree.Element, key: str, where: str, default: float | None = None) -> float:
    text = shape.get(key)
    if text is None and default is not None:
        return default
    try:
        value = float(text or "")
        if abs(value) < 2**31:
            return value
    except ValueError:
        pass
    raise DataError(f"{where}: {shape.tag}'s '{key}' is {text!r:.40}; expected a number")


def _whole(shape: ElementTree.Element, key: str, where: str) -> int:
    value = _number(shape, key, where)
    if value != int(value) or value < 0:
        raise DataError(f"{where}: {shape.tag}'s '{key}' is {value:g}; expected a whole number of pixels")
    return int(value)


def _region(shape: ElementTree.Element, where: str, export: Export) -> Region | None:
    if shape.tag in _SKIPPED:
        export.left.add("annotation", _SKIPPED[shape.tag], where)
        return None
    drawn = {"polygon": _polygon, "box": _box, "ellipse": _ellipse, "mask": _mask}.get(shape.tag)
    if drawn is None:
        if shape.get("label") is not None:
            export.left.add("annotation", f"a {shape.tag} isn't read", where)
        return None
    label = label_name(shape.get("label"), f"{where}: {shape.tag}")
    export.labels.setdefault(label, None)
    z = int(_number(shape, "z_order", where, 0))
    return Region(label, partial(drawn, shape, where), where, z)


def _polygon(shape: ElementTree.Element, where: str, height: int, width: int) -> Area:
    pairs = [pair.split(",") for pair in (shape.get("points") or "").split(";")]
    try:
        points = raster.points_of([[float(number) for number in pair] for pair in pairs], where)
    except ValueError as error:
        raise DataError(f"{where}: a polygon's points are {shape.get('points')!r:.60}; expected x,y;x,y …") from error
    if len(points) < 3:
        raise DataError(f"{where}: a polygon has {len(points)} points; expected 3 or more")
    return raster.by_coco([points], height, width, where)


def _box(shape: ElementTree.Element, where: str, height: int, width: int) -> Area:
    left, top, right, bottom = (_number(shape, key, where) for key in ("xtl", "ytl", "xbr", "ybr"))
    points = np.array([(left, top), (right, top), (right, bottom), (left, bottom)], np.float64)
    centre = np.array([(left + right) / 2, (top + bottom) / 2])
    return raster.by_coco([raster.turned(points, _number(shape, "rotation", where, 0), centre)], height, width, where)


def _ellipse(shape: ElementTree.Element, where: str, height: int, width: int) -> Area:
    x, y, rx, ry = (_number(shape, key, where) for key in ("cx", "cy", "rx", "ry"))
    if min(rx, ry) < 0:
        raise DataError(f"{where}: an ellipse's radii are {rx:g} and {ry:g}; expected 0 or more")
    return raster.ellipse((x, y), (rx, ry), _number(shape, "rotation", where, 0), height, width, where)


def _mask(shape: ElementTree.Element, where: str, height: int, width: int) -> Area:
    left, top, across, down = (_whole(shape, key, where) for key in ("left", "top", "width", "height"))
    if left + across > width or top + down > height:
        raise DataError(
            f"{where}: a mask of {down}x{across} pixels at ({left}, {top}) reaches beyond the image of {height}x{width}"
        )
    try:
        counts = [int(number) for number in (shape.get("rle") or "").split(",")]
    except ValueError as error:
        raise DataError(
            f"{where}: a mask's run lengths are {shape.get('rle')!r:.60}; expected whole numbers with commas"
        ) from error
    return raster.placed(rle.by_rows(counts, down, across, where), top, left, height, width)


FORMAT = Format(found, read)
