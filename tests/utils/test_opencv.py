"""OpenCV 4 and 5 are silenced alike."""

from types import SimpleNamespace

import cv2
import pytest

from rdd_deploy.utils.opencv import silence_opencv


def test_both_ways_of_saying_it(monkeypatch: pytest.MonkeyPatch) -> None:
    levels: list[int] = []
    monkeypatch.setattr(cv2, "utils", SimpleNamespace())
    monkeypatch.setattr(cv2, "setLogLevel", levels.append, raising=False)
    silence_opencv()
    logging = SimpleNamespace(setLogLevel=levels.append, LOG_LEVEL_SILENT=7)
    monkeypatch.setattr(cv2, "utils", SimpleNamespace(logging=logging))
    silence_opencv()
    assert levels == [0, 7]
