"""YOLO's segmentation text files with data.yaml: of Ultralytics, Roboflow, CVAT, Label Studio.

Source: docs.ultralytics.com, instance segmentation datasets; pixels as Ultralytics' polygon2mask makes them: cut to
whole pixels, filled by OpenCV with the border in it, smaller ones on top.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from functools import partial
from typing import Any

import numpy as np

from rdd_deploy.data.imports import raster
from rdd_deploy.data.imports.export import Area, Export, Format, ReadOptions, Region, Sample, label_name, named
from rdd_deploy.data.imports.lookup import NotFoundError
from rdd_deploy.data.imports.names import folder_of, split_of
from rdd_deploy.data.imports.source import Source
from rdd_deploy.data.listing import IMAGES, plural
from rdd_deploy.errors import DataError

_ROUNDED = 2e-3
"""Pixels by which six decimals may miss the whole pixel that was meant."""
_LISTS = ("classes.txt", "obj.names")


def found(source: Source) -> bool:
    """Whether there is a YAML file with names, or a list of classes and a folder of labels."""
    return bool(
        _configurations(source)
        or (any(map(source.has, _LISTS)) and any("labels" in name.split("/") for name in source.files))
    )


def _configurations(source: Source) -> list[str]:
    names = [
        name
        for name in source.named(".yaml", ".yml")
        if "/" not in name or name.rpartition("/")[2] in ("data.yaml", "dataset.yaml")
    ]
    return [name for name in names if b"names" in source.read(name, 1 << 20)]


def read(source: Source, options: ReadOptions) -> Export:
    """The splits of data.yaml, or all images with labels."""
    export = Export(
        {}, [], overlap="small-on-top", drawing="polygons by Ultralytics' rule (cut to whole pixels, filled by OpenCV)"
    )
    configurations = _configurations(source)
    if len(configurations) > 1:
        raise DataError(
            f"{source.root} has {len(configurations)} YAML files with names ({', '.join(configurations)}); give the one"
            " that counts"
        )
    tree: dict[str, Any] = {}
    base = ""
    if configurations:
        tree, base = source.yaml(configurations[0]), folder_of(configurations[0])
        if not isinstance(tree, dict):
            raise DataError(f"{source.root / configurations[0]} is {named(tree)}; expected names, train and val")
        names = _names(tree.get("names"), str(source.root / configurations[0]))
    else:
        listed = next(name for name in _LISTS if source.has(name))
        names = dict(enumerate(source.numbered(listed)))
    export.labels = dict.fromkeys(names.values())
    images: dict[str, str | None] = {}
    twice = []
    for key, split in (("train", "train"), ("val", "val"), ("valid", "val"), ("test", "test")):
        for entry in _entries(tree, key, str(source.root / configurations[0]) if configurations else ""):
            inside = _images_of(source, entry, base, tree.get("path"))
            if not inside:
                export.notes.append(
                    f"{key}: {entry} of {configurations[0]} holds no images of this export: passed over"
                )
            twice += [(name, split) for name in inside if images.setdefault(name, split) != split]
    if twice:
        name, split = twice[0]
        export.notes.append(
            f"{plural(len(twice), 'image')} in two splits of {configurations[0]}, of which the first counts: {name}"
            f" ({images[name]}, {split})"
        )
    for name in source.images if images else ():
        if name not in images:
            export.left.add("image", f"no split of {configurations[0]} holds it", name)
    if not images:
        images = {name: split_of(folder_of(name)) for name in source.images}
    _read_labels(source, images, names, export)
    return export


def _entries(tree: dict[str, Any], key: str, where: str) -> list[str]:
    """What data.yaml names for a split: a folder or list, or several."""
    value = tree.get(key) or []
    entries = value if isinstance(value, list) else [value]
    if wrong := [one for one in entries if not isinstance(one, str)]:
        raise DataError(f"{where}: '{key}' is {named(wrong[0])}; expected a folder or list of images, or several")
    return entries


def _names(value: Any, where: str) -> dict[int, str]:
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if pairs is None:
        raise DataError(f"{where}: 'names' is {named(value)}; expected a list, or numbers with names")
    try:
        return {int(number): label_name(name, where) for number, name in pairs}
    except (ValueError, TypeError) as error:
        raise DataError(f"{where}: the keys of 'names' are {list(value)!r:.60}; expected numbers") from error


def _images_of(source: Source, entry: str, base: str, root: Any) -> list[str]:
    """Images in a folder or list that data.yaml names; its paths are mostly those of another computer, so their ends
    count.
    """
    parts = [part for part in entry.replace("\\", "/").split("/") if part not in ("", ".", "..")]
    start = [part for part in str(root or "").replace("\\", "/").split("/") if part not in ("", ".", "..")]
    below = [part for part in base.split("/") if part]
    tried = ["/".join([*below, *start, *parts])] + ["/".join([*below, *parts[number:]]) for number in range(len(parts))]
    for place in tried:
        if source.has(place) and place.endswith(".txt"):
            found = []
            for line in source.lines(place):
                try:
                    found.append(source.image(line, folder_of(place), *below[:1])[0])
                except NotFoundError:
                    continue
            return found
        if inside := [name for name in source.images if name.startswith(f"{place}/")]:
            return inside
    return []


def _read_labels(source: Source, images: dict[str, str | None], names: dict[int, str], export: Export) -> None:
    without = []
    used = set()
    for name, split in images.items():
        folder, file = folder_of(name), os.path.splitext(name.rpartition("/")[2])[0] + ".txt"
        swapped = re.sub(r"(^|.*/)images(?=/|$)", r"\1labels", folder, count=1)
        label = next(
            (one for one in (f"{swapped}/{file}".lstrip("/"), f"{folder}/{file}".lstrip("/")) if source.has(one)), None
        )
        sample = Sample(name, source.path(name), split, where=str(source.root / (label or name)))
        if label is None:
            without.append(name)
        else:
            used.add(label)
            for number, line in enumerate(source.text(label).splitlines()):
                if line.strip() and (
                    region := _region(line.split(), names, f"{source.root / label}: line {number + 1}", export)
                ):
                    sample.regions.append(region)
        export.samples.append(sample)
    if not images or len(without) == len(images):
        raise DataError(
            f"{source.root} has {len(images)} images ({', '.join(IMAGES[:3])} …) and no text file of labels for any of"
            " them; expected labels/ beside images/"
        )
    _tell_lonely(source, used, images, export)
    if without:
        export.notes.append(
            f"{len(without)} images have no text file, which in YOLO means that nothing is in them, the first is"
            f" {without[0]}"
        )


def _tell_lonely(source: Source, used: set[str], images: Collection[str], export: Export) -> None:
    """Say which text files of labels belong to no image that is read."""
    folders = {folder_of(name) for name in used}
    ours = {os.path.splitext(name.rpartition("/")[2])[0] for name in source.images if name not in images}
    for name in source.named(".txt"):
        if name in used or not ("labels" in name.split("/")[:-1] or folder_of(name) in folders):
            continue
        lines = [words for line in source.text(name).splitlines() if (words := line.split())]
        if lines and all(re.fullmatch(r"[0-9]+(\.0*)?", words[0]) and len(words) > 4 for words in lines):
            left_out = os.path.splitext(name.rpartition("/")[2])[0] in ours
            reason = "its image is left out" if left_out else "its image isn't in the export"
            export.left.add("annotation", reason, name, len(lines))


def _region(words: list[str], names: dict[int, str], where: str, export: Export) -> Region | None:
    try:
        number, values = float(words[0]), np.array([float(word) for word in words[1:]], np.float64)
    except ValueError as error:
        raise DataError(f"{where} is {' '.join(words)!r:.60}; expected a class and coordinates from 0 to 1") from error
    if number not in names:
        raise DataError(
            f"{where}: the class {words[0]} isn't among the names ({', '.join(map(str, list(names)[:10]))}); export it"
            " again"
        )
    label = names[int(number)]
    if len(values) == 4:
        export.left.add("annotation", "it is a box", f"{where} ({label})")
        return None
    if len(values) % 2 or not len(values):
        raise DataError(f"{where} has {len(values)} coordinates; expected x y of 3 points or more")
    if not np.isfinite(values).all() or values.min() < -0.5 or values.max() > 1.5:
        raise DataError(
            f"{where}: its coordinates reach from {values.min():g} to {values.max():g}; expected shares of the image"
            " from 0 to 1"
        )
    if len(values) < 6:
        export.left.add("annotation", "a polygon of less than 3 points", f"{where} ({label})")
        return None
    return Region(label, partial(_polygon, values.reshape(-1, 2), where), where)


def _polygon(shares: raster.Points, where: str, height: int, width: int) -> Area:
    points = np.floor(shares.clip(0, 1) * (width, height) + _ROUNDED)
    return raster.by_opencv(points, [], height, width, where)


FORMAT = Format(found, read)
