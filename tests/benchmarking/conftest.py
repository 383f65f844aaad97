import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "runtime")]  # made_up and toy_bundle

from toy_bundle import CLASSES, PALETTE, truth  # noqa: E402

from rdd_deploy.data.base import Task  # noqa: E402
from rdd_deploy.data.folder import open_folder  # noqa: E402

TASK = Task(CLASSES, PALETTE)


@pytest.fixture(scope="session")
def toy_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve frames of 60×80 in a folder data set whose truth is what the toy network answers, but for some void and some errors."""
    root = tmp_path_factory.mktemp("toy_data")
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


@pytest.fixture()
def toy_split(toy_data: Path):
    return open_folder(toy_data, "val", CLASSES, PALETTE)


@pytest.fixture()
def one_cold_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rdd_deploy.benchmarking.cold.RUNS", 1)
