"""Labelme's JSON files, one an image.

Source: labelme's own shape_to_mask and shapes_to_label (github.com/wkentaro/labelme): Pillow draws shapes with their
outline, later ones on top; ``__ignore__`` is void, ``_background_`` background.
"""

from __future__ import annotations

import base64
import binascii
from functools import partial
from pathlib import Path
from typing import Any

from rdd_deploy.data.imports import raster
from rdd_deploy.data.imports.export import (
    BACKGROUND,
    VOID,
    Area,
    Export,
    Format,
    ReadOptions,
    Region,
    Sample,
    in_order,
    label_name,
    objects,
    size_of,
    take,
)
from rdd_deploy.data.imports.lookup import NotFoundError
from rdd_deploy.data.imports.names import folder_of, split_of
from rdd_deploy.data.imports.source import Source, kind_of_json
from rdd_deploy.errors import DataError

_SPECIAL = {"__ignore__": VOID, "_background_": BACKGROUND}
_LINES = {"line": "it is a line", "linestrip": "it is a line", "point": "it is a point", "points": "it is points"}


def found(source: Source) -> bool:
    """Whether a JSON file has shapes."""
    return bool(source.kinds.get("labelme"))


def read(source: Source, options: ReadOptions) -> Export:
    """All JSON files with shapes; labels.txt beside them says the classes' order."""
    export = Export({}, [], drawing="shapes with their outline by Labelme's rule (Pillow)")
    listed = next((name for name in ("labels.txt", "classes.txt") if source.has(name)), None)
    if listed:
        named = [_SPECIAL.get(line, line) for line in source.lines(listed)]
        export.labels = dict.fromkeys(label for label in named if label != VOID)
    seen: list[str] = []
    annotated: set[str] = set()
    others: list[str] = []
    for name in source.each(source.named(".json")):
        tree, where = source.json(name), str(source.root / name)
        if kind_of_json(tree) != "labelme":
            others.append(name)
            continue
        regions = [
            region
            for region in (_region(one, place, export) for place, one in objects(tree, "shapes", where))
            if region
        ]
        seen += [region.label for region in regions]
        try:
            inside, image = _image(source, name, tree, where)
        except NotFoundError as error:
            export.left.add("image", f"{error}, and the JSON holds no copy (imageData)", name)
            if regions:
                export.left.add("annotation", "its image is left out", name, len(regions))
            continue
        if inside in annotated:
            raise DataError(f"{where} and another JSON file belong to the same image {inside}; remove one of them")
        annotated.add(inside)
        size = size_of(tree, "imageHeight", "imageWidth", where)
        export.samples.append(Sample(inside, image, split_of(folder_of(inside)), size, regions, where=where))
    export.labels |= {label: None for label in in_order(seen) if label not in export.labels}
    if others:
        export.notes.append(f"{len(others)} JSON files aren't Labelme's and are passed over, the first is {others[0]}")
    for name in source.images:
        if name not in annotated:
            export.left.add("image", "it has no JSON file", name)
    return export


def _image(source: Source, name: str, tree: dict[str, Any], where: str) -> tuple[str, Path | Any]:
    """The image's name, and its file or what gives the copy inside the JSON."""
    file = take(tree, "imagePath", str, where)
    has_copy = tree.get("imageData") is not None  # surer than a file elsewhere that has the image's name alone
    try:
        return source.image(file, folder_of(name), by_name=not has_copy)
    except NotFoundError:
        if not has_copy:
            raise
    last = file.replace("\\", "/").rpartition("/")[2] or "image"
    return f"{folder_of(name)}/{last}".lstrip("/"), partial(_copy, source, name)


def _copy(source: Source, name: str) -> bytes:
    where = str(source.root / name)
    try:
        return base64.b64decode(take(source.json(name), "imageData", str, where), validate=True)
    except (ValueError, binascii.Error) as error:
        raise DataError(
            f"{where}: imageData isn't an image in base64 ({error}); put the image file beside it"
        ) from error


def _region(shape: dict[str, Any], where: str, export: Export) -> Region | None:
    text = label_name(shape.get("label"), where)
    label, kind = _SPECIAL.get(text, text), take(shape, "shape_type", str, where, "polygon")
    if kind in _LINES:
        export.left.add("annotation", _LINES[kind], f"{where} ({label})")
        return None
    points = raster.points_of(shape.get("points"), where)
    draw, least, most = {
        "polygon": (raster.by_pillow, 3, 10**9), "oriented_rectangle": (raster.by_pillow, 4, 4), "rectangle": (raster.rectangle, 2, 2),
        "circle": (raster.circle, 2, 2), "mask": (partial(_mask, shape), 2, 2),
    }.get(kind, (None, 0, 0))  # fmt: skip
    if draw is None:
        export.left.add("annotation", f"shapes of the type '{kind}' aren't read", f"{where} ({label})")
        return None
    if not least <= len(points) <= most:
        if kind != "polygon":
            raise DataError(f"{where}: a {kind} has {len(points)} points; expected {least}")
        export.left.add("annotation", "a polygon of less than 3 points", f"{where} ({label})")
        return None
    return Region(label, partial(_drawn, draw, points, where), where)


def _drawn(draw: Any, points: raster.Points, where: str, height: int, width: int) -> Area:
    area: Area = draw(points, height, width, where)
    return area


def _mask(shape: dict[str, Any], points: raster.Points, height: int, width: int, where: str) -> Area:
    """A mask between two corners, both in it; its own size counts."""
    raster.check_near(points, height, width, where)
    left, top = (round(number) for number in points[0].tolist())
    patch = raster.patch_of(shape.get("mask"), height, width, where, packed=False)
    return raster.placed(patch, top, left, height, width)


FORMAT = Format(found, read)
