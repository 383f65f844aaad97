"""The files of a teacher's cache: arrays, read by the window of a crop, and cut at any size.

Reading takes the bytes that a batch's crops need out of the files, in whichever process loads the batch; decoding and
interpolation happen where the student is trained, so a loader hands over bytes, not logits.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rdd_deploy.data.transforms import cut_logits
from rdd_deploy.training.compact import Form

OPEN = 1024
"""Files of a store that are mapped at a time; opening one takes about 0.1 ms."""


class Store:
    """Arrays (frames, planes, h, w) on disk that follow each other as one, or on a device; a copy in another process
    opens the files itself.

    Args:
        pieces: (``.npy`` file, number of frames in it) each, in the order of the frames.
    """

    def __init__(self, pieces: Sequence[tuple[Path, int]], form: Form) -> None:
        self.pieces, self.form = list(pieces), form
        self._ends = np.cumsum([count for _, count in self.pieces])
        self._opened: OrderedDict[int, NDArray[Any]] = OrderedDict()
        self._resident: Tensor | None = None
        self.shape: tuple[int, int, int, int] = (int(self._ends[-1]), *self._piece(0).shape[1:])  # type: ignore[assignment]

    def __reduce__(self) -> tuple[type[Store], tuple[list[tuple[Path, int]], Form]]:
        return Store, (self.pieces, self.form)

    def _piece(self, number: int) -> NDArray[Any]:
        """A file as a memory map. Those used last stay open: a million frames lie in more files than a
        process may map.
        """
        if number in self._opened:
            self._opened.move_to_end(number)
            return self._opened[number]
        array: NDArray[Any] = np.load(self.pieces[number][0], mmap_mode="r", allow_pickle=False)
        self._opened[number] = array
        if len(self._opened) > OPEN:
            self._opened.popitem(last=False)
        return array

    def frame(self, index: int) -> NDArray[Any]:
        """What is kept of one frame, (planes, h, w)."""
        number = int(np.searchsorted(self._ends, index, side="right"))
        return self._piece(number)[index - (int(self._ends[number]) - self.pieces[number][1])]  # type: ignore[no-any-return]

    @property
    def array(self) -> NDArray[Any]:
        """All frames in memory, (frames, planes, h, w)."""
        return np.concatenate([self._piece(number) for number in range(len(self.pieces))])

    @property
    def nbytes(self) -> int:
        """Of all frames."""
        return math.prod(self.shape) * np.dtype(self.form.dtype).itemsize

    @property
    def grid(self) -> tuple[int, int]:
        """(height, width)."""
        return self.shape[2:]

    def to(self, device: torch.device) -> None:
        """Keep all of it on a device."""
        whole = torch.empty(self.shape, dtype=torch.from_numpy(np.empty(0, self.form.dtype)).dtype, device=device)
        for index in range(len(whole)):
            whole[index].copy_(torch.from_numpy(np.array(self.frame(index))))
        self._resident = whole

    @property
    def is_resident(self) -> bool:
        return self._resident is not None

    def whole(self, indices: Tensor) -> Tensor:
        """Whole frames (N, planes, h, w) of a resident store."""
        assert self._resident is not None
        return self._resident[indices.to(self._resident.device)]

    def parts(self, indices: NDArray[np.int64], corners: NDArray[np.int64], size: tuple[int, int]) -> Tensor:
        """Parts (N, planes, *size) of frames, from their top left corners (N, 2) in the grid on; whole frames where the
        form knows no windows.
        """
        height, width = size if self.form.windows else self.grid
        result = np.empty((len(indices), self.shape[1], height, width), self.form.dtype)
        for one, index, (top, left) in zip(result, indices, corners, strict=True):
            one[:] = (
                self.frame(int(index))[:, top : top + height, left : left + width]
                if self.form.windows
                else self.frame(int(index))
            )
        return torch.from_numpy(result)


def parts_of(
    windows: NDArray[np.int64], frames: NDArray[np.int64], grid: tuple[int, int]
) -> tuple[NDArray[np.int64], tuple[int, int]]:
    """The part of the grid that each window needs, all of one size.

    Args:
        windows: (N, 5) top, left, height, width, flip in pixels of the frames. frames: (N, 2) their (height, width).

    Returns:
        Corners (N, 2), each part's top and left row and column of the grid; (height, width) of all parts.
    """
    sides = np.array(grid)
    per_pixel = sides / frames  # grid cells a pixel
    first = np.floor(windows[:, :2] * per_pixel - 0.5).astype(np.int64).clip(0, sides - 1)
    last = np.ceil((windows[:, :2] + windows[:, 2:4]) * per_pixel - 0.5).astype(np.int64).clip(0, sides - 1)
    height, width = (last - first + 1).max(0)
    return np.minimum(first, sides - (height, width)), (int(height), int(width))


class Values(NamedTuple):
    """Decoded values of whole frames, or of parts of them.

    Attributes:
        values: (N, D, h, w). corners: (N, 2), top and left of each part in the grid; None for whole frames.
        grid: (height, width) of whole frames.
    """

    values: Tensor
    corners: Tensor | None
    grid: tuple[int, int]

    def cut(self, windows: Tensor, frames: Tensor, size: tuple[int, int]) -> Tensor:
        """``cut_logits``: float32 (N, D, *size).

        Args:
            windows: int (N, 5) in pixels of the frames. frames: float (N, 2), their (height, width); (1, 2) where all
                have one.
        """
        if self.corners is None:
            return cut_logits(self.values, windows, frames, size)
        # The same points seen from the part: it is a smaller frame that begins elsewhere.
        tall, wide = (frames[:, i] / side for i, side in enumerate(self.grid))  # of a cell, in pixels
        shifted = windows.to(self.values.device, torch.float32, copy=True)
        shifted[:, :2] -= self.corners * torch.stack((tall, wide), 1)
        part = torch.stack((tall * self.values.shape[-2], wide * self.values.shape[-1]), 1)
        return cut_logits(self.values, shifted, part, size)
