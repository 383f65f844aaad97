"""Where frames come from. A new kind of source is a class here or in ``captures`` and a line in ``open_source``."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from rdd_deploy.data.listing import IMAGES, headers_of, list_images, turned_notes
from rdd_deploy.data.reader import read_image
from rdd_deploy.errors import DataError, SourceError
from rdd_deploy.live.captures import open_camera, open_stream, open_video
from rdd_deploy.live.gstreamer import SCHEME, open_pipeline, title_of
from rdd_deploy.live.types import CapturedFrame
from rdd_deploy.utils.addresses import is_address, without_secrets

STREETS_FPS = 30.0


class Source(Protocol):
    """``open`` (again, after a loss), ``read`` until it gives None, ``close``. Used by one thread at a time."""

    title: str
    live: bool
    fps: float | None

    def open(self) -> None:
        """Raises SourceError."""

    def read(self) -> CapturedFrame | None:
        """The next frame, None at the end. Raises SourceError for one bad frame; the next call goes on."""

    def close(self) -> None:
        """May be called twice, and before ``open``."""


class Folder:
    """The images of a folder in the natural order of their names."""

    live = False
    fps: float | None = None

    def __init__(self, folder: Path) -> None:
        self.title = folder.name or str(folder)
        listing = list_images(folder)
        self.paths = sorted(listing.paths, key=natural)
        left_out = listing.notes()
        if not self.paths:
            notes = "".join(f"; {note}" for note in left_out)
            raise SourceError(f"{folder} holds no images; expected files that end in {', '.join(IMAGES)}{notes}")
        self.headers = headers_of(self.paths)
        self.notes = [*left_out, *turned_notes(str(folder), self.paths, self.headers)]
        self._index = 0

    def open(self) -> None:
        self._index = 0

    def read(self) -> CapturedFrame | None:
        if self._index >= len(self.paths):
            return None
        index, self._index = self._index, self._index + 1
        started = time.perf_counter()
        path = self.paths[index]
        try:
            frame = read_image(path)
        except DataError as error:
            raise SourceError(str(error)) from error
        return CapturedFrame(frame, index, path.stem, started, (time.perf_counter() - started) * 1e3)

    def close(self) -> None:
        pass


class Streets:
    """The procedural street. With ``live`` its time is the clock's, otherwise every frame is drawn."""

    fps: float | None = STREETS_FPS

    def __init__(self, size: tuple[int, int], live: bool, seed: int = 0) -> None:
        from rdd_deploy.data.streets.dataset import StreetVideo

        self.title, self.live = "streets", live
        self._video = StreetVideo(height=size[1], width=size[0], seed=seed, fps=STREETS_FPS)
        self.classes: tuple[str, ...] = self._video.label_space.classes
        self._index = -1
        self._started = 0.0

    def open(self) -> None:
        self._started = time.perf_counter()

    def read(self) -> CapturedFrame | None:
        self._index += 1
        if self.live:
            self._index = max(self._index, int((time.perf_counter() - self._started) * STREETS_FPS))
            time.sleep(max(0.0, self._started + self._index / STREETS_FPS - time.perf_counter()))
        started = time.perf_counter()
        frame, truth = self._video.render(self._index)
        done = time.perf_counter()
        # What a camera takes to expose isn't its frame's age either.
        return CapturedFrame(
            frame, self._index, f"{self._index:06d}", done if self.live else started, (done - started) * 1e3, truth
        )

    def close(self) -> None:
        pass


def open_source(
    source: str | None,
    camera: int | None,
    size: tuple[int, int] | None,
    *,
    fps: float | None = None,
    streets_live: bool,
    info: Callable[[str], None],
) -> Source:
    """Open what was asked for, or the first camera, or the streets.

    Args:
        source: file, URL, folder, device file of a camera, ``gst:PIPELINE``, or ``streets``.
        camera: camera index; excludes ``source``.
        size: (width, height) asked of a camera or the streets.
        fps: rate asked of a camera.
        streets_live: the streets follow the clock.
        info: called with a sentence where the choice was ours.

    Raises:
        SourceError: it can't be read.
    """
    if source is not None and camera is not None:
        raise SourceError(f"got --camera {camera} and --source {_shown(source)}; give one of them")
    if camera is not None:
        return open_camera(camera, size, fps)
    if source is None:
        return _default(size, fps, streets_live, info)
    path = Path(source)
    if source and not source.startswith(SCHEME) and _is_device(path):
        return open_camera(path, size, fps)
    if fps is not None:
        raise SourceError(f"--fps is for a camera; {_shown(source)} has its own rate, leave the option out")
    if source == "streets":
        return _streets(size, streets_live)
    if not source:
        raise SourceError(
            "got an empty --source; expected a video file, a folder of images, an rtsp:// or http:// address, or"
            " 'streets'"
        )
    if size is not None:
        raise SourceError(
            f"--size is for a camera or the streets; {_shown(source)} has its own size, leave the option out"
        )
    if source.startswith(SCHEME):
        return open_pipeline(source)
    if re.match(r"[a-z][a-z0-9+.-]*://", source, re.IGNORECASE):
        return open_stream(source)
    if path.is_dir():
        folder = Folder(path)
        for note in folder.notes:
            info(note)
        return folder
    if not path.exists():
        hint = f"; for a camera: --camera {source}" if source.isdecimal() else ""
        if is_address(source):
            hint = "; the address of a stream begins like rtsp:// or http://"
        raise SourceError(
            f"there is no {without_secrets(source)}; expected a video file, a folder of images, an rtsp:// or http://"
            f" address, or 'streets'{hint}"
        )
    if not path.is_file():  # a pipe would hold OpenCV, and with it this process, until somebody writes
        raise SourceError(
            f"{path} is neither a file nor a folder; expected a video file, a folder of images, or an rtsp:// or"
            " http:// address"
        )
    return open_video(path)


def _is_device(path: Path) -> bool:
    """Whether a camera is meant: a device file, also by a link, or a name in /dev where nothing is, like that of an
    unplugged camera.
    """
    return path.is_char_device() or (path.parts[:2] == ("/", "dev") and not path.exists())


def _shown(source: str) -> str:
    return title_of(source) if source.startswith(SCHEME) else without_secrets(source)


def _default(
    size: tuple[int, int] | None, fps: float | None, streets_live: bool, info: Callable[[str], None]
) -> Source:
    reason = "no camera found"
    if not sys.platform.startswith("linux") or list(Path("/dev").glob("video*")):
        try:
            return open_camera(0, size, fps)
        except SourceError as error:
            reason = str(error)
    info(f"{reason}: showing the procedural streets (choose with --camera or --source)")
    return _streets(size, streets_live)


def _streets(size: tuple[int, int] | None, live: bool) -> Streets:
    streets = Streets(size or (480, 360), live)
    streets.open()
    return streets


def natural(path: Path) -> list[tuple[int, int, str]]:
    """Sort key: frame2 before frame10."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", path.name) if part]
