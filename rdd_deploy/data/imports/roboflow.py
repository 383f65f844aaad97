"""Roboflow's semantic masks: in each split's folder images, *_mask.png of class ids and _classes.csv."""

from __future__ import annotations

from functools import partial

from rdd_deploy.data.colours import read_label_map
from rdd_deploy.data.imports import masks
from rdd_deploy.data.imports.export import VOID, Export, Format, ReadOptions, Sample, label_name
from rdd_deploy.data.imports.names import folder_of, split_of
from rdd_deploy.data.imports.source import Source
from rdd_deploy.errors import DataError

_MASK = "_mask.png"


def found(source: Source) -> bool:
    """Whether there is a _classes.csv and a mask."""
    return any(name.rpartition("/")[2] == "_classes.csv" for name in source.files) and any(
        name.endswith(_MASK) for name in source.files
    )


def read(source: Source, options: ReadOptions) -> Export:
    """All splits."""
    values: dict[int, str] = {}
    for name in source.named("_classes.csv"):
        where = str(source.root / name)
        for label, [number] in read_label_map(source.path(name)).ids.items():
            label_name(label, where)
            if values.setdefault(number, label) != label:
                raise DataError(
                    f"{where}: {number} is '{label}' here and '{values[number]}' in another split; export it again"
                )
    export = Export(
        dict.fromkeys(values[number] for number in sorted(values)), [], background=None, drawing="masks as they are"
    )
    export.values = {255: VOID, **values}
    ids = masks.ids_of(export.values)
    beside: dict[str, list[str]] = {}
    for name in source.images:
        if not name.endswith(_MASK):
            beside.setdefault(f"{folder_of(name)}/{_stem(name)}", []).append(name)
    for name in [name for name in source.files if name.endswith(_MASK)]:
        images = beside.pop(f"{folder_of(name)}/{name.rpartition('/')[2].removesuffix(_MASK)}", None)
        if images is None:
            export.left.add("image", "its mask is there, the image isn't", name)
            continue
        image = source.only_one(images)
        read_ = partial(masks.indices, source.path(name), ids)
        export.samples.append(
            Sample(image, source.path(image), split_of(folder_of(image)), mask=read_, where=str(source.root / name))
        )
    for image in [name for images in beside.values() for name in images]:
        export.left.add("image", "it has no mask", image)
    return export


def _stem(name: str) -> str:
    return name.rpartition("/")[2].rpartition(".")[0]


FORMAT = Format(found, read)
