"""Pictures where people would rather look: frame, truth, student, teacher and difficulty side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from rdd_deploy import files
from rdd_deploy.data.base import IGNORE, Frame, Labels, Task
from rdd_deploy.frames import resize_frame


def coloured(labels: Labels, task: Task) -> Frame:
    """Label map (H, W) -> RGB (H, W, 3); void is black."""
    table = np.zeros((256, 3), np.uint8)
    table[: len(task)] = task.palette
    table[IGNORE] = 0
    return table[labels]


def heat(weight: NDArray[np.float32]) -> Frame:
    """Weights (H, W) in [0, 1] -> RGB; bright counts most."""
    return np.asarray(cv2.cvtColor(cv2.applyColorMap((255 * weight.clip(0, 1)).astype(np.uint8), cv2.COLORMAP_VIRIDIS), cv2.COLOR_BGR2RGB), np.uint8)


def titled(picture: Frame, title: str) -> Frame:
    """The picture under a strip with its title."""
    strip = np.full((22, picture.shape[1], 3), 255, np.uint8)
    cv2.putText(strip, title, (4, 16), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (0, 0, 0), 1, cv2.LINE_AA)
    return np.concatenate([strip, picture])


def write_rows(path: Path, rows: Sequence[Sequence[tuple[str, Frame]]], size: tuple[int, int]) -> None:
    """Write titled pictures (RGB) as a grid, each at (height, width), to a PNG."""
    grid = np.concatenate([np.concatenate([titled(resize_frame(picture, size), title) for title, picture in row], 1) for row in rows])
    done, encoded = cv2.imencode(".png", cv2.cvtColor(grid, cv2.COLOR_RGB2BGR))
    if not done:
        raise RuntimeError("OpenCV can't encode PNG")
    files.write_bytes(path, encoded.tobytes())
