"""COCO's instances JSON: of COCO, CVAT, Roboflow, Label Studio and others. Polygons, run lengths and crowds.

Source: cocodataset.org, format-data; pixels by pycocotools.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from rdd_deploy.data.imports import raster, rle
from rdd_deploy.data.imports.export import (
    Area,
    Export,
    Format,
    ReadOptions,
    Region,
    Sample,
    label_name,
    named,
    objects,
    size_of,
    take,
)
from rdd_deploy.data.imports.lookup import NotFoundError
from rdd_deploy.data.imports.names import folder_of, split_of, split_of_file
from rdd_deploy.data.imports.source import Source
from rdd_deploy.data.listing import plural
from rdd_deploy.errors import DataError

_NO_INSTANCES = ("captions_", "person_keypoints_")


def found(source: Source) -> bool:
    """Whether some JSON has images, annotations and categories."""
    return bool(source.kinds.get("coco"))


def read(source: Source, options: ReadOptions) -> Export:
    """All instances files of the export, one a split."""
    names = list(source.of_kind("coco"))
    # COCO's folder holds captions and keypoints of the same images as well.
    export = Export({}, [], overlap="small-on-top", drawing="polygons and run lengths by COCO's rule (pycocotools)")
    passed = [name for name in source.named(".json") if name.rpartition("/")[2].startswith(_NO_INSTANCES)]
    if passed and (others := [name for name in names if name not in passed]):
        names = others
        export.notes.append(
            f"{plural(len(passed), 'JSON file')} of captions or keypoints passed over, the first is {passed[0]}"
        )
    for name in names:
        _read_file(source, name, export)
    return export


def _read_file(source: Source, name: str, export: Export) -> None:
    where = str(source.root / name)
    tree = source.json(name)
    categories = _categories(tree, where, export)
    split = split_of_file(name)
    folders = (folder_of(name), f"{folder_of(name)}/images", "images", *_split_folders(source, name, split))
    samples: dict[Any, Sample | None] = {}
    for place, one in objects(tree, "images", where):
        key, file = _key(one, "id", place), take(one, "file_name", str, place)
        if key in samples:
            raise DataError(f"{place}: the id {key!r:.60} is given to two images; export it again")
        samples[key] = None
        try:
            inside, path = source.image(file, *folders)
        except NotFoundError as error:
            export.left.add("image", str(error), file)
            continue
        sample = Sample(
            inside, path, split or split_of(folder_of(inside)), size_of(one, "height", "width", place), where=place
        )
        samples[key] = sample
        export.samples.append(sample)
    for place, one in objects(tree, "annotations", where):
        key, category = _key(one, "image_id", place), _key(one, "category_id", place)
        if category not in categories:
            raise DataError(
                f"{place}: the category {category!r:.60} isn't among the file's categories; export it again"
            )
        if key not in samples:
            export.left.add("annotation", "its image isn't in the file", f"{place} ({categories[category]})")
        elif (owner := samples[key]) is None:
            export.left.add("annotation", "its image is left out", f"{place} ({categories[category]})")
        elif region := _region(one, categories[category], place, export):
            owner.regions.append(region)


def _categories(tree: Any, where: str, export: Export) -> dict[Any, str]:
    """Name of each category's id. Roboflow's root, which nothing is labelled as, is left out of the classes."""
    named_: dict[Any, str] = {}
    listed = objects(tree, "categories", where)
    parents = {str(one.get("supercategory")) for _, one in listed}
    used = {_key(one, "category_id", place) for place, one in objects(tree, "annotations", where)}
    for place, one in listed:
        key = _key(one, "id", place)
        label = label_name(one.get("name"), place)
        if key in named_:
            raise DataError(f"{place}: the id {key!r:.60} is given to two categories; export it again")
        named_[key] = label
        if one.get("supercategory") == "none" and label in parents and key not in used:
            export.notes.append(f"'{label}' is no class: Roboflow puts it above the others, and nothing is labelled so")
        else:
            export.labels.setdefault(label, None)
    return named_


def _key(one: dict[str, Any], key: str, where: str) -> Any:
    value = one.get(key)
    if not isinstance(value, (int, str)) or isinstance(value, bool):
        raise DataError(f"{where}: '{key}' is {named(value)}; expected a number")
    return value


def _split_folders(source: Source, name: str, split: str | None) -> list[str]:
    """Where images may lie: of instances_train2017.json in train2017/ or images/train2017/."""
    word = name.rpartition("/")[2].removesuffix(".json").rpartition("_")[2]
    return [word, f"images/{word}", *([split, f"images/{split}"] if split else [])]


def _region(one: dict[str, Any], label: str, where: str, export: Export) -> Region | None:
    shape = one.get("segmentation")
    crowd = bool(one.get("iscrowd"))
    if shape is None or shape == []:
        export.left.add("annotation", "it has a box and no mask", f"{where} ({label})")
        return None
    if isinstance(shape, list):
        polygons = [raster.flat_points(part, where) for part in shape]
        whole = [points for points in polygons if len(points) >= 3]
        if len(whole) < len(polygons):
            export.left.add("part" if whole else "annotation", "a polygon of less than 3 points", f"{where} ({label})")
        return Region(label, partial(_painted, whole, where), where, beneath=crowd) if whole else None
    counts, size = take({"segmentation": shape}, "segmentation", dict, where).get("counts"), shape.get("size")
    if not isinstance(counts, (str, list)):
        raise DataError(f"{where}: the run lengths are {named(counts)}; expected 'counts' as text or a list of numbers")
    return Region(label, partial(_decoded, counts, size, where), where, beneath=crowd)


def _painted(polygons: list[raster.Points], where: str, height: int, width: int) -> Area:
    return raster.by_coco(polygons, height, width, where)


def _decoded(counts: str | list[int], size: Any, where: str, height: int, width: int) -> Area:
    if size != [height, width]:
        raise DataError(f"{where}: the mask's size is {size!r:.40}; expected the image's, [{height}, {width}]")
    return rle.by_columns(rle.counts_of(counts, where) if isinstance(counts, str) else counts, height, width, where)


FORMAT = Format(found, read)
