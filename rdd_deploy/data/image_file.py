"""Image files before they are decoded: their bytes, what their headers promise, and whether they are whole by their own
checksums.
"""

from __future__ import annotations

import io
import os
import stat
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

MOST_PIXELS = 89_478_485
"""Of one image; Pillow's own limit, so that every kind of file has the same."""
MOST_BYTES = 2**30
DAMAGED = "not an image that OpenCV can decode, or the file is damaged"
NO_PILLOW = (
    "BMP, TIFF and PPM files are read with the package 'pillow', which isn't installed: pip install pillow, or save it"
    " as PNG"
)
CUT_SHORT = "the file is cut short; copy it again, or remove it"

Read = Callable[[int, int], bytes]
"""(offset, count) -> so many bytes of the file, fewer at its end."""


class Unreadable(ValueError):
    """Why a file isn't a usable image; whoever knows the path makes a DataError of it."""


@dataclass(frozen=True)
class Header:
    """What a file promises of its image.

    Attributes:
        kind: PNG, JPEG, WEBP, TIFF, BMP or PPM.
        height, width: as stored.
        orientation: EXIF's, 1 to 8; 1 where there is none.
        detail: of a JPEG its ``JpegKind``, of a PNG its IHDR from the bit depth on.
    """

    kind: str
    height: int
    width: int
    orientation: int = 1
    detail: Any = None

    @property
    def shown(self) -> tuple[int, int]:
        """(height, width) as a viewer shows it."""
        return (self.width, self.height) if self.orientation >= 5 else (self.height, self.width)


class JpegKind(NamedTuple):
    """How a JPEG's colours are stored. ``adobe``: the marker by which programs say that a CMYK picture is stored
    inverted.
    """

    components: int
    adobe: bool


def content(path: Path) -> bytes:
    """A regular file's bytes. Raises Unreadable for a pipe or device, which could hold the process for ever, and for an
    empty file.
    """
    with _opened(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > MOST_BYTES:
            raise Unreadable(f"the file has {size >> 20} MiB; expected at most {MOST_BYTES >> 20}")
        try:
            data = file.read()
        except OSError as error:
            raise Unreadable(f"{error.strerror or error}; check its disk") from error
    if not data:
        raise Unreadable("the file is empty")
    return data


def header_of(path: Path) -> Header | None:
    """What a file's header promises, read without the picture; None where it is no image, which reading
    it says better.
    """
    try:
        return read_header(path)
    except Unreadable:
        return None


def read_header(path: Path) -> Header:
    """What a file's header promises. Raises Unreadable."""
    try:
        with _opened(path) as file:
            return header(lambda offset, count: os.pread(file.fileno(), count, offset), file)
    except OSError as error:
        raise Unreadable(f"{error.strerror or error}; check its disk") from error


def _opened(path: Path) -> io.FileIO:
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise Unreadable("it isn't a file but a folder, pipe or device; remove it")
        # Not to wait for ever, where something else took its place in between.
        return io.FileIO(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
    except FileNotFoundError as error:
        raise Unreadable("no such file") from error
    except OSError as error:
        raise Unreadable(f"{error.strerror or error}; check the file and its permissions") from error


_KINDS = (
    ("PNG", lambda head: head.startswith(b"\x89PNG\r\n\x1a\n")),
    ("JPEG", lambda head: head.startswith(b"\xff\xd8")),
    ("WEBP", lambda head: head.startswith(b"RIFF") and head[8:12] == b"WEBP"),
    ("TIFF", lambda head: head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")),
    ("BMP", lambda head: head.startswith(b"BM")),
    ("PPM", lambda head: head[:2] in (b"P1", b"P2", b"P3", b"P4", b"P5", b"P6")),
    ("GIF", lambda head: head.startswith(b"GIF8")),
    ("HEIC or AVIF", lambda head: head[4:8] == b"ftyp"),
    (
        "JPEG 2000 or JPEG XL",
        lambda head: head.startswith((b"\0\0\0\x0cjP", b"\0\0\0\x0cJXL", b"\xff\x0a", b"\xff\x4f\xff\x51")),
    ),
)


def kind_of(head: bytes) -> str:
    """The kind of a file by its first bytes, whatever its name says; empty where it is none that is known."""
    return next((kind for kind, fits in _KINDS if fits(head)), "")


def header(read: Read, file: Any) -> Header:
    """Read a header. Raises Unreadable.

    Args:
        read: gives the file's bytes.
        file: the same as an open file, for Pillow.
    """
    kind = kind_of(read(0, 16))
    readers = {"PNG": _png, "JPEG": _jpeg, "WEBP": _webp}
    if kind in readers:
        found = readers[kind](read)
    elif kind in ("TIFF", "BMP", "PPM"):
        found = _pillow(kind, file)
    elif kind:
        raise Unreadable(f"it is a {kind} file, which isn't read; save it as PNG or JPEG")
    else:
        raise Unreadable(DAMAGED)
    if not (found.height and found.width):
        raise Unreadable(DAMAGED)
    if found.height * found.width > MOST_PIXELS:
        raise Unreadable(f"it promises {found.height}x{found.width} pixels; expected at most {MOST_PIXELS} in all")
    return found


_INTEGERS = {3: "H", 4: "I", 8: "h", 9: "i"}
"""EXIF's types of whole numbers that have a sign or more than a byte."""


def orientation(exif: bytes) -> int:
    """The orientation tag of an EXIF block (a TIFF header with its first directory); 1 where there is none that is
    valid.
    """
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    if order is None:
        return 1
    try:
        (start,) = struct.unpack_from(f"{order}I", exif, 4)
        (count,) = struct.unpack_from(f"{order}H", exif, start)
        for entry in range(count):
            tag, kind = struct.unpack_from(f"{order}HH", exif, start + 2 + 12 * entry)
            if tag == 0x112:
                # Short is what the standard says; some programs write a long one, or with a sign.
                (value,) = (
                    struct.unpack_from(order + _INTEGERS[kind], exif, start + 10 + 12 * entry)
                    if kind in _INTEGERS
                    else (1,)
                )
                return int(value) if 1 <= value <= 8 else 1
    except struct.error:  # it ends before
        pass
    return 1


def png_chunks(read: Read) -> Iterator[tuple[bytes, int, int]]:
    """(type, offset of the content, its length) of every chunk up to IEND. Raises Unreadable where the file ends
    before.
    """
    offset = 8
    while True:
        head = read(offset, 8)
        length = int.from_bytes(head[:4], "big")
        if len(head) < 8 or len(read(offset + 8 + length, 4)) < 4:
            raise Unreadable(CUT_SHORT)
        yield head[4:], offset + 8, length
        if head[4:] == b"IEND":
            return
        offset += 12 + length


def _png(read: Read) -> Header:
    chunks = list(png_chunks(read))
    if chunks[0][0] != b"IHDR" or chunks[0][2] != 13:
        raise Unreadable(DAMAGED)
    width, height = struct.unpack(">II", read(16, 8))
    exif = next((read(offset, length) for kind, offset, length in chunks if kind == b"eXIf"), b"")
    return Header("PNG", height, width, orientation(exif.removeprefix(b"Exif\0\0")), read(24, 5))


_SOI, _APP1, _APP14 = 0xD8, 0xE1, 0xEE
_FRAMES = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""Markers of a JPEG's frame header; the three between mean something else."""


def _jpeg(read: Read) -> Header:
    exif, adobe, offset = b"", False, 2
    while len(start := read(offset, 10)) == 10 and start[0] == 0xFF:
        marker, length = start[1], int.from_bytes(start[2:4], "big")
        if marker in (0xFF, _SOI):  # filler; a second start
            offset += 1 if marker == 0xFF else 2
            continue
        if marker in _FRAMES:
            height, width = struct.unpack(">HH", start[5:9])
            return Header("JPEG", height, width, orientation(exif), JpegKind(start[9], adobe))
        if marker == _APP1 and not exif and start[4:10] == b"Exif\0\0":
            exif = read(offset + 10, length - 8)
        adobe = adobe or (marker == _APP14 and start[4:9] == b"Adobe")
        offset += 2 + length
    raise Unreadable(DAMAGED)


def _webp(read: Read) -> Header:
    end = 8 + int.from_bytes(read(4, 4), "little")
    if len(read(end - 1, 1)) < 1:
        raise Unreadable(CUT_SHORT)
    height = width = 0
    exif, offset = b"", 12
    while len(head := read(offset, 8)) == 8 and offset < end:
        kind, length = head[:4], int.from_bytes(head[4:], "little")
        start = read(offset + 8, 10)
        if kind == b"VP8X" and not width:
            width, height = 1 + int.from_bytes(start[4:7], "little"), 1 + int.from_bytes(start[7:10], "little")
        elif kind == b"VP8L" and not width:
            bits = int.from_bytes(start[1:5], "little")
            width, height = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
        elif kind == b"VP8 " and not width:
            width, height = (
                int.from_bytes(start[6:8], "little") & 0x3FFF,
                int.from_bytes(start[8:10], "little") & 0x3FFF,
            )
        elif kind == b"EXIF":
            exif = read(offset + 8, length)
        offset += 8 + length + length % 2
    return Header("WEBP", height, width, orientation(exif.removeprefix(b"Exif\0\0")))


def _pillow(kind: str, file: Any) -> Header:
    try:
        from PIL import Image
    except ModuleNotFoundError as error:
        raise Unreadable(NO_PILLOW) from error
    try:
        with Image.open(file, formats=[kind]) as image:
            if kind != "TIFF":
                return Header(kind, image.height, image.width)
            tags = image.tag_v2  # type: ignore[attr-defined]
            # Not image.size: some versions of Pillow turn it already.
            turned = tags.get(274, 1)
            return Header(kind, int(tags[257]), int(tags[256]), turned if turned in range(1, 9) else 1)
    except Exception as error:  # damaged files make Pillow raise anything
        raise Unreadable(DAMAGED) from error


def check_whole(data: bytes, head: Header) -> None:
    """Check a PNG's checksum of every chunk, or the places of a TIFF's strips, which decoders don't. Raises Unreadable.

    A JPEG has nothing of the kind; its decoder finds what is damaged.
    """
    if head.kind == "PNG":
        view = memoryview(data)
        for kind, offset, length in png_chunks(lambda offset, count: data[offset : offset + count]):
            if zlib.crc32(view[offset - 4 : offset + length]) != int.from_bytes(
                data[offset + length : offset + length + 4], "big"
            ):
                raise Unreadable(
                    f"the file is damaged (the checksum of its {kind.decode('latin-1')!r} is wrong); copy it again, or"
                    " remove it"
                )
    elif head.kind == "TIFF":
        _check_tiff(data)


def _check_tiff(data: bytes) -> None:
    from PIL import Image

    with Image.open(io.BytesIO(data), formats=["TIFF"]) as image:
        tags = image.tag_v2  # type: ignore[attr-defined]
        offsets, counts = (tags.get(strips, tags.get(tiles, ())) for strips, tiles in ((273, 324), (279, 325)))
        for offset, count in zip(_tuple(offsets), _tuple(counts), strict=False):
            if not isinstance(offset, int) or not isinstance(count, int):
                raise Unreadable(DAMAGED)
            if offset + count > len(data):
                raise Unreadable(CUT_SHORT)
            if tags.get(259) in (8, 32946):  # deflate, which carries a checksum
                try:
                    zlib.decompress(data[offset : offset + count])
                except zlib.error as error:
                    raise Unreadable(f"the file is damaged ({error}); copy it again, or remove it") from error


def _tuple(value: Any) -> tuple[int, ...]:
    return tuple(value) if isinstance(value, (tuple, list)) else (value,)
