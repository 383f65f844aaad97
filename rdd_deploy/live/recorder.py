"""A video file that is whole or absent, however the run ends."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import time
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np

from rdd_deploy import console
from rdd_deploy.errors import DiskError, SourceError
from rdd_deploy.live.types import Array
from rdd_deploy.utils import files

try:
    import fcntl
except ImportError:  # Windows, where nothing is locked and nothing swept
    fcntl = None  # type: ignore[assignment]

CODECS = {".mp4": "mp4v", ".mkv": "mp4v", ".avi": "MJPG"}
RESERVE_BYTES = 64 << 20
"""OpenCV's writer is silent about a full disk: the recording is ended while the file's index still fits."""
MAX_GAP_S = 60.0
"""A longer one is a break in the times, or hours in which a camera saw nothing: no recording is filled up with it."""
AHEAD_S = 0.1
"""A file's frame that comes sooner than the recording's rate has room for is written nonetheless while the recording is ahead by less."""
_PART = re.compile(r"\..*?\.(\d+)(\.[0-9a-f]{16})?\.part\.(mp4|mkv|avi)", re.IGNORECASE | re.DOTALL)


class Recorder:
    """Writes canvases beside ``path`` and puts the file in its place on ``close``. What killed recordings left in that
    folder is removed.

    Args:
        path: .mp4, .mkv or .avi.
        fps: of the file.
        clocked: canvases come when they come (a live source) and are repeated or left out so that the file plays at the
            true speed. Otherwise their own times in the source are kept in the same way, and a canvas without a time
            follows the one before.

    Raises:
        SourceError: unknown ending. DiskError: the file can't be written.
    """

    def __init__(self, path: Path, fps: float, clocked: bool) -> None:
        suffix = path.suffix
        if suffix.lower() not in CODECS:
            raise SourceError(f"can't record to {path}: expected a name that ends in {', '.join(CODECS)}")
        path = files.behind_link(path)
        if not files.has_utf8_name(path):
            raise DiskError(f"can't record to {path}: OpenCV takes no name that isn't UTF-8; choose another one")
        self.path, self._fps, self.clocked = path, fps, clocked
        self._part = path.with_name(f".{path.stem[:40]}.{os.getpid()}.{secrets.token_hex(8)}.part{suffix}")
        self._lock = -1
        self._writer: cv2.VideoWriter | None = None
        self._size = (0, 0)
        self._start_s: float | None = None
        self._last_s = 0.0
        self._held: Array | None = None
        self.frames = 0
        self.full = False
        if path.is_dir():
            raise DiskError(f"can't record to {path}: it is a folder; choose another name")
        if path.exists() and not path.is_file():
            raise DiskError(
                f"can't record to {path}: it is a device or pipe, and a recording is no stream; choose another name"
            )
        if not path.parent.is_dir():
            raise DiskError(f"can't record to {path}: there is no folder {path.parent}; make it first")
        if not os.access(path.parent, os.W_OK):
            raise DiskError(f"can't record to {path}: the folder isn't writable; choose another one")
        remove_parts(path.parent)

    def show(self, canvas: Array, at_s: float | None) -> None:
        """Append a canvas by the clock where the recorder is clocked, else by its own time. Raises DiskError."""
        self.write(canvas, time.perf_counter() if self.clocked else at_s)

    def write(self, canvas: Array, at_s: float | None) -> None:
        """Append a canvas uint8 (H, W, 3); one of another size than the first is scaled. Raises DiskError.

        Args:
            at_s: in seconds what the clock says where the recorder is clocked, else when it was in the source, None
                where that doesn't know.
        """
        if self.full:
            return
        canvas = _even(canvas)
        if self._writer is None:
            self._open(canvas)
        if (canvas.shape[1], canvas.shape[0]) != self._size:
            canvas = cv2.resize(canvas, self._size, interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
        due = 1 if at_s is None else self._due(at_s)
        for number in range(due):  # until its own time the one before was to be seen
            self._put(canvas if number == due - 1 or self._held is None else self._held)
        if self._held is None:
            self._held = np.empty_like(canvas)
        np.copyto(self._held, canvas)

    def _put(self, canvas: Array) -> None:
        if self._writer is None:
            return
        self._writer.write(canvas)
        self.frames += 1
        if shutil.disk_usage(self.path.parent).free < RESERVE_BYTES:
            self.full = True
            self.close()
            console.warn(f"the disk is almost full: {self.path} ends here, at frame {self.frames}")

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
            self._discard()
            raise DiskError(
                f"can't write {self.path}: the recording isn't playable, most likely because the disk is full; free"
                " some space"
            )
        try:
            os.replace(self._part, self.path)
        except OSError as error:
            raise DiskError(
                f"can't write {self.path}: {error.strerror or error}; the recording is kept as {self._kept()}, move it"
            ) from error
        finally:
            self._unlock()
        return True

    def _kept(self) -> Path:
        """The finished recording, under a name that isn't swept."""
        kept = self.path.with_name(self._part.name.replace(".part.", ".", 1))
        with suppress(OSError):
            os.replace(self._part, kept)
        return kept if kept.exists() else self._part

    def _discard(self) -> None:
        self._part.unlink(missing_ok=True)
        self._unlock()

    def _unlock(self) -> None:
        lock, self._lock = self._lock, -1
        if lock >= 0:
            os.close(lock)

    def _open(self, canvas: Array) -> None:
        self._size = (canvas.shape[1], canvas.shape[0])
        codec = CODECS[self._part.suffix.lower()]
        try:
            self._lock = os.open(self._part, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0), 0o666)
            if fcntl is not None:
                with suppress(OSError):  # a file system that knows no locks
                    fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise DiskError(
                f"can't record to {self.path}: {error.strerror or error}; choose another folder or name"
            ) from error
        self._writer = cv2.VideoWriter(
            str(self._part.absolute()), cv2.VideoWriter.fourcc(*codec), self._fps, self._size
        )
        if not self._writer.isOpened():
            self._writer = None
            self._discard()
            raise DiskError(f"can't record to {self.path}: OpenCV can't write it with the codec {codec}; try .avi")

    def _due(self, at_s: float) -> int:
        """How many frames bring the file to this time."""
        gap, self._last_s = at_s - self._last_s, at_s
        if self._start_s is not None and gap > MAX_GAP_S:
            console.warn(
                f"{self.path}: nothing for {gap:.0f} s at frame {self.frames}; the recording goes on without that gap"
            )
        if self._start_s is None or gap > MAX_GAP_S or (gap <= 0 and not self.clocked):
            self._start_s = at_s - self.frames / self._fps
        due = round((at_s - self._start_s) * self._fps) + 1 - self.frames
        if due > 0:
            return due
        return 0 if self.clocked else int(-due / self._fps < AHEAD_S)


def remove_parts(folder: Path) -> None:
    """Remove what killed recordings left half-written in a folder. One that goes on holds a lock on its file, in
    whatever container.
    """
    if fcntl is None:
        return
    for part in folder.glob(".*.part.*"):
        match = _PART.fullmatch(part.name)
        if match and (match[2] or not files.runs(int(match[1]))):
            with suppress(OSError):  # it is locked, or somebody else's
                file = os.open(part, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    part.unlink()
                finally:
                    os.close(file)


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
