"""Label Studio's JSON and JSON-MIN: polygons and boxes in percent, brushes as run lengths.

Source: labelstud.io, tags PolygonLabels, RectangleLabels, EllipseLabels and BrushLabels; its converter makes COCO
polygons of polygons, so they are drawn by pycocotools. Its export of brushes as PNG doesn't say which image a mask
belongs to; the JSON holds the same masks.
"""

from __future__ import annotations

import os
from functools import partial
from typing import Any

import numpy as np

from rdd_deploy.data.imports import raster, rle
from rdd_deploy.data.imports.export import (
    Area,
    Export,
    Format,
    ReadOptions,
    Region,
    Sample,
    in_order,
    label_name,
    named,
    size_of,
    take,
)
from rdd_deploy.data.imports.lookup import NotFoundError
from rdd_deploy.data.imports.names import folder_of, split_of
from rdd_deploy.data.imports.source import Source
from rdd_deploy.data.listing import IMAGES
from rdd_deploy.errors import DataError


def found(source: Source) -> bool:
    """Whether a JSON file holds tasks, or there is nothing but brushes as PNG."""
    return bool(source.kinds.get("label-studio") or _brushes(source))


def _brushes(source: Source) -> bool:
    names = [name.rpartition("/")[2] for name in source.images]
    return bool(names) and all(name.startswith("task-") and "-annotation-" in name for name in names)


def read(source: Source, options: ReadOptions) -> Export:
    """All tasks of all JSON files."""
    export = Export(
        {}, [], drawing="polygons and boxes by COCO's rule (pycocotools), brushes pixel by pixel, ellipses by OpenCV"
    )
    if _brushes(source):
        raise DataError(
            f"{source.root} holds Label Studio's brushes as PNG, which don't say which image each belongs to; export"
            " JSON, which has the same masks, and put the images beside it"
        )
    for name in source.of_kind("label-studio"):
        tree, where = source.json(name), str(source.root / name)
        for number, task in enumerate(tree if isinstance(tree, list) else [tree]):
            _read_task(source, task, name, f"{where}: task {number}", export)
    export.labels = in_order(region.label for sample in export.samples for region in sample.regions)
    return export


def _read_task(source: Source, task: Any, name: str, where: str, export: Export) -> None:
    if not isinstance(task, dict):
        raise DataError(f"{where} is {named(task)}; expected an object")
    results = _results(task, where, export)
    file = _image_name(task, results or [], where)
    if results is None:
        export.left.add("image", "it isn't annotated", file)
        return
    regions, sizes = [], set()
    labels, bare = _labels_by_id(results)
    for number, result in enumerate(results):
        place = f"{where}: result[{number}]"
        if not isinstance(result, dict):
            raise DataError(f"{place} is {named(result)}; expected an object")
        size = size_of(result, "original_height", "original_width", place)
        if result.get("type") == "labels" and result.get("id") in bare:
            continue  # only the label of another result, which has the shape as well
        if (region := _region(result, labels, place, export)) is not None:
            regions.append(region)
            sizes.add(size)
    if len(sizes) > 1:
        raise DataError(
            f"{where}: its results give the image the sizes {sorted(map(str, sizes))}; expected one; export it again"
        )
    try:
        inside, path = source.image(file, folder_of(name), f"{folder_of(name)}/images", "images")
    except NotFoundError as error:
        export.left.add("image", str(error), file)
        if regions:
            export.left.add("annotation", "its image is left out", where, len(regions))
        return
    export.samples.append(
        Sample(inside, path, split_of(folder_of(inside)), next(iter(sizes), None), regions, where=where)
    )


def _image_name(task: dict[str, Any], results: list[Any], where: str) -> str:
    """Of JSON in ``data``, of JSON-MIN in the task itself. Raises DataError where several may be meant."""
    data = task["data"] if isinstance(task.get("data"), dict) else task
    likely = {key: value for key, value in data.items() if isinstance(value, str) and _suffix(value) in IMAGES}
    pages = [
        key
        for key, value in data.items()
        if isinstance(value, list) and value and all(isinstance(one, str) and _suffix(one) in IMAGES for one in value)
    ]
    drawn = [one for one in results if isinstance(one, dict) and isinstance(one.get("to_name"), str)]
    shown = sorted({one["to_name"] for one in drawn if "original_width" in one})
    if pages or len(shown) > 1 or any(one.get("item_index") for one in drawn):
        several = f"'{pages[0]}'" if pages else ", ".join(map(repr, shown)) or "several pages"
        raise DataError(
            f"{where} annotates more than one image ({several:.200}); expected one a task: give each image a task of"
            " its own, and export that"
        )
    if len(set(likely.values())) > 1 and not {"image", *shown} & likely.keys():
        raise DataError(
            f"{where} names {len(likely)} images in 'data' ({', '.join(likely):.200}), and its annotations don't say"
            " which one they are of; rename the key of the annotated one to 'image'"
        )
    if likely:
        return next((likely[key] for key in ("image", *shown) if key in likely), next(iter(likely.values())))
    if isinstance(task.get("file_upload"), str):
        return str(task["file_upload"])
    raise DataError(f"{where} names no image; expected its address in 'data'")


def _suffix(address: str) -> str:
    return os.path.splitext(
        address.rpartition("?d=")[2].partition("?")[0] if "?d=" in address else address.partition("?")[0]
    )[1].lower()


def _results(task: dict[str, Any], where: str, export: Export) -> list[Any] | None:
    """The results of the annotation that counts; None where there is none."""
    if not isinstance(task.get("data"), dict):  # JSON-MIN
        lists = [value for value in task.values() if isinstance(value, list)]
        return [one for value in lists for one in value if isinstance(one, dict) and "original_width" in one] or None
    listed = task.get("annotations", task.get("completions")) or []
    if not isinstance(listed, list) or not all(isinstance(one, dict) for one in listed):
        raise DataError(f"{where}: 'annotations' is {named(listed)}; expected a list of objects")
    done = [one for one in listed if not one.get("was_cancelled")]
    if not done:
        return None
    chosen = next((one for one in reversed(done) if one.get("ground_truth")), done[-1])
    if len(done) > 1:
        others = sum(len(take(one, "result", list, where, [])) for one in done if one is not chosen)
        export.left.add(
            "annotation", "the task was annotated more than once; the ground truth counts, else the last", where, others
        )
    result: list[Any] = take(chosen, "result", list, where)
    return result


def _labels_by_id(results: list[Any]) -> tuple[dict[str, str], set[str]]:
    """A region and its labels may be two results with one id: the labels by it, and the ids of shapes without a label
    of their own.
    """
    found, bare = {}, set()
    for one in results:
        if isinstance(one, dict) and isinstance(one.get("id"), str):
            if label := _label(one.get("value"), ""):
                found[one["id"]] = label
            elif isinstance(one.get("value"), dict) and any(key in one["value"] for key in _SHAPES):
                bare.add(one["id"])
    return found, bare


def _label(value: Any, where: str) -> str | None:
    for key, labels in value.items() if isinstance(value, dict) else ():
        if key.endswith("labels") and isinstance(labels, list) and labels:
            return label_name(labels[0], where)
    return None


def _region(result: dict[str, Any], labels: dict[str, str], where: str, export: Export) -> Region | None:
    value = result["value"] if isinstance(result.get("value"), dict) else result  # JSON-MIN has no 'value'
    shape = next((draw for key, draw in _SHAPES.items() if key in value), None)
    if shape is None or (shape is _box and "height" not in value):
        if "x" in value or "vertices" in value:
            export.left.add("annotation", "it is a point or line", where)
        elif _label(value, where) and result.get("type") != "labels":
            export.left.add("annotation", f"results of the type '{result.get('type')!s:.40}' aren't read", where)
        return None
    own, key = _label(value, where), result.get("id")
    label = own or (labels.get(key) if isinstance(key, str) else None)
    if label is None:
        export.left.add("annotation", "it has no label", where)
        return None
    if take(result, "image_rotation", float, where, 0):
        raise DataError(
            f"{where}: the image was turned by {result['image_rotation']} degrees in the tool; turn the file instead"
            " and annotate that"
        )
    several = [
        labels_
        for name, labels_ in value.items()
        if name.endswith("labels") and isinstance(labels_, list) and len(labels_) > 1
    ]
    if several:
        export.left.add(
            "part",
            "a region has several labels, of which the first counts",
            f"{where} ({', '.join(map(str, several[0]))})",
        )
    if "points" in value and (len(take(value, "points", list, where)) < 3 or value.get("closed") is False):
        export.left.add("annotation", "a polygon that isn't closed, or of less than 3 points", f"{where} ({label})")
        return None
    return Region(label, partial(shape, value, where), where)


def _polygon(value: dict[str, Any], where: str, height: int, width: int) -> Area:
    points = raster.points_of(value["points"], where) / 100 * (width, height)
    return raster.by_coco([points], height, width, where)


def _box(value: dict[str, Any], where: str, height: int, width: int) -> Area:
    x, y, across, down = (take(value, key, float, where) for key in ("x", "y", "width", "height"))
    percent = np.array([(x, y), (x + across, y), (x + across, y + down), (x, y + down)], np.float64)
    points = percent / 100 * (width, height)
    return raster.by_coco(
        [raster.turned(points, take(value, "rotation", float, where, 0), points[0])], height, width, where
    )


def _ellipse(value: dict[str, Any], where: str, height: int, width: int) -> Area:
    x, y, rx, ry = (take(value, key, float, where) for key in ("x", "y", "radiusX", "radiusY"))
    if min(rx, ry) < 0:
        raise DataError(f"{where}: an ellipse's radii are {rx:g} and {ry:g}; expected 0 or more")
    centre, radii = (x / 100 * width, y / 100 * height), (rx / 100 * width, ry / 100 * height)
    return raster.ellipse(centre, radii, take(value, "rotation", float, where, 0), height, width, where)


def _brush(value: dict[str, Any], where: str, height: int, width: int) -> Area:
    return rle.brush(value["rle"], height, width, where)


_SHAPES = {"rle": _brush, "points": _polygon, "radiusX": _ellipse, "width": _box}
"""By the key that tells them apart."""

FORMAT = Format(found, read)
