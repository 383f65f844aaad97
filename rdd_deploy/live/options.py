"""The live app's options, as the command line fills them in."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from rdd_deploy.errors import RddError

MAX_ASKED_FPS = 1000.0
MAX_CAMERAS = 1000
"""OpenCV takes the hundreds beyond for the choice of a back end, and crashes below 0."""


@dataclass(frozen=True)
class LiveOptions:
    """The command line, parsed; see ``rdd-deploy live --help``."""

    bundles: tuple[Path, ...] = ()
    newest: Path | None = None
    """A folder of bundles, whose newest is shown, also when it comes later; excludes ``bundles``."""
    source: str | None = None
    camera: int | None = None
    size: tuple[int, int] | None = None
    fps: float | None = None
    """Asked of a camera."""
    labels: Path | None = None
    data_void: tuple[int, ...] = ()
    show: str | None = None
    """A name of ``sinks.SCREENS``; None is the window, or none of them if ``headless`` or ``serve``."""
    headless: bool = False
    serve: str | None = None
    """[HOST:]PORT of the web view, beside whatever ``show`` says."""
    token: str | None = field(default=None, repr=False)
    token_file: Path | None = None
    realtime: bool = False
    split: bool = False
    opacity: float = 0.5
    stats: Path | None = None
    record: Path | None = None
    save_to: Path = Path("saved")
    max_frames: int | None = None
    device: str = "auto"
    provider: str | None = None
    threads: int | None = None


def parse_size(text: str) -> tuple[int, int]:
    """'640x480' -> (640, 480), width first. Raises RddError."""
    match = re.fullmatch(r"(\d{2,4})x(\d{2,4})", text.lower())
    width, height = (int(side) for side in match.groups()) if match else (0, 0)
    if not (32 <= width <= 8192 and 32 <= height <= 8192):
        raise RddError(f"got the size '{text}', expected WIDTHxHEIGHT from 32x32 to 8192x8192, like 640x480")
    return width, height
