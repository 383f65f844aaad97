"""Sources that OpenCV reads: cameras, video files, streams."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import cv2

from rdd_deploy import console
from rdd_deploy.errors import SourceError
from rdd_deploy.live.options import MAX_CAMERAS
from rdd_deploy.live.types import CapturedFrame
from rdd_deploy.utils.addresses import without_secrets
from rdd_deploy.utils.files import has_utf8_name
from rdd_deploy.utils.opencv import silence_opencv

OPEN_TIMEOUT_MS = 5000
READ_TIMEOUT_MS = 3000
"""A stream that is silent for so long counts as lost and is opened again."""

MAX_FPS = 1000
"""Highest rate that is believed; streams without one report more."""

MAX_EVEN_FPS, MAX_MULTIPLE, SCANNED = 60.0, 64, 600
"""A recording's rate at most, where its source's frames come at odd times; so many times the source's own; found by so many frames."""

LIVE_OPTIONS = "rtsp_transport;tcp|fflags;nobuffer|flags;low_delay"
"""For FFmpeg: frames that it read to find out the format are thrown away, not shown late. A file would lose its first one."""

SAME_FPS = 0.02
"""Rates that differ by no more are the same: 29.97 is what a camera calls 30."""

SMALL = 640 * 480
"""Most pixels of a frame that FFmpeg decodes with one thread: for small frames several threads take more from inference than they gain."""

# Read at the first capture; its chatter says less than our sentences.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")


@dataclass(frozen=True)
class Asked:
    """What a camera is asked for: (width, height), frames per second; None leaves it to the camera."""

    size: tuple[int, int] | None = None
    fps: float | None = None

    def difference(self, title: str, size: tuple[int, int], fps: float | None) -> str:
        """A sentence about what was obtained where it is something else, or empty."""
        wanted, given = [], []
        if self.size is not None and size != self.size:
            wanted.append(f"{self.size[0]}x{self.size[1]}")
            given.append(f"{size[0]}x{size[1]}")
        if self.fps is not None and (fps is None or abs(fps - self.fps) > SAME_FPS * self.fps):
            wanted.append(f"{self.fps:g} frames per second")
            given.append(f"{fps:g} frames per second" if fps is not None else "an unknown rate")
        return f"asked {title} for {' at '.join(wanted)}, it gives {' at '.join(given)}" if wanted else ""


class Capture:
    """A ``cv2.VideoCapture`` as a source.

    Attributes:
        title: as shown and recorded; holds no password.
        live: the newest frame wins, and a loss is followed by a reconnection.
        fps: the source's own rate, None if it doesn't say.
        asked: what it was asked for; each opening compares it with what it says it gives, and tells a difference once.
    """

    def __init__(
        self, title: str, live: bool, opener: Callable[[], Any], failure: str, asked: Asked | None = None
    ) -> None:
        self.title, self.live = title, live
        self.asked = asked or Asked()
        self._told = ""
        self.fps: float | None = None
        self.frames: int | None = None
        self._opener, self._failure = opener, failure
        self._capture: Any = None
        self._index = 0
        self._at_s: float | None = None

    def open(self) -> None:
        """Raises SourceError if the source can't be opened."""
        self.close()
        silence_opencv()
        capture = self._opener()
        if not capture.isOpened():
            capture.release()
            raise SourceError(self._failure)
        self._capture = capture
        fps, frames = capture.get(cv2.CAP_PROP_FPS), capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self.fps = fps if 0 < fps <= MAX_FPS else None
        self.frames = int(frames) if frames > 0 else None
        if (told := self.asked.difference(self.title, self.size(), self.fps)) != self._told:
            self._told = told
            if told:
                console.warn(told)

    def read(self) -> CapturedFrame | None:
        """The next frame; None at the end of a file or when the connection is lost."""
        started = time.perf_counter()
        if self._capture is None or not self._capture.grab():
            return None
        grabbed = time.perf_counter()
        good, frame = self._capture.retrieve()
        if not good:
            raise SourceError(f"frame {self._index} of {self.title} can't be decoded")
        index, self._index = self._index, self._index + 1
        at_ms = -1.0 if self.live else self._capture.get(cv2.CAP_PROP_POS_MSEC)
        self._at_s = at_ms / 1e3 if at_ms >= 0 else None
        capture_ms = (time.perf_counter() - started) * 1e3
        return CapturedFrame(
            frame, index, f"{index:06d}", grabbed if self.live else started, capture_ms, at_s=self._at_s
        )

    def close(self) -> None:
        """May be called twice."""
        capture, self._capture = self._capture, None
        if capture is not None:
            capture.release()

    def size(self) -> tuple[int, int]:
        """Width and height as the source says; (0, 0) while it is closed."""
        capture = self._capture
        return (
            (int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)), int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT)))
            if capture is not None
            else (0, 0)
        )

    def short_by(self) -> int:
        """So many frames fewer than the file promises were read; a tenth is no loss, as containers estimate.

        Most take their length for it, times the rate. Where frames come at odd times that is no promise of how many
        there are.
        """
        missing = (self.frames or 0) - self._index
        if self.live or missing <= (self.frames or 0) / 10:
            return 0
        reached = self._at_s * self.fps / (self.frames or 1) if self._at_s is not None and self.fps else 0.0
        return missing if reached < 0.9 else 0

    def even_fps(self) -> float | None:
        """The rate at which a file of constant rate has room for every frame at its own time: a multiple of the
        source's own rate.

        Found by the first frames' time stamps, without decoding them.
        """
        if self.live or self.fps is None:
            return self.fps
        times = self._time_stamps()
        rates = [
            self.fps * times_faster
            for times_faster in range(1, max(1, min(MAX_MULTIPLE, int(MAX_EVEN_FPS / self.fps))) + 1)
        ]
        return next(
            (rate for rate in rates if len({round((at - times[0]) * rate) for at in times}) == len(times)), rates[-1]
        )

    def _time_stamps(self) -> list[float]:
        """Of the first packets, sorted, in seconds."""
        packets: Any = self._opener()
        found: set[float] = set()
        if packets.isOpened() and packets.set(cv2.CAP_PROP_FORMAT, -1):
            for _ in range(SCANNED):
                if not packets.grab():
                    break
                found.add(packets.get(cv2.CAP_PROP_POS_MSEC) / 1e3)
        packets.release()
        return sorted(found)


def open_camera(camera: int | Path, size: tuple[int, int] | None, fps: float | None = None) -> Capture:
    """A camera by its number or its device file, asked for (width, height) and a rate. Raises SourceError."""
    if isinstance(camera, int) and not 0 <= camera < MAX_CAMERAS:
        raise SourceError(f"got camera {camera}, expected a number from 0 to {MAX_CAMERAS - 1}; 0 is the first camera")

    def opener() -> Any:
        device = cv2.VideoCapture(*_device(camera))
        if size and device.isOpened():
            device.set(cv2.CAP_PROP_FRAME_WIDTH, size[0])
            device.set(cv2.CAP_PROP_FRAME_HEIGHT, size[1])
        if fps and device.isOpened():
            device.set(cv2.CAP_PROP_FPS, fps)  # behind the size, which sets a rate of its own
        device.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # ignored by several back ends, which is why the grabber drains
        return device

    found = ", ".join(str(path) for path in sorted(Path("/dev").glob("video*"))) or "none"
    title = f"camera {camera}"
    if isinstance(camera, Path) and not has_utf8_name(camera):
        raise SourceError(f"can't read the {title}: OpenCV takes no name that isn't UTF-8; rename it")
    failure = (
        f"there is no {title} (devices found: {found}); plug it in, close the program that uses it, or pass --source"
    )
    capture = Capture(title, True, opener, failure, Asked(size, fps))
    capture.open()
    return capture


def _device(camera: int | Path) -> tuple[Any, ...]:
    """What OpenCV opens. A link of /dev/v4l/by-id is followed again each time: a camera that was unplugged may come
    back under another number.
    """
    if isinstance(camera, int):
        return (camera,)
    if numbered := re.fullmatch(r"/dev/video(\d{1,3})", os.path.realpath(camera)):
        return (int(numbered[1]),)
    return (str(camera.absolute()), cv2.CAP_V4L2)  # under another name, as containers are given them


def open_video(path: Path) -> Capture:
    """A video file, played whole. Raises SourceError."""

    name = str(path.absolute())  # FFmpeg would take what stands before a colon for a protocol

    def opener() -> Any:
        video = cv2.VideoCapture(name)
        width, height = video.get(cv2.CAP_PROP_FRAME_WIDTH), video.get(cv2.CAP_PROP_FRAME_HEIGHT)
        if not path.is_file() or not 0 < width * height <= SMALL:
            return video
        alone = cv2.VideoCapture(name, cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
        return alone if alone.isOpened() else video

    if not has_utf8_name(path):
        raise SourceError(f"can't read the video {path}: OpenCV takes no name that isn't UTF-8; rename it")
    failure = f"can't read the video {path}: it is damaged or of a format that OpenCV doesn't decode; convert it to mp4"
    capture = Capture(path.name, False, opener, failure)
    capture.open()
    return capture


def open_stream(url: str) -> Capture:
    """An RTSP or HTTP stream. One of known length is played whole, like a file. Raises SourceError."""

    def opener() -> Any:
        with _environment("OPENCV_FFMPEG_CAPTURE_OPTIONS", LIVE_OPTIONS):
            return cv2.VideoCapture(url, cv2.CAP_FFMPEG, options)

    if not has_utf8_name(Path(url)):
        raise SourceError("the stream's address holds characters that aren't UTF-8; write them as %XX")
    try:
        urlsplit(url)
    except ValueError:  # its message may hold the password, too
        raise SourceError(
            "the stream's address isn't a valid URL; expected one like rtsp://user:password@10.0.0.7/stream1, with"
            " special characters as %XX"
        ) from None
    title = without_secrets(url)
    options = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, OPEN_TIMEOUT_MS, cv2.CAP_PROP_READ_TIMEOUT_MSEC, READ_TIMEOUT_MS]
    failure = (
        f"can't open the stream {title}: no answer within {OPEN_TIMEOUT_MS // 1000} s, or not a video; check the"
        " address and the network"
    )
    capture = Capture(title, True, opener, failure)
    capture.open()
    if capture.frames is None:
        return capture
    capture.close()
    capture = Capture(title, False, lambda: cv2.VideoCapture(url, cv2.CAP_FFMPEG, options), failure)
    capture.open()
    return capture


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    """Set a variable that the user hasn't; OpenCV reads it at every opening and has no other way in."""
    if name in os.environ:
        yield
        return
    os.environ[name] = value
    try:
        yield
    finally:
        del os.environ[name]
