"""What an import writes: images as they are, index masks, and data.yaml."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import shutil
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2

from rdd_deploy.data.image_file import Header, header, read_header
from rdd_deploy.data.imports.classes import Classes
from rdd_deploy.data.imports.compose import Labels
from rdd_deploy.data.imports.export import Sample
from rdd_deploy.data.listing import IMAGES
from rdd_deploy.utils import files
from rdd_deploy.utils.text import shown

_SUFFIXES = {"PNG": ".png", "JPEG": ".jpg", "WEBP": ".webp", "TIFF": ".tif", "BMP": ".bmp", "PPM": ".ppm"}
_LONGEST = 1024
"""Of the size that data.yaml suggests: what the deployed network sees; an edge device sees less than a camera."""


def look(sample: Sample) -> tuple[Header, bytes | None]:
    """An image's header, and its bytes where it isn't a file. Raises Unreadable."""
    if isinstance(sample.image, Path):
        return read_header(sample.image), None
    data = sample.image()
    return header(lambda offset, count: data[offset : offset + count], io.BytesIO(data)), data


def stems(samples: Sequence[Sample], splits: Sequence[str]) -> list[str]:
    """A file name without ending for each sample, different from all others of its split: its own, else with its
    folders before it.
    """
    plain = [_plain(os.path.splitext(sample.name.rpartition("/")[2])[0]) for sample in samples]
    times = Counter(zip(splits, map(str.casefold, plain), strict=True))
    taken: set[tuple[str, str]] = set()
    chosen = []
    for sample, split, name in zip(samples, splits, plain, strict=True):
        whole = _plain("_".join(os.path.splitext(sample.name)[0].split("/")))
        base = name if times[split, name.casefold()] == 1 else whole
        unique, number = base, 1
        while (split, unique.casefold()) in taken:
            number += 1
            unique = f"{base}_{number}"
        taken.add((split, unique.casefold()))
        chosen.append(unique)
    return chosen


def _plain(name: str) -> str:
    """A name that is a file's on every system: no control characters, not hidden, not too long."""
    name = re.sub(r"[\x00-\x1f\x7f/\\:*?\"<>|]", "_", unicodedata.normalize("NFC", name)).strip()
    name = name.encode("utf-8", "backslashreplace").decode("utf-8").replace("\\", "_")
    while len(name.encode()) > 200:
        name = name[1:]
    return f"_{name}" if not name or name[0] in ".-" else name


def put_image(sample: Sample, data: bytes | None, head: Header, folder: Path, stem: str) -> str:
    """Put an image into a folder byte for byte: as another name of the same file where the disk can, else as a copy."""
    suffix = os.path.splitext(sample.name)[1].lower()
    target = folder / f"{stem}{suffix if suffix in IMAGES else _SUFFIXES[head.kind]}"
    if data is not None:
        target.write_bytes(data)
    elif isinstance(sample.image, Path):
        try:
            os.link(sample.image, target)
        except OSError:  # another disk, or a file of somebody else's
            shutil.copyfile(sample.image, target)
    return target.name


def put_mask(labels: Labels, folder: Path, stem: str) -> None:
    """Write an index mask as PNG of 8 bits."""
    _, data = cv2.imencode(".png", labels)
    (folder / f"{stem}.png").write_bytes(data.tobytes())


def data_part(out: Path, classes: Classes, shapes: Mapping[tuple[int, int], int]) -> dict[str, Any]:
    """The recipe's part ``data``.

    Args:
        shapes: how many images have each (height, width).
    """
    height, width = max(shapes, key=lambda shape: (shapes[shape], shape)) if shapes else (360, 480)
    scale = min(1.0, _LONGEST / max(height, width))
    size = [height, width] if scale == 1 else [round(height * scale / 8) * 8, round(width * scale / 8) * 8]
    return {
        "name": "folder",
        "root": os.path.abspath(out),
        "size": [max(32, side) for side in size],
        "classes": classes.names,
        "palette": [list(colour) for colour in classes.palette],
        "void_ids": [255],
    }


def command(part: Mapping[str, Any]) -> str:
    """The command that trains on it, for a shell."""
    value = json.dumps(part, ensure_ascii=False)
    return f"rdd-deploy train RECIPE {shlex.quote(f'data={value}')}"


def write_data_yaml(folder: Path, part: Mapping[str, Any], notes: Sequence[str]) -> None:
    """data.yaml: the part, and above it how it came about and the command."""
    said = [
        "The part `data` of a recipe: copy it over the recipe's own, or give it on the command line:",
        command(part),
        "(size is what the deployed network sees; frames and masks of other sizes are resized)",
        *notes,
    ]
    comment = "".join(f"# {shown(line)}\n" for line in said)
    files.write_text(folder / "data.yaml", comment + files.yaml_text({"data": dict(part)}))
