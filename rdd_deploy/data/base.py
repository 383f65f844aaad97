"""What every data set is: named pairs of frames and label maps with a class list. No torch here: the edge reads data too."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from rdd_deploy.errors import DataError
from rdd_deploy.frames import read_image

IGNORE = 255
"""The one void label inside rdd_deploy; each data set maps its own void ids to it."""

Frame = NDArray[np.uint8]
"""uint8 (H, W, 3), RGB unless a name says BGR."""
Labels = NDArray[np.uint8]
"""uint8 (H, W), class ids 0…C-1 and IGNORE."""


@dataclass(frozen=True)
class Task:
    """The classes of a data set, in the order of their ids, with an RGB colour each."""

    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]

    def __post_init__(self) -> None:
        if len(self.classes) != len(self.palette):
            raise DataError(f"{len(self.classes)} classes but {len(self.palette)} palette colours; give one colour a class")
        if not 2 <= len(self.classes) <= IGNORE:
            raise DataError(f"got {len(self.classes)} classes, expected 2 to {IGNORE} (id {IGNORE} is void)")

    def __len__(self) -> int:
        return len(self.classes)


class Split(ABC):
    """One split of a data set: ``len``, ``names`` and, per index, a frame and its labels at the same size."""

    task: Task
    names: Sequence[str]

    def __len__(self) -> int:
        return len(self.names)

    @abstractmethod
    def frame(self, index: int) -> Frame:
        """RGB frame, uint8 (H, W, 3)."""

    @abstractmethod
    def labels(self, index: int) -> Labels:
        """Label map, uint8 (H, W), at the frame's size; void is IGNORE."""


class FileSplit(Split):
    """A split whose frames and index masks are image files.

    Args:
        task: the classes.
        pairs: (frame path, mask path) per sample.
        void_ids: mask values that mean void.
    """

    def __init__(self, task: Task, pairs: Sequence[tuple[Path, Path]], void_ids: Sequence[int]) -> None:
        self.task = task
        self.pairs = list(pairs)
        self.names = [image.stem for image, _ in self.pairs]
        table = np.full(256, -1, np.int16)
        table[: len(task)] = np.arange(len(task))
        table[list(void_ids)] = IGNORE
        self._table = table

    def frame(self, index: int) -> Frame:
        return read_frame(self.pairs[index][0])

    def labels(self, index: int) -> Labels:
        path = self.pairs[index][1]
        mapped = self._table[read_mask(path)]
        if (mapped < 0).any():
            ids = np.unique(read_mask(path)[mapped < 0]).tolist()
            raise DataError(f"{path} holds unknown class ids {ids}; expected 0 to {len(self.task) - 1} or a void id ({self._voids()})")
        return mapped.astype(np.uint8)

    def _voids(self) -> str:
        return ", ".join(str(i) for i in np.flatnonzero(self._table == IGNORE)) or "none"


def read_frame(path: Path) -> Frame:
    """Read a colour image as RGB uint8 (H, W, 3); raises DataError with the path if it can't be decoded."""
    image = read_image(path)
    if image is None:
        raise DataError(f"can't read the image {path}: {_why(path)}")
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8)


def read_mask(path: Path) -> Labels:
    """Read an index mask as uint8 (H, W). Palette PNGs give their indices, colour masks are refused."""
    depth, colour = _png_kind(path)
    mask = _palette_indices(path) if colour == _PALETTE else None
    if mask is None:
        mask = read_image(path, cv2.IMREAD_UNCHANGED)
        if mask is not None and colour == _GREY and depth < 8:
            mask = mask // (255 // (2**depth - 1))  # OpenCV spreads 1, 2 and 4 bits over 0 to 255
    if mask is None:
        raise DataError(f"can't read the mask {path}: {_why(path)}")
    if mask.ndim == 3 and mask.shape[2] == 3 and (mask[..., 0] == mask[..., 1]).all() and (mask[..., 0] == mask[..., 2]).all():
        mask = mask[..., 0]  # a grey image stored with three equal channels
    if mask.ndim != 2 or mask.dtype != np.uint8:
        raise DataError(
            f"{path} is a mask of shape {mask.shape} and type {mask.dtype}; expected one 8-bit channel of class ids (not colours)"
        )
    return np.asarray(mask, np.uint8)


_GREY, _PALETTE = 0, 3
"""PNG's colour types."""


def _png_kind(path: Path) -> tuple[int, int]:
    """Bit depth and colour type of a PNG; (0, -1) where the file is none."""
    try:
        with path.open("rb") as file:
            head = file.read(26)
    except OSError:
        return 0, -1
    return (head[24], head[25]) if len(head) == 26 and head[:8] == b"\x89PNG\r\n\x1a\n" else (0, -1)


def _palette_indices(path: Path) -> Labels | None:
    """The indices of a palette PNG (OpenCV would expand them to colours), None where it is damaged."""
    from PIL import Image  # only data sets with palette masks need it

    try:
        with Image.open(path) as image:
            return np.array(image, np.uint8)
    except (OSError, SyntaxError, Image.DecompressionBombError):
        return None


def _why(path: Path) -> str:
    if not path.exists():
        return "no such file"
    if path.stat().st_size == 0:
        return "the file is empty"
    return "not an image that OpenCV can decode, or the file is damaged"
