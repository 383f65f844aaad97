"""Small files for tests of data sets: images of noise, and masks that are given."""

import errno
import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

SIZE = (24, 32)


def write_image(path: Path, seed: int = 0, size: tuple[int, int] = SIZE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    frame = np.random.default_rng((seed, sum(path.name.encode()))).integers(0, 256, (*size, 3), np.uint8)
    assert cv2.imwrite(str(path), frame)


def write_mask(path: Path, mask: np.ndarray) -> None:
    """A PNG of ids, or of RGB colours."""
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), mask if mask.ndim == 2 else np.ascontiguousarray(mask[..., ::-1]))


def write_palette(path: Path, mask: np.ndarray, palette: list[tuple[int, int, int]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(mask.astype(np.uint8), "P")
    image.putpalette([value for colour in palette for value in colour])
    image.save(path)


def stripes(values: list[int], size: tuple[int, int] = SIZE) -> np.ndarray:
    """A mask with a vertical stripe of each value, uint8 or uint16."""
    kind = np.uint8 if max(values) < 256 else np.uint16
    columns = np.array(values, kind)[np.arange(size[1]) * len(values) // size[1]]
    return np.ascontiguousarray(np.broadcast_to(columns, size))


def coloured(mask: np.ndarray, colours: dict[int, tuple[int, int, int]]) -> np.ndarray:
    """A mask of RGB colours, uint8 (H, W, 3)."""
    picture = np.zeros((*mask.shape, 3), np.uint8)
    for value, colour in colours.items():
        picture[mask == value] = colour
    return picture


def refuse_folder(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Make a folder one that may not be listed, for root, too."""
    scandir = os.scandir

    def refusing(path: Any = ".") -> Any:
        if not isinstance(path, int) and Path(os.fsdecode(path)) == folder:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
