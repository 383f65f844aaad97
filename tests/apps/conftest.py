"""A toy video and bundles for the programs."""

import cv2
import numpy as np
import pytest
from toy_bundle import toy_bundle


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("bundles")
    return [str(toy_bundle(folder / "brightest", 48, 64)), str(toy_bundle(folder / "darkest", 48, 64, flip=True))]


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A still picture: left blue, middle green, right red; 1500 frames at 10 per second, longer than any test."""
    path = tmp_path_factory.mktemp("video") / "fields.avi"
    frame = np.zeros((360, 480, 3), np.uint8)
    for channel in range(3):
        frame[:, channel * 160 : (channel + 1) * 160, channel] = 220
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (480, 360))
    for _ in range(1500):
        writer.write(frame)
    writer.release()
    return str(path)
