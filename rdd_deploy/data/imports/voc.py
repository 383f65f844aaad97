"""PASCAL VOC's layout: of VOC itself, of CVAT's "Segmentation mask 1.1" (labelmap.txt, colours) and of labelme2voc
(class_names.txt).

Source: the VOC2012 development kit; docs.cvat.ai, Segmentation mask; labelme's labelme2voc.py. 255 (in colours 224,
224, 192) is void.
"""

from __future__ import annotations

from functools import partial

from rdd_deploy.data.colours import read_label_map
from rdd_deploy.data.imports import masks
from rdd_deploy.data.imports.export import (
    BACKGROUND,
    VOID,
    Colour,
    Export,
    Format,
    ReadOptions,
    Sample,
    label_name,
)
from rdd_deploy.data.imports.names import folder_of, split_of_file
from rdd_deploy.data.imports.source import Source
from rdd_deploy.data.voc import CLASSES
from rdd_deploy.errors import DataError

_MASKS = ("SegmentationClassPNG", "SegmentationClass")
_IMAGES = ("JPEGImages", "images", "")
_BORDER: Colour = (224, 224, 192)
_VOID = 255


def found(source: Source) -> bool:
    """Whether there is a folder SegmentationClass."""
    return bool(_bases(source))


def _bases(source: Source) -> list[tuple[str, str]]:
    """(folder of the layout, its folder of masks)."""
    bases: dict[str, str] = {}
    for name in source.named(".png"):
        parts = name.split("/")
        for masks_ in _MASKS:
            if masks_ in parts[:-1]:
                bases.setdefault("/".join(parts[: parts.index(masks_)]), masks_)
    return list(bases.items())


def read(source: Source, options: ReadOptions) -> Export:
    """All layouts of the export (VOC2007 and VOC2012, say), which must have the same classes."""
    export = Export({}, [], background=None, drawing="masks as they are")
    for base, folder in _bases(source):
        labels, colours = _classes(source, base, export)
        if export.labels and list(export.labels) != list(labels):
            raise DataError(f"{source.root} holds layouts with different classes; give the folder of one")
        if len(labels) > _VOID:
            raise DataError(
                f"{source.root / base} has {len(labels)} classes; expected at most {_VOID}, as the value {_VOID} is void:"
                " merge some before exporting"
            )
        export.labels = labels
        export.values = {**dict(enumerate(labels)), _VOID: VOID}
        _read_layout(source, base, folder, colours, export)
    return export


def _classes(source: Source, base: str, export: Export) -> tuple[dict[str, Colour | None], dict[Colour, int]]:
    """Labels in the order of their ids, and the ids of colours where masks have colours."""
    names = [f"{base}/{name}".lstrip("/") for name in ("labelmap.txt", "class_names.txt")]
    if source.has(names[0]):
        where = str(source.root / names[0])
        labels: dict[str, Colour | None] = {}
        table: dict[Colour, int] = {_BORDER: _VOID}
        for number, (name, [colour]) in enumerate(read_label_map(source.path(names[0])).colours.items()):
            labels[label_name(name, where)] = colour
            table[colour] = number
        return labels, table
    if source.has(names[1]):
        return (
            dict.fromkeys(
                BACKGROUND if line == "_background_" else line
                for line in source.numbered(names[1])
                if line != "__ignore__"
            ),
            {},
        )
    export.notes.append("no labelmap.txt and no class_names.txt: taken for PASCAL VOC's own 21 classes")
    return dict.fromkeys(CLASSES), {}


def _read_layout(source: Source, base: str, folder: str, colours: dict[Colour, int], export: Export) -> None:
    below = f"{base}/".lstrip("/")
    found_ = {
        _stem(name, f"{below}{folder}/"): name for name in source.named(".png") if name.startswith(f"{below}{folder}/")
    }
    images: dict[str, list[str]] = {}
    for place in _IMAGES:
        inside = f"{below}{place}/".replace("//", "/").lstrip("/")
        here: dict[str, list[str]] = {}
        for name in source.images:
            if name.startswith(inside) and not name.startswith(
                (f"{below}SegmentationClass", f"{below}SegmentationObject")
            ):
                here.setdefault(_stem(name, inside), []).append(name)
        images = {**here, **images}
    splits, ids = _splits(source, below), masks.ids_of(export.values)
    used = set()
    for name, split in splits.items() if splits else ((name, None) for name in found_):
        mask = found_.get(name)
        image = source.only_one(images[name]) if mask is not None and name in images else None
        used.add(name)
        if mask is None or image is None:
            export.left.add("image", f"{'its mask' if mask is None else 'the image'} isn't there", name)
            continue
        read_ = (
            partial(masks.by_colour, source.path(mask), colours)
            if colours
            else partial(masks.indices, source.path(mask), ids)
        )
        export.samples.append(Sample(image, source.path(image), split, mask=read_, where=str(source.root / mask)))
    for name in sorted(found_.keys() - used):
        export.left.add("image", "ImageSets/Segmentation doesn't list it", name)
    with_mask = {name for stem in (*used, *found_) for name in images.get(stem, [])}
    for name in sorted({name for twins in images.values() for name in twins} - with_mask):
        export.left.add("image", "it has no mask", name)


def _splits(source: Source, below: str) -> dict[str, str | None]:
    """The split of each listed name; trainval.txt counts where it is the only list."""
    lists = {
        name: split_of_file(name.rpartition("/")[2])
        for name in source.named(".txt")
        if folder_of(name) == f"{below}ImageSets/Segmentation"
    }
    if any(lists.values()):
        lists = {name: split for name, split in lists.items() if split}
    found: dict[str, str | None] = {}
    for name, split in lists.items():
        for line in source.lines(name):
            frame = _listed(line)
            if found.setdefault(frame, split) != split:
                raise DataError(
                    f"{source.root / name}: '{frame}' is in the split '{found[frame]}' as well; remove it from one list"
                )
    return found


def _listed(line: str) -> str:
    """A list's frame: CVAT writes names with spaces between quotation marks."""
    quoted = line.split('"')
    return quoted[1] if len(quoted) == 3 and not quoted[0] else line


def _stem(name: str, folder: str) -> str:
    return name.removeprefix(folder).rpartition(".")[0]


FORMAT = Format(found, read)
