"""How masks are written: index masks with a palette, CVAT's "Segmentation mask 1.1", or COCO with run lengths or
polygons.

CVAT: https://docs.cvat.ai/docs/dataset_management/formats/format-smask/; COCO: https://cocodataset.org/#format-data.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rdd_deploy import console
from rdd_deploy.data.colours import spread_colours
from rdd_deploy.data.label_space import IGNORE
from rdd_deploy.errors import DataError
from rdd_deploy.prediction.frames import stem_of
from rdd_deploy.prediction.polygons import polygons
from rdd_deploy.utils import files

Array = NDArray[np.uint8]
Colour = tuple[int, int, int]

_FILLING = (1, 0, 0)
"""The palette's entries that no class has: not grey, since a palette of greys alone is read as grey levels (``data.reader``)."""


class Layout:
    """Index masks in ``masks/``: PNG with the classes' colours as palette, whose stored numbers are the class ids.

    Args:
        folder: where everything goes.
        classes, palette: names and RGB colours in the order of their ids.
    """

    masks, frames = "masks", "images"

    def __init__(self, folder: Path, classes: Sequence[str], palette: Sequence[Colour]) -> None:
        self.folder, self.classes, self.palette = folder, tuple(classes), tuple(palette)
        filled = [*self.palette, *[_FILLING] * (IGNORE + 1 - len(self.palette))]
        self._palette = bytes(value for colour in filled for value in colour)

    def mask(self, name: str) -> Path:
        """Where a frame's mask lies."""
        return self.folder / self.masks / f"{stem_of(name)}.png"

    def encoded(self, labels: Array) -> bytes:
        """Labels uint8 (H, W) as a mask file."""
        image = Image.fromarray(labels)
        image.putpalette(self._palette)
        return _png(image)

    def labels(self, name: str) -> Array:
        """A frame's mask, read back: class ids uint8 (H, W). Raises DataError."""
        path = self.mask(name)
        try:
            with Image.open(path, formats=["PNG"]) as image:
                return self._ids(np.asarray(image), path)
        except (OSError, ValueError, SyntaxError) as error:
            raise DataError(f"can't read the mask {path} back: {error}; remove it, and predict again") from error

    def _ids(self, pixels: NDArray[Any], path: Path) -> Array:
        if pixels.ndim != 2 or pixels.dtype != np.uint8 or int(pixels.max()) >= len(self.classes):
            raise ValueError("it doesn't hold the class ids that were written")
        return pixels

    def finish(self, names: Iterable[str], advance: Callable[[], None] = lambda: None) -> list[Path]:
        """Write what lists the masks, and return those files. ``names``: of all frames, in their order."""
        return []

    def file_name(self, name: str) -> str:
        """What a frame's file is called where it is written beside the masks."""
        return name if "." in name.rpartition("/")[2] else f"{name}.png"


class CvatLayout(Layout):
    """CVAT's "Segmentation mask 1.1": ``labelmap.txt``, ``SegmentationClass/`` in its colours,
    ``ImageSets/Segmentation/default.txt``.

    CVAT takes black for the background that it adds itself, and tells classes by colour alone: a class that is black,
    or as another one, gets a colour of its own.
    """

    masks, frames = "SegmentationClass", "JPEGImages"

    def __init__(self, folder: Path, classes: Sequence[str], palette: Sequence[Colour]) -> None:
        super().__init__(folder, classes, palette)
        for name in self.classes:
            if ":" in name or "\n" in name or name.startswith("#"):
                raise DataError(
                    f"the class '{name}' can't stand in CVAT's labelmap.txt, which separates by colons and begins"
                    " comments with #; use --format coco"
                )
        self.colours = own_colours(self.classes, self.palette)
        self._table = np.array(self.colours, np.uint8)
        keys = _keys(self._table)
        self._order = np.argsort(keys)
        self._sorted = keys[self._order]

    def encoded(self, labels: Array) -> bytes:
        return _png(Image.fromarray(self._table[labels]))

    def _ids(self, pixels: NDArray[Any], path: Path) -> Array:
        if pixels.ndim != 3 or pixels.shape[2] != 3:
            raise ValueError("it isn't an RGB picture")
        keys = _keys(pixels)
        found = np.searchsorted(self._sorted, keys).clip(0, len(self._sorted) - 1)
        if (self._sorted[found] != keys).any():
            raise ValueError("it holds a colour that labelmap.txt doesn't name")
        return np.asarray(self._order[found], np.uint8)

    def finish(self, names: Iterable[str], advance: Callable[[], None] = lambda: None) -> list[Path]:
        rows = [
            f"{name}:{','.join(map(str, colour))}::" for name, colour in zip(self.classes, self.colours, strict=True)
        ]
        if "background" not in self.classes:
            rows.insert(0, "background:0,0,0::")
        labelmap, listed = self.folder / "labelmap.txt", self.folder / "ImageSets" / "Segmentation" / "default.txt"
        files.write_text(labelmap, "\n".join(["# label:color_rgb:parts:actions", *rows]) + "\n")
        with files.replacing(listed) as part, part.open("w", encoding="utf-8", errors="backslashreplace") as file:
            for name in names:
                stem = stem_of(name)
                if '"' in stem:
                    console.warn(f"{name} isn't in {listed}: CVAT's lists hold no quotation marks; rename the frame")
                    continue
                # The reader takes a line's first word, or what stands between quotation marks; # begins a comment.
                file.write((f'"{stem}"' if stem.startswith("#") or any(one.isspace() for one in stem) else stem) + "\n")
                advance()
        return [labelmap, listed]


class CocoLayout(Layout):
    """COCO: ``annotations/instances_default.json``, one annotation per frame and class that occurs, its pixels as run
    lengths (``iscrowd`` 1, the form that COCO has for them); categories are numbered from 1 in the order of the
    classes. The index masks are written, too.
    """

    def finish(self, names: Iterable[str], advance: Callable[[], None] = lambda: None) -> list[Path]:
        path = self.folder / "annotations" / "instances_default.json"
        categories = [{"id": index, "name": name, "supercategory": ""} for index, name in enumerate(self.classes, 1)]
        images: list[str] = []
        with files.replacing(path) as part, part.open("w", encoding="utf-8") as file:  # never all in memory
            file.write(
                '{"info": {"description": "predicted by rdd-deploy"}, "licenses": [], "categories": '
                + json.dumps(categories)
            )
            file.write(',\n"annotations": [')
            number = 0
            for image, name in enumerate(names, 1):
                labels = self.labels(name)
                height, width = labels.shape
                images.append(
                    json.dumps({"id": image, "file_name": self.file_name(name), "width": width, "height": height})
                )
                for annotation in self.annotations(labels):
                    number += 1
                    file.write(
                        (",\n" if number > 1 else "\n") + json.dumps({"id": number, "image_id": image, **annotation})
                    )
                advance()
            file.write('\n],\n"images": [\n' + ",\n".join(images) + "\n]}\n")
        return [path]

    def annotations(self, labels: Array) -> Iterator[dict[str, Any]]:
        """COCO's annotations of a label map, uint8 (H, W), without their numbers."""
        return by_run_lengths(labels)


class CocoPolygonsLayout(CocoLayout):
    """COCO with an annotation for each outline: for tools that read no run lengths, and of several outlines only the
    first.
    """

    def annotations(self, labels: Array) -> Iterator[dict[str, Any]]:
        return by_polygons(labels)


LAYOUTS: dict[str, type[Layout]] = {
    "masks": Layout,
    "cvat": CvatLayout,
    "coco": CocoLayout,
    "coco-polygons": CocoPolygonsLayout,
}


def own_colours(classes: Sequence[str], palette: Sequence[Colour]) -> list[Colour]:
    """The palette with each colour once, and black for no class but one called background."""
    free = iter(colour for colour in spread_colours(4 * (IGNORE + 1)) if colour not in palette)
    found: list[Colour] = []
    for name, colour in zip(classes, palette, strict=True):
        while colour in found or (colour == (0, 0, 0) and name != "background"):
            colour = next(free)
        found.append(colour)
    return found


def by_run_lengths(labels: Array) -> Iterator[dict[str, Any]]:
    """An annotation for each class that occurs in labels uint8 (H, W)."""
    for index in np.flatnonzero(np.bincount(labels.ravel(), minlength=1)).tolist():
        mask = labels == index
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        top, left = int(rows[0]), int(columns[0])
        yield {
            "category_id": index + 1,
            "segmentation": {"size": list(mask.shape), "counts": run_lengths(mask)},
            "area": int(mask.sum()),
            "bbox": [left, top, int(columns[-1]) - left + 1, int(rows[-1]) - top + 1],
            "iscrowd": 1,
        }


def by_polygons(labels: Array) -> Iterator[dict[str, Any]]:
    """An annotation for each outline of each class that occurs in labels uint8 (H, W); together they cover each pixel
    once.
    """
    for index in np.flatnonzero(np.bincount(labels.ravel(), minlength=1)).tolist():
        for outline in polygons(labels == index):
            x, y = np.array(outline[::2]), np.array(outline[1::2])
            yield {
                "category_id": index + 1,
                "segmentation": [outline],
                "area": abs(int((x * np.roll(y, -1) - y * np.roll(x, -1)).sum())) // 2,
                "bbox": [int(x.min()), int(y.min()), int(np.ptp(x)), int(np.ptp(y))],
                "iscrowd": 0,
            }


def run_lengths(mask: NDArray[np.bool_]) -> list[int]:
    """COCO's uncompressed run lengths of a mask (H, W): down the columns, first of what is outside."""
    flat = mask.ravel(order="F")
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    lengths: list[int] = np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()
    return [0, *lengths] if flat[0] else lengths


def _keys(pixels: NDArray[Any]) -> NDArray[np.int64]:
    """RGB (..., 3) -> one number a colour."""
    return np.asarray(pixels.astype(np.int64) @ np.array([65536, 256, 1]), np.int64)


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=3)
    return buffer.getvalue()
