"""Runs the live app in this process, headless, for tests of it."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from rdd_deploy.live.app import live
from rdd_deploy.live.options import LiveOptions


def run(tmp_path: Path, *bundles: Path, **options: Any) -> dict[str, Any]:
    stats = tmp_path / "stats.json"
    assert live(LiveOptions(bundles=bundles, headless=True, stats=stats, **options)) == 0
    record: dict[str, Any] = json.loads(stats.read_text())
    return record


def count(path: Path) -> int:
    capture, frames = cv2.VideoCapture(str(path)), 0
    while capture.grab():
        frames += 1
    return frames


class Screen:
    """Headless, but keys are pressed at given frames and pictures are wanted."""

    visible = True
    script: dict[int, str] = {}  # noqa: RUF012
    shown: list[np.ndarray] = []  # noqa: RUF012

    def __init__(self, options: LiveOptions) -> None:
        self.keys: list[str] = []
        Screen.shown = []

    def show(self, canvas: np.ndarray, at_s: float | None) -> None:
        Screen.shown.append(canvas.copy())
        self.keys += Screen.script.get(len(Screen.shown), "")

    @staticmethod
    def check() -> None:
        pass

    def key(self) -> str | None:
        return self.keys.pop(0) if self.keys else None

    def close(self) -> None:
        pass
