"""The files of a teacher's cache: one array each, read by the window of a crop, and cut at any size.

Reading takes the bytes that a batch's crops need out of the files, in whichever process loads the batch; decoding and interpolation happen
where the student is trained, so a loader hands over bytes, not logits.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rdd_deploy.data.transforms import cut_logits
from rdd_deploy.training.compact import Form


class Store:
    """One array (frames, planes, h, w) on disk, or on a device; a copy in another process opens the file itself.

    Args:
        path: a ``.npy`` file.
    """

    def __init__(self, path: Path, form: Form) -> None:
        self.path, self.form = path, form
        self.array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
        self._resident: Tensor | None = None

    def __reduce__(self) -> tuple[type[Store], tuple[Path, Form]]:
        return Store, (self.path, self.form)

    @property
    def grid(self) -> tuple[int, int]:
        """(height, width)."""
        return self.array.shape[-2], self.array.shape[-1]

    def to(self, device: torch.device) -> None:
        """Keep the whole array on a device."""
        whole = torch.empty(self.array.shape, dtype=torch.from_numpy(np.empty(0, self.form.dtype)).dtype, device=device)
        for index in range(len(self.array)):
            whole[index].copy_(torch.from_numpy(np.array(self.array[index])))
        self._resident = whole

    @property
    def is_resident(self) -> bool:
        return self._resident is not None

    def whole(self, indices: Tensor) -> Tensor:
        """Whole frames (N, planes, h, w) of a resident store."""
        assert self._resident is not None
        return self._resident[indices.to(self._resident.device)]

    def parts(self, indices: NDArray[np.int64], corners: NDArray[np.int64], size: tuple[int, int]) -> Tensor:
        """Parts (N, planes, *size) of frames, from their top left corners (N, 2) in the grid on; whole frames where the form knows no windows."""
        if not self.form.windows:
            return torch.from_numpy(self.array[indices])
        height, width = size
        result = np.empty((len(indices), self.array.shape[1], height, width), self.form.dtype)
        for one, index, (top, left) in zip(result, indices, corners, strict=True):
            one[:] = self.array[index, :, top : top + height, left : left + width]
        return torch.from_numpy(result)


def parts_of(windows: NDArray[np.int64], frames: NDArray[np.int64], grid: tuple[int, int]) -> tuple[NDArray[np.int64], tuple[int, int]]:
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

    def cut(self, windows: Tensor, frames: NDArray[np.int64], size: tuple[int, int]) -> Tensor:
        """``cut_logits``: float32 (N, D, *size).

        Args:
            windows: int (N, 5) in pixels of the frames. frames: (N, 2), their (height, width); (1, 2) where all have one.
        """
        if len(frames) == 1:
            return self._cut(windows, frames[0], size)
        one = [slice(i, i + 1) for i in range(len(windows))]
        corners = [None if self.corners is None else self.corners[i] for i in one]
        return torch.cat(
            [Values(self.values[i], corner, self.grid)._cut(windows[i], frames[i][0], size) for i, corner in zip(one, corners, strict=True)]
        )

    def _cut(self, windows: Tensor, frame: NDArray[np.int64], size: tuple[int, int]) -> Tensor:
        height, width = map(int, frame)
        if self.corners is None:
            return cut_logits(self.values, windows, (height, width), size)
        # The same points seen from the part: it is a smaller frame that begins elsewhere.
        pixels = height / self.grid[0], width / self.grid[1]  # of a cell
        shifted = windows.to(self.values.device, torch.float32, copy=True)
        shifted[:, :2] -= self.corners * torch.tensor(pixels, device=self.corners.device)
        return cut_logits(self.values, shifted, (self.values.shape[-2] * pixels[0], self.values.shape[-1] * pixels[1]), size)
