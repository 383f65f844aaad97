"""Toy data for the toy bundles, as a folder data set."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from toy_bundle import truth


def make_toy_data(root: Path) -> Path:
    """Twelve frames of 60×80 whose truth is what the toy network answers, but for some errors and some void. Returns
    the root.
    """
    generator = np.random.default_rng(5)
    for part in ("val", "valannot"):
        (root / part).mkdir()
    for index in range(12):
        frame = cv2.resize(generator.integers(0, 256, (6, 8, 3), np.uint8), (80, 60), interpolation=cv2.INTER_NEAREST)
        labels = truth(frame)
        labels[:8, : 6 * index + 1] = (labels[:8, : 6 * index + 1] + 1) % 3
        labels[-4:] = 255
        cv2.imwrite(str(root / "val" / f"{index:03d}.png"), frame)
        cv2.imwrite(str(root / "valannot" / f"{index:03d}.png"), labels)
    return root
