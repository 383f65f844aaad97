"""COCO's panoptic JSON with its PNG files, whose colours are numbers of segments.

Source: cocodataset.org, format-data: the number is R + 256 G + 256² B; 0 is unlabelled.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rdd_deploy.data.imports.export import VOID, Export, Format, ReadOptions, Sample, label_name, objects, size_of, take
from rdd_deploy.data.imports.lookup import NotFoundError
from rdd_deploy.data.imports.names import folder_of, split_of_file
from rdd_deploy.data.imports.source import Source
from rdd_deploy.data.reader import read_frame
from rdd_deploy.errors import DataError


def found(source: Source) -> bool:
    """Whether some JSON has annotations with segments."""
    return bool(source.kinds.get("coco-panoptic"))


def read(source: Source, options: ReadOptions) -> Export:
    """All panoptic files of the export, one a split."""
    export = Export({}, [], background=None, drawing="segments as the PNG files have them; what has no segment is void")
    for name in source.of_kind("coco-panoptic"):
        where, tree = str(source.root / name), source.json(name)
        categories: dict[int, str] = {}
        for place, one in objects(tree, "categories", where):
            label = label_name(one.get("name"), place)
            categories[take(one, "id", int, place)] = label
            export.labels.setdefault(label, None)
        split = split_of_file(name)
        images = {take(one, "id", int, place): (place, one) for place, one in objects(tree, "images", where)}
        word = name.rpartition("/")[2].removesuffix(".json")
        masks = [f"{folder_of(name)}/{word}".lstrip("/"), word, folder_of(name)]
        photos = [
            folder_of(name),
            word.rpartition("_")[2],
            f"images/{word.rpartition('_')[2]}",
            "images",
            *([split] if split else []),
        ]
        for place, one in objects(tree, "annotations", where):
            key, file = take(one, "image_id", int, place), take(one, "file_name", str, place)
            if key not in images:
                export.left.add("annotation", "its image isn't in the file", place)
                continue
            spot, image = images.pop(key)
            try:
                inside, path = source.image(take(image, "file_name", str, spot), *photos)
                _, mask = source.image(file, *masks, masks=True)
            except NotFoundError as error:
                export.left.add("image", f"its image or PNG is missing ({error})", file)
                continue
            meaning = {0: VOID}
            for where_, segment in objects(one, "segments_info", place):
                category = take(segment, "category_id", int, where_)
                if category not in categories:
                    raise DataError(
                        f"{where_}: the category {category} isn't among the file's categories; export it again"
                    )
                meaning[take(segment, "id", int, where_)] = categories[category]
            ids = {label: number for number, label in enumerate(export.labels)}
            table = {number: 255 if label == VOID else ids[label] for number, label in meaning.items()}
            size = size_of(image, "height", "width", spot)
            export.samples.append(Sample(inside, path, split, size, mask=partial(_classes, mask, table), where=place))
        for spot, image in images.values():
            export.left.add("image", "it has no segments", take(image, "file_name", str, spot))
    if len(export.labels) > 255:
        raise DataError(
            f"the export has {len(export.labels)} categories; expected at most 255, masks have 8 bits: merge some"
            " before exporting"
        )
    export.values = {**dict(enumerate(export.labels)), 255: VOID}
    return export


def _classes(path: Path, table: dict[int, int]) -> NDArray[Any]:
    colours = read_frame(path).astype(np.uint32)
    numbers, inverse = np.unique(colours[..., 0] + 256 * colours[..., 1] + 65536 * colours[..., 2], return_inverse=True)
    if unknown := [int(number) for number in numbers if int(number) not in table]:
        raise DataError(
            f"{path} holds segments {unknown[:5]} that its JSON doesn't list; expected those of segments_info; export"
            " it again"
        )
    return np.array([table[int(number)] for number in numbers], np.uint8)[inverse].reshape(colours.shape[:2])


FORMAT = Format(found, read)
