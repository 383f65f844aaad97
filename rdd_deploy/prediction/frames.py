"""The frames to predict: the images of a folder and of the folders in it, one image, or a video. Imports no torch."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from rdd_deploy.data.listing import IMAGES, list_images
from rdd_deploy.data.reader import read_image
from rdd_deploy.errors import DataError, SourceError
from rdd_deploy.live.captures import Capture, open_video
from rdd_deploy.live.sources import natural

Array = NDArray[np.uint8]


class Frame(NamedTuple):
    """One frame.

    Attributes:
        name: its file relative to the folder, with slashes; the number of a video's frame, six digits.
        stamp: what changes when the file does; empty for a video's frame.
        read: gives it, uint8 (H, W, 3) BGR. Raises DataError.
    """

    name: str
    stamp: str
    read: Callable[[], Array]

    @property
    def stem(self) -> str:
        """Where what belongs to it lies: the name without its ending."""
        return stem_of(self.name)


def stem_of(name: str) -> str:
    """A frame's name without its ending, by which masks are found."""
    return os.path.splitext(name)[0]


class Frames(Protocol):
    """What is predicted. ``read`` gives single frames again, in any order of their names, after the iteration."""

    path: Path
    kind: str
    """folder, image or video."""
    total: int | None
    stamp: str
    notes: list[str]

    def __iter__(self) -> Iterator[Frame]: ...

    def has(self, name: str, stamp: str) -> bool:
        """Whether a frame of that name and stamp is among them, as far as can be told before they are read."""

    def include(self, names: Iterable[str]) -> None:
        """Count frames that are done, whether or not ``every`` would take them now. Raises DataError."""

    def content(self, names: list[str]) -> Iterator[tuple[str, bytes]]:
        """(file name, content) of some frames as image files. Raises DataError."""

    def trouble(self) -> SourceError | None:
        """What ended the iteration before the frames did."""


class Images:
    """Image files.

    Args:
        path: a folder, or one image.
        every: only each so many-th.

    Raises:
        DataError: there are none, or two of them would have the same mask.
    """

    stamp = ""

    def __init__(self, path: Path, every: int = 1) -> None:
        self.path, self.kind, self.notes = path, "folder" if path.is_dir() else "image", []
        if path.is_dir():
            self._root = path
            found = [file.relative_to(path).as_posix() for file in self._below(path)]
            names = [name for name in found if name.isprintable()]
            if odd := [name for name in found if not name.isprintable()]:
                self.notes.append(
                    f"{len(odd)} of {len(found)} images in {path} have names that no list can hold (control characters,"
                    f" or not UTF-8), the first is {odd[0]}: left out, rename them to use them"
                )
        else:
            self._root, names = path.parent, [path.name]
        if not names:
            left_out = "".join(f"; {note}" for note in self.notes)
            raise DataError(
                f"{path} holds no images, nor do the folders in it; expected files ending in"
                f" {', '.join(IMAGES)}{left_out}"
            )
        self._stamps = {name: _stamp(self._root / name) for name in names[::every]}
        self._others = set(names) - self._stamps.keys()
        self.total: int | None = len(self._stamps)
        _check_stems(list(self._stamps), path)

    def _below(self, folder: Path) -> Iterator[Path]:
        """The images in a folder, then those in the folders in it, each in the natural order of the names."""
        listing = list_images(folder)
        listing.folders = []
        self.notes += listing.notes()
        yield from sorted(listing.paths, key=natural)
        with os.scandir(folder) as entries:
            inside = [Path(entry.path) for entry in entries if entry.is_dir() and not entry.name.startswith(".")]
        for one in sorted(inside, key=natural):
            if one.is_symlink():
                self.notes.append(f"{one} is a link to a folder: left out, name that folder itself to use it")
            else:
                yield from self._below(one)

    def __iter__(self) -> Iterator[Frame]:
        for name, stamp in self._stamps.items():
            yield Frame(name, stamp, partial(read_image, self._root / name))

    def has(self, name: str, stamp: str) -> bool:
        # New files shift which of them ``every`` takes: a frame that is done stays one of the prediction's.
        return self._stamps.get(name) == stamp or (name in self._others and _stamp(self._root / name) == stamp)

    def include(self, names: Iterable[str]) -> None:
        self._stamps |= {name: _stamp(self._root / name) for name in names if name in self._others}
        self.total = len(self._stamps)
        _check_stems(list(self._stamps), self.path)

    def content(self, names: list[str]) -> Iterator[tuple[str, bytes]]:
        for name in names:
            try:
                yield name, (self._root / name).read_bytes()
            except OSError as error:
                raise DataError(
                    f"can't read the image {self._root / name}: {error.strerror or error}; put it back"
                ) from error

    def trouble(self) -> SourceError | None:
        return None


class Video:
    """A video file's frames, by their numbers from 0.

    Args:
        path: the file.
        every: only each so many-th.

    Raises:
        SourceError: it can't be decoded.
    """

    kind = "video"

    def __init__(self, path: Path, every: int = 1) -> None:
        self.path, self.stamp = path, _stamp(path)
        self.notes: list[str] = []
        self._every = every
        self._capture: Capture = open_video(path)
        frames = self._capture.frames
        self.total = None if frames is None else -(-frames // every)
        self._capture.close()
        self._trouble: SourceError | None = None

    def __iter__(self) -> Iterator[Frame]:
        read = 0
        capture = open_video(self.path)
        try:
            while (captured := capture.read()) is not None:
                read = captured.index + 1
                if captured.index % self._every == 0:
                    pixels = np.asarray(captured.frame, np.uint8)
                    yield Frame(captured.name, "", partial(_given, pixels))
        except SourceError as error:
            self._trouble = SourceError(f"{error}; the {read} frames before it are there")
            return
        finally:
            capture.close()
        if not read:
            self._trouble = SourceError(
                f"{self.path} opens as a video, but none of its frames can be decoded; copy it again, or convert it"
                " to mp4"
            )
        elif missing := capture.short_by():
            self._trouble = SourceError(
                f"{self.path} ended after {read} of {read + missing} frames: it was cut short, is damaged, or was"
                " trimmed without being encoded again. What was read is there; copy the video again if it should be"
                " longer"
            )

    def has(self, name: str, stamp: str) -> bool:
        return name.isdecimal() and name.isascii() and int(name) % self._every == 0 and stamp == ""

    def include(self, names: Iterable[str]) -> None:
        pass

    def content(self, names: list[str]) -> Iterator[tuple[str, bytes]]:
        import cv2

        wanted = set(names)
        for frame in self:
            if frame.name in wanted:
                wanted.remove(frame.name)
                yield f"{frame.name}.png", cv2.imencode(".png", frame.read())[1].tobytes()
            if not wanted:
                return

    def trouble(self) -> SourceError | None:
        return self._trouble


def open_frames(path: Path, every: int = 1) -> Frames:
    """The frames of a folder, image or video. Raises DataError, SourceError."""
    if path.is_dir():
        return Images(path, every)
    if not path.exists():
        raise SourceError(f"there is no {path}; expected a folder of images, an image or a video file")
    if not path.is_file():
        raise SourceError(
            f"{path} is neither a file nor a folder; expected a folder of images, an image or a video file"
        )
    return Images(path) if path.suffix.lower() in IMAGES else Video(path, every)


def _given(pixels: Array) -> Array:
    return pixels


def _stamp(path: Path) -> str:
    """Size and time of change; empty for what isn't there any more, which reading it says better."""
    try:
        found = path.stat()
    except OSError:
        return ""
    return f"{found.st_size}-{found.st_mtime_ns}"


def _check_stems(names: list[str], path: Path) -> None:
    seen: dict[str, str] = {}
    for name in names:
        twin = seen.setdefault(unicodedata.normalize("NFC", stem_of(name)), name)
        if twin != name:
            raise DataError(
                f"{path}: {twin} and {name} have the same name but for the ending, so their masks would be one;"
                " rename one"
            )
