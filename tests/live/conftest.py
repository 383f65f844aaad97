import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "runtime")]  # cameras and toy_bundle

from toy_bundle import toy_bundle  # noqa: E402


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two toy bundles of other sizes: the brightest channel, and the darkest."""
    folder = tmp_path_factory.mktemp("bundles")
    return toy_bundle(folder / "brightest", 48, 64), toy_bundle(folder / "darkest", 24, 32, flip=True)


def picture(index: int, height: int = 48, width: int = 64) -> np.ndarray:
    """Three colour fields that move with the index; survives compression."""
    frame = np.zeros((height, width, 3), np.uint8)
    for channel in range(3):
        frame[:, channel * width // 3 : (channel + 1) * width // 3, channel] = 220
    return np.roll(frame, index, 1)


@pytest.fixture(scope="session")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 frames of 64×48 at 25 per second."""
    path = tmp_path_factory.mktemp("video") / "drive.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 25, (64, 48))
    for index in range(40):
        writer.write(picture(index))
    writer.release()
    return path


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve images, named so that plain sorting would mix them up."""
    path = tmp_path_factory.mktemp("images")
    for index in range(12):
        cv2.imwrite(str(path / f"frame{index}.png"), picture(index))
    return path


@pytest.fixture(autouse=True)
def no_thread_left() -> Iterator[None]:
    yield
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith(("grabber", "inference"))]
