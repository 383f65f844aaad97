"""Tiny exports of annotation tools, written by hand as the tools write them, and what an import makes of them."""

import base64
import io
import json
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from rdd_deploy.data.imports.work import ImportOptions, Result, import_export
from rdd_deploy.data.open import open_split
from rdd_deploy.utils.yaml_file import load_yaml

H, W = 40, 60


def photo(path: Path, seed: int = 0, height: int = H, width: int = W, orientation: int = 1) -> Path:
    """A noisy picture, stored as height x width."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    exif = Image.Exif()
    if orientation != 1:
        exif[0x112] = orientation
    Image.fromarray(pixels).save(path, exif=exif)
    return path


def write(path: Path, value: Any) -> Path:
    """JSON, or text or bytes as they are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(value, bytes):
        path.write_bytes(value)
    else:
        path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
    return path


def png(values: np.ndarray, palette: list[int] | None = None) -> bytes:
    """An index or RGB mask as a PNG file."""
    image = Image.fromarray(values)
    if palette:
        image.putpalette(palette)
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def packed(mask: np.ndarray) -> str:
    """Supervisely's bitmap."""
    return base64.b64encode(zlib.compress(png(mask.astype(np.uint8) * 255))).decode()


def box(top: int, left: int, bottom: int, right: int) -> list[list[int]]:
    """The corners of a rectangle as points [x, y]."""
    return [[left, top], [right, top], [right, bottom], [left, bottom]]


def area(top: int, left: int, bottom: int, right: int, height: int = H, width: int = W) -> np.ndarray:
    """Its pixels where the end isn't in it, as by COCO's rule."""
    mask = np.zeros((height, width), bool)
    mask[top:bottom, left:right] = True
    return mask


def closed(top: int, left: int, bottom: int, right: int, height: int = H, width: int = W) -> np.ndarray:
    """Its pixels where the border is in it, as Pillow and OpenCV fill it."""
    return area(top, left, bottom + 1, right + 1, height, width)


def layers(*masks: tuple[np.ndarray, int], background: int = 0) -> np.ndarray:
    """Labels of masks over each other."""
    labels = np.full(masks[0][0].shape, background, np.uint8)
    for mask, value in masks:
        labels[mask] = value
    return labels


def convert(source: Path, out: Path, **options: Any) -> tuple[dict[str, Any], Result]:
    """Import; the data part that it wrote, and what it says."""
    result = import_export(source, out, ImportOptions(**options))
    return load_yaml(out / "data.yaml")["data"], result


def masks(out: Path, split: str = "train") -> dict[str, np.ndarray]:
    """The masks of a split as they are in the files, by stem."""
    return {
        path.stem: cv2.imread(str(path), cv2.IMREAD_UNCHANGED) for path in sorted((out / f"{split}annot").iterdir())
    }


def opened(part: dict[str, Any], split: str = "train") -> dict[str, np.ndarray]:
    """Labels as the recipes' reader gives them."""
    options = {key: value for key, value in part.items() if key not in ("name", "root")}
    data = open_split("folder", part["root"], split, **options)
    assert all(data.frame(index).shape[:2] == data.labels(index).shape for index in range(len(data)))
    return {name: data.labels(index) for index, name in enumerate(data.names)}


def coco_text(mask: np.ndarray) -> dict[str, Any]:
    """Compressed run lengths by pycocotools."""
    from pycocotools import mask as coco

    encoded = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(mask.shape), "counts": encoded["counts"].decode("ascii")}


def runs(mask: np.ndarray, order: str) -> list[int]:
    """Run lengths from zeros on, counted one by one."""
    counts, now = [0], 0
    for value in mask.ravel(order=order).astype(int).tolist():
        if value != now:
            counts.append(0)
            now = value
        counts[-1] += 1
    return counts


def brush(mask: np.ndarray) -> list[int]:
    """Label Studio's brush: runs of up to 8 and literal stretches of 3, of values repeated for four channels."""
    values = np.repeat(mask.ravel().astype(np.uint8) * 255, 4).tolist()
    bits = f"{len(values):032b}{7:05b}" + "".join(f"{size - 1:04b}" for size in (3, 4, 8, 16))
    at = 0
    while at < len(values):
        end = at
        while end < len(values) and values[end] == values[at] and end - at < 65536:
            end += 1
        length = end - at
        if length >= 3:
            which, size = next((n, s) for n, s in enumerate((3, 4, 8, 16)) if length <= 1 << s)
            bits += f"1{which:02b}{length - 1:0{size}b}{values[at]:08b}"
            at = end
        else:
            some = values[at : at + 3]
            bits += f"000{len(some) - 1:03b}" + "".join(f"{value:08b}" for value in some)
            at += len(some)
    bits += "0" * (-len(bits) % 8)
    return [int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)]


def coco(images: list[dict[str, Any]], annotations: list[dict[str, Any]], names: list[str]) -> dict[str, Any]:
    """An instances file with categories from 1 on."""
    return {
        "images": images,
        "annotations": [{"id": number, "iscrowd": 0, **one} for number, one in enumerate(annotations)],
        "categories": [{"id": number + 1, "name": name, "supercategory": ""} for number, name in enumerate(names)],
    }
