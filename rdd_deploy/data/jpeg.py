"""JPEG files: their segments, and damaged ones, which OpenCV decodes all the same.

Its decoder only complains, on standard error and without the file's path.
"""

from __future__ import annotations

import os
import re
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, NamedTuple

import cv2
import numpy as np

from rdd_deploy.errors import DataError

_COMPLAINT = re.compile(rb"^(?:Corrupt JPEG data|Premature end of JPEG file).*\n?", re.MULTILINE)
_LEFT_OVER = re.compile(rb"Corrupt JPEG data: (\d+) extraneous bytes before marker 0xd9")
_one_at_a_time = threading.RLock()

_SOI, _EOI, _APP1, _APP14 = 0xD8, 0xD9, 0xE1, 0xEE
_FRAMES = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""Markers of a frame header; the three between mean something else."""
_MARKER = re.compile(rb"\xff[\x02-\xcf\xd8-\xfe]")
"""One that counts: among pixels FF stands before 00, before a restart (D0 to D7) or before another FF."""


class Head(NamedTuple):
    """What stands before the pixels. ``adobe``: the marker by which programs say that a CMYK picture is stored inverted."""

    height: int
    width: int
    components: int
    exif: bytes
    adobe: bool


def head(read: Callable[[int, int], bytes]) -> Head | None:
    """The header of a JPEG, None where its segments don't lead to one.

    Args:
        read: (offset, count) -> so many bytes of the file.
    """
    exif, adobe, offset = b"", False, 2
    while len(start := read(offset, 10)) == 10 and start[0] == 0xFF:
        marker, length = start[1], int.from_bytes(start[2:4], "big")
        if marker in (0xFF, _SOI):  # filler; a second start
            offset += 1 if marker == 0xFF else 2
            continue
        if marker in _FRAMES:
            return Head(int.from_bytes(start[5:7], "big"), int.from_bytes(start[7:9], "big"), start[9], exif, adobe)
        if marker == _APP1 and not exif and start[4:10] == b"Exif\0\0":
            exif = read(offset + 10, length - 8)
        adobe = adobe or (marker == _APP14 and start[4:9] == b"Adobe")
        offset += 2 + length
    return None


def end(data: bytes) -> int | None:
    """Where the picture ends, after its end marker; None where that is missing.

    The segments are walked, as an EXIF block may hold a thumbnail with an end marker of its own, and anything may follow the picture: a
    clip, a second picture, the camera's notes.
    """
    offset = 2
    while found := _MARKER.search(data, offset):
        marker, offset = data[found.end() - 1], found.end()
        if marker == _EOI:
            return offset
        if marker != _SOI:
            offset += int.from_bytes(data[offset : offset + 2], "big")
    return None


def _scratch() -> IO[bytes]:
    """An unnamed file; in memory where the system has that, as the temporary folder may be read-only or full."""
    try:
        return os.fdopen(os.memfd_create("complaints"), "w+b")
    except (AttributeError, OSError):  # not Linux, or forbidden
        return tempfile.TemporaryFile()


@contextmanager
def complaints() -> Iterator[list[str]]:
    """Collect what libjpeg says on file descriptor 2 inside the block, from any thread; the list is filled at its end.

    Whatever else is written there in the meantime is passed on. Where descriptor 2 is closed nothing can be heard.
    """
    heard: list[str] = []
    with _one_at_a_time, _scratch() as file:
        try:
            own = os.dup(2)
        except OSError:
            own = -1
        if own < 0 or file.fileno() == 2:
            yield heard
            return
        os.dup2(file.fileno(), 2)
        try:
            yield heard
        finally:
            os.dup2(own, 2)
            file.seek(0)
            said = file.read()
            heard += [line.decode(errors="replace").strip() for line in _COMPLAINT.findall(said)]
            with suppress(OSError):  # a closed pipe is no reason to stop
                os.write(own, _COMPLAINT.sub(b"", said))
            os.close(own)


@contextmanager
def sound(paths: Sequence[Path]) -> Iterator[None]:
    """Read files inside; where the decoder complained of any, those given are read again, one by one, to find it.

    Raises:
        DataError: naming the first that is damaged.
    """
    with complaints() as heard:
        yield
    if heard and (damaged := first_damaged(paths)):
        raise DataError(f"can't read the image {damaged[0]}: the file is damaged ({damaged[1]}); copy it again, or remove it and its mask")


def first_damaged(paths: Sequence[Path]) -> tuple[Path, str] | None:
    """The first of these files that is a JPEG and damaged, with what the decoder says of it."""
    for path in paths:
        with path.open("rb") as file:
            if file.read(2) != b"\xff\xd8":
                continue
        with complaints() as heard:
            cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)
        if told := [line for line in heard if not _padding(path, line)]:
            return path, told[0]
    return None


def _padding(path: Path, complaint: str) -> bool:
    """Whether the decoder only found bytes too many at the end, and these are all alike: some cameras fill up their files.

    Other left-over bytes are the picture's own: the decoder lost its way at the damage, and had made all pixels before the data ended.
    """
    if not (match := _LEFT_OVER.fullmatch(complaint.encode())):
        return False
    content = path.read_bytes()
    last = (end(content) or 0) - 2
    return len(set(content[max(0, last - int(match[1])) : last])) <= 1
