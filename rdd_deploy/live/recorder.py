"""A video file that is whole or absent, however the run ends."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import cv2
import numpy as np

from rdd_deploy.errors import DiskError, SourceError
from rdd_deploy.files import has_utf8_name
from rdd_deploy.live.shot import Array

CODECS = {".mp4": "mp4v", ".mkv": "mp4v", ".avi": "MJPG"}
RESERVE_BYTES = 64 << 20
"""OpenCV's writer is silent about a full disk: the recording is ended while the file's index still fits."""
MAX_REPEATS = 30


class Recorder:
    """Writes canvases beside ``path`` and puts the file in its place on ``close``.

    Args:
        path: .mp4, .mkv or .avi.
        fps: of the file.
        clocked: canvases come when they come (a live source) and are repeated or left out so that the file plays at the true speed.

    Raises:
        SourceError: unknown ending. DiskError: the file can't be written.
    """

    def __init__(self, path: Path, fps: float, clocked: bool) -> None:
        if path.suffix.lower() not in CODECS:
            raise SourceError(f"can't record to {path}: expected a name that ends in {', '.join(CODECS)}")
        if not has_utf8_name(path):
            raise DiskError(f"can't record to {path}: OpenCV takes no name that isn't UTF-8; choose another one")
        self.path, self._fps, self._clocked = path, fps, clocked
        self._part = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
        self._writer: cv2.VideoWriter | None = None
        self._size = (0, 0)
        self._start_s: float | None = None
        self.frames = 0
        self.full = False
        if path.is_dir():
            raise DiskError(f"can't record to {path}: it is a folder; choose another name")
        if not path.parent.is_dir():
            raise DiskError(f"can't record to {path}: there is no folder {path.parent}; make it first")
        if not os.access(path.parent, os.W_OK):
            raise DiskError(f"can't record to {path}: the folder isn't writable; choose another one")

    def write(self, canvas: Array, now_s: float) -> None:
        """Append a canvas uint8 (H, W, 3); one of another size than the first is scaled. Raises DiskError."""
        if self.full:
            return
        canvas = _even(canvas)
        if self._writer is None:
            self._open(canvas)
        assert self._writer is not None
        if (canvas.shape[1], canvas.shape[0]) != self._size:
            canvas = cv2.resize(canvas, self._size, interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
        for _ in range(self._due(now_s)):
            self._writer.write(canvas)
            self.frames += 1
        if shutil.disk_usage(self.path.parent).free < RESERVE_BYTES:
            self.full = True
            self.close()

    def pause(self) -> None:
        """The next canvas follows the last one without a gap."""
        self._start_s = None

    def close(self) -> bool:
        """Finish the file; True if there is one. May be called twice. Raises DiskError if it can't be played."""
        writer, self._writer = self._writer, None
        if writer is None:
            return False
        writer.release()
        if not self.frames or not _plays(self._part):
            self._part.unlink(missing_ok=True)
            raise DiskError(f"can't write {self.path}: the recording isn't playable, most likely because the disk is full; free some space")
        try:
            os.replace(self._part, self.path)
        except OSError as error:
            raise DiskError(
                f"can't write {self.path}: {error.strerror or error}; the recording is kept as {self._part}, move it"
            ) from error
        return True

    def _open(self, canvas: Array) -> None:
        self._size = (canvas.shape[1], canvas.shape[0])
        codec = cv2.VideoWriter.fourcc(*CODECS[self.path.suffix.lower()])
        self._writer = cv2.VideoWriter(str(self._part.absolute()), codec, self._fps, self._size)
        if not self._writer.isOpened():
            self._writer = None
            self._part.unlink(missing_ok=True)
            raise DiskError(
                f"can't record to {self.path}: OpenCV can't write it with the codec {CODECS[self.path.suffix.lower()]}; try .avi"
            )

    def _due(self, now_s: float) -> int:
        """How often this canvas belongs into the file."""
        if not self._clocked:
            return 1
        if self._start_s is None:
            self._start_s = now_s - self.frames / self._fps
        return min(MAX_REPEATS, max(0, int((now_s - self._start_s) * self._fps + 1e-6) + 1 - self.frames))


def _even(canvas: Array) -> Array:
    """With its last row and column doubled where their number is odd: OpenCV's writer would cut them off."""
    height, width = canvas.shape[:2]
    if height % 2 == width % 2 == 0:
        return canvas
    return np.asarray(cv2.copyMakeBorder(canvas, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE), np.uint8)


def _plays(path: Path) -> bool:
    capture = cv2.VideoCapture(str(path.absolute()))
    good = capture.isOpened() and capture.grab()
    capture.release()
    return bool(good)
