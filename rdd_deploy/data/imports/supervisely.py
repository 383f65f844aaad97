"""Supervisely's project: meta.json, and img/ and ann/ in each data set.

Source: Supervisely's annotation format and SDK (supervisely.geometry): OpenCV fills polygons with their border and then
empties their holes, bitmaps lie at their origin (x, y), later objects are on top.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from rdd_deploy.data.imports import raster
from rdd_deploy.data.imports.export import (
    Area,
    Colour,
    Export,
    Format,
    ReadOptions,
    Region,
    Sample,
    label_name,
    objects,
    size_of,
    take,
)
from rdd_deploy.data.imports.lookup import NotFoundError
from rdd_deploy.data.imports.names import folder_of, split_of
from rdd_deploy.data.imports.source import Source
from rdd_deploy.errors import DataError

_SKIPPED = {
    "line": "it is a line", "point": "it is a point", "graph": "it is keypoints", "cuboid": "it is a cuboid", "any": "it has no shape",
    "alpha_mask": "alpha masks aren't read", "multichannelBitmap": "multichannel bitmaps aren't read",
}  # fmt: skip


def found(source: Source) -> bool:
    """Whether there is a meta.json with classes, or a JSON file of an image beside img/."""
    return bool(source.kinds.get("supervisely-meta") or source.kinds.get("supervisely"))


def read(source: Source, options: ReadOptions) -> Export:
    """All data sets of the project."""
    export = Export({}, [], drawing="polygons and bitmaps by Supervisely's rule (OpenCV, holes emptied)")
    for name in source.kinds.get("supervisely-meta", []):
        for place, one in objects(source.json(name), "classes", str(source.root / name)):
            export.labels.setdefault(label_name(one.get("title"), place), _colour(one.get("color")))
    annotated = set()
    annotations = [name for name in source.named(".json") if folder_of(name).rpartition("/")[2] == "ann"]
    for name in source.each(annotations):
        where, tree = str(source.root / name), source.json(name)
        dataset = folder_of(folder_of(name))
        image = name.rpartition("/")[2].removesuffix(".json")
        size = size_of(take(tree, "size", dict, where), "height", "width", where)
        regions = [
            region
            for region in (_region(one, place, export) for place, one in objects(tree, "objects", where))
            if region
        ]
        try:
            inside, path = source.image(image, f"{dataset}/img".lstrip("/"), by_name=False)
        except NotFoundError as error:
            export.left.add("image", str(error), name)
            if regions:
                export.left.add("annotation", "its image is left out", name, len(regions))
            continue
        annotated.add(inside)
        export.samples.append(Sample(inside, path, split_of(dataset), size, regions, where=where))
    for name in source.images:
        if folder_of(name).rpartition("/")[2] == "img" and name not in annotated:
            export.left.add("image", "it has no file in ann/", name)
    if not annotations:
        raise DataError(f"{source.root} holds no ann/*.json; expected img/ and ann/ in each data set of the project")
    return export


def _colour(value: Any) -> Colour | None:
    try:
        number = int(str(value).removeprefix("#"), 16)
    except ValueError:
        return None
    return (number >> 16, number >> 8 & 255, number & 255) if 0 <= number < 1 << 24 else None


def _region(one: dict[str, Any], where: str, export: Export) -> Region | None:
    label = label_name(one.get("classTitle"), where)
    kind = take(one, "geometryType", str, where, "bitmap" if one.get("bitmap") else "polygon")
    export.labels.setdefault(label, None)
    if kind in _SKIPPED:
        export.left.add("annotation", _SKIPPED[kind], f"{where} ({label})")
        return None
    if kind == "bitmap":
        return Region(label, partial(_bitmap, take(one, "bitmap", dict, where), where), where)
    if kind not in ("polygon", "rectangle"):
        export.left.add("annotation", f"shapes of the type '{kind}' aren't read", f"{where} ({label})")
        return None
    points = take(one, "points", dict, where)
    outer = raster.points_of(points.get("exterior"), where)
    holes = [raster.points_of(hole, where) for hole in take(points, "interior", list, where, [])]
    if kind == "rectangle":
        if len(outer) != 2:
            raise DataError(f"{where}: a rectangle has {len(outer)} points; expected 2 corners")
        (left, top), (right, bottom) = outer.min(0), outer.max(0)
        outer, holes = np.array([(left, top), (right, top), (right, bottom), (left, bottom)]), []
    if len(outer) < 3:
        export.left.add("annotation", "a polygon of less than 3 points", f"{where} ({label})")
        return None
    return Region(label, partial(_polygon, outer, [hole for hole in holes if len(hole) >= 3], where), where)


def _polygon(outer: raster.Points, holes: list[raster.Points], where: str, height: int, width: int) -> Area:
    return raster.by_opencv(np.rint(outer), [np.rint(hole) for hole in holes], height, width, where)


def _bitmap(bitmap: dict[str, Any], where: str, height: int, width: int) -> Area:
    origin = raster.points_of([bitmap.get("origin")], where)
    raster.check_near(origin, height, width, where)
    left, top = (round(number) for number in origin[0].tolist())
    patch = raster.patch_of(bitmap.get("data"), height, width, where, packed=True)
    if left < 0 or top < 0 or left + patch.shape[1] > width or top + patch.shape[0] > height:
        raise DataError(
            f"{where}: a bitmap of {patch.shape[0]}x{patch.shape[1]} pixels at ({left}, {top}) reaches beyond the image"
            f" of {height}x{width}"
        )
    return raster.placed(patch, top, left, height, width)


FORMAT = Format(found, read)
