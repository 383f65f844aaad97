"""Read image files as frames and mask files as values: one way for training, evaluation, calibration, benchmarks and
the live app.
"""

from __future__ import annotations

import io
import re
import struct
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from rdd_deploy.data.image_file import (
    CUT_SHORT,
    DAMAGED,
    NO_PILLOW,
    Header,
    Unreadable,
    check_whole,
    content,
    header,
    kind_of,
    png_chunks,
)
from rdd_deploy.errors import DataError

Array = NDArray[np.uint8]
Numbers: TypeAlias = NDArray[Any]
"""uint8 or uint16."""

DARK = 2**14
"""Largest value of a 16-bit picture below which it holds a camera's 10, 12 or 14 bits, and would come out nearly black."""

TURNS = {
    2: lambda a: a[:, ::-1], 3: lambda a: a[::-1, ::-1], 4: lambda a: a[::-1], 5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1), 7: lambda a: a[::-1, ::-1].swapaxes(0, 1), 8: lambda a: np.rot90(a),
}  # fmt: skip
"""What brings stored pixels upright, by EXIF's orientation."""


def read_image(path: Path) -> Array:
    """Read a frame as a viewer shows it: uint8 (H, W, 3) BGR, turned as its EXIF orientation says.

    Raises:
        DataError: with the path, for what is no whole image, or can be shown in more ways than one.
    """
    try:
        data = content(path)
        head = _whole(data)
        return _upright(_bgr(_pixels(data, head)), head)
    except Unreadable as error:
        raise DataError(f"can't read the image {path}: {error}") from error


def read_frame(path: Path) -> Array:
    """``read_image`` as RGB."""
    return np.asarray(cv2.cvtColor(read_image(path), cv2.COLOR_BGR2RGB), np.uint8)


class Mask(NamedTuple):
    """What a mask file holds.

    Attributes:
        values: uint8 or uint16 (H, W): its indices or grey values.
        greys: where these may stand for others, the grey level (0 to 255) behind each.
        colours: of a palette that isn't grey alone, the (N, 3) RGB colour behind each.
    """

    values: Numbers
    greys: Array | None = None
    colours: Array | None = None


def read_mask(path: Path) -> Mask:
    """Read a PNG mask, 1 to 16 bits. Colours and everything that isn't lossless are refused with a DataError."""
    try:
        return mask_of(content(path), path.suffix)
    except Coloured as error:
        raise DataError(f"{path} is a mask {error}") from error
    except Unreadable as error:
        raise DataError(f"can't read the mask {path}: {error}") from error


def mask_of(data: bytes, suffix: str = ".png") -> Mask:
    """``read_mask`` of a file's bytes. Raises Unreadable; Coloured for a picture."""
    head = _mask_head(data, suffix)
    depth, colour = head.detail[0], head.detail[1]
    mask = _indexed(data, depth) if colour in (_GREY, _PALETTE) else Mask(_one_channel(_pixels(data, head)))
    return mask._replace(values=_upright(mask.values, head))


def read_colours(path: Path) -> Array:
    """Read a PNG mask whose classes are colours, uint8 (H, W, 3) RGB; one with a palette, or grey, as it is shown.
    Raises DataError.
    """
    try:
        data = content(path)
        head = _mask_head(data, path.suffix)
        if head.detail[0] == 16:
            raise Unreadable("it has 16 bits a channel, and classes' colours have 8; save it with 8")
        if head.detail[1] in (_GREY, _PALETTE):
            mask = _indexed(data, head.detail[0])
            colours = (
                mask.colours if mask.colours is not None else np.repeat(_greys(mask, head.detail[0])[:, None], 3, 1)
            )
            pixels = np.ascontiguousarray(colours[mask.values])
        else:
            pixels = _bgr(_pixels(data, head))[..., ::-1]
        return np.ascontiguousarray(_upright(pixels, head))
    except Unreadable as error:
        raise DataError(f"can't read the mask {path}: {error}") from error


def _greys(mask: Mask, depth: int) -> Array:
    """The grey level that each of a mask's values is shown as."""
    return mask.greys if mask.greys is not None else (np.arange(2**depth) * (255 // (2**depth - 1))).astype(np.uint8)


def _mask_head(data: bytes, suffix: str) -> Header:
    """A mask's header. Raises Unreadable for what isn't a whole PNG file."""
    if (kind := kind_of(data[:16])) not in ("", "PNG"):
        lossy = ", and its compression changes ids, at the edges most" if kind in ("JPEG", "WEBP") else ""
        raise Unreadable(f"it is a {kind} file named {suffix}{lossy}; export the masks again as PNG")
    return _whole(data)


class Coloured(Unreadable):
    """A mask that is a picture."""


_GREY, _PALETTE = 0, 3
"""PNG's colour types."""


def _whole(data: bytes) -> Header:
    try:
        head = header(lambda offset, count: data[offset : offset + count], io.BytesIO(data))
    except Unreadable:
        if kind_of(data[:16]) == "TIFF":
            _check_depth(data)
        raise
    check_whole(data, head)
    return head


def _upright(pixels: Numbers, head: Header) -> Numbers:
    turn = TURNS.get(head.orientation)
    # Its decoders turn by themselves.
    return pixels if turn is None or head.kind == "TIFF" else np.ascontiguousarray(turn(pixels))


def _pixels(data: bytes, head: Header) -> Numbers:
    """(H, W) or (H, W, 3 or 4), BGR."""
    if head.kind == "JPEG" and head.detail.components == 4 and not head.detail.adobe:
        raise Unreadable("it holds four print colours (CMYK) and doesn't say whether they are inverted; save it as RGB")
    transparent_value = head.kind == "PNG" and any(
        kind == b"tRNS" for kind, _, _ in png_chunks(lambda o, n: data[o : o + n])
    )
    if transparent_value and head.detail[0] == 16:
        raise Unreadable("it has 16 bits and a transparent value; save it with 8 bits and without")
    if head.kind == "JPEG":
        return _by_libjpeg(data)
    if head.kind in ("BMP", "TIFF", "PPM") or transparent_value:
        return _by_pillow(data, head)
    # Versions of OpenCV differ in which picture of an animated PNG they give; every other reader shows the one that
    # isn't in the animation.
    animated = head.kind == "PNG" and any(kind == b"acTL" for kind, _, _ in png_chunks(lambda o, n: data[o : o + n]))
    return _by_opencv(_rewritten(data, lambda kind: kind not in (b"acTL", b"fcTL", b"fdAT")) if animated else data)


def _by_opencv(data: bytes) -> Numbers:
    try:
        # Unchanged: depth and transparency are seen, and no version turns it, whatever other flags make one do.
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        pixels = None
    if pixels is None or pixels.dtype not in (np.uint8, np.uint16):
        raise Unreadable(DAMAGED)
    return np.asarray(pixels)


_LEFT_OVER = re.compile(r"Corrupt JPEG data: (\d+) extraneous bytes before marker 0xd9")


def _by_libjpeg(data: bytes) -> Numbers:
    """Decode a JPEG. Raises Unreadable also for damage at which OpenCV's decoder would fill in grey or
    noise and go on.
    """
    try:
        import simplejpeg
    except ModuleNotFoundError as error:
        raise Unreadable(
            "JPEG files are read with the package 'simplejpeg', which isn't installed: pip install simplejpeg"
        ) from error
    try:
        return np.asarray(simplejpeg.decode_jpeg(data, colorspace="BGR"), np.uint8)
    except ValueError as error:
        complaint = str(error)
    # Some cameras fill up their files before the end marker. Left-over bytes that differ are the picture's own: the
    # decoder lost its way.
    left_over = _LEFT_OVER.fullmatch(complaint)
    if left_over and re.search(rb"(.)\1{%d}\xff\xd9" % (int(left_over[1]) - 1), data, re.DOTALL):
        return np.asarray(simplejpeg.decode_jpeg(data, colorspace="BGR", strict=False), np.uint8)
    if complaint.startswith("Premature end"):
        raise Unreadable(CUT_SHORT)
    raise Unreadable(
        f"the file is damaged ({complaint}); copy it again, or remove it"
        if complaint.startswith("Corrupt")
        else DAMAGED
    )


def _by_pillow(data: bytes, head: Header) -> Numbers:
    try:
        from PIL import Image
    except ModuleNotFoundError as error:
        raise Unreadable(NO_PILLOW) from error
    try:
        with Image.open(io.BytesIO(data), formats=[head.kind]) as image:
            if head.kind == "TIFF" and _deep_tiff(image):
                return _by_opencv(data)
            image.load()
            if image.mode.startswith("I;16") or (image.mode == "I" and head.kind == "PPM"):
                return np.asarray(image).astype(np.uint16)
            if image.mode in ("I", "F"):
                raise Unreadable("it has 32 bits a pixel; save it with 8")
            alpha = image.has_transparency_data
            shown = np.asarray(image.convert("RGBA" if alpha else "RGB"))
    except Unreadable:
        raise
    except Exception as error:  # damaged files make Pillow raise anything
        raise Unreadable(DAMAGED) from error
    return np.asarray(cv2.cvtColor(shown, cv2.COLOR_RGBA2BGRA if alpha else cv2.COLOR_RGB2BGR), np.uint8)


def _check_depth(data: bytes) -> None:
    """Raise Unreadable for a picture that is whole, but of numbers that no camera has: Pillow can't open colours of 32
    bits.
    """
    with suppress(cv2.error):
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        if pixels is not None and pixels.dtype not in (np.uint8, np.uint16):
            raise Unreadable(f"it holds {pixels.dtype} numbers; save it with 8 bits a channel")


def _deep_tiff(image: Any) -> bool:
    """Whether a TIFF has more than 8 bits in several channels, which Pillow cuts to 8. Raises Unreadable for kinds read
    wrongly.
    """
    tags = image.tag_v2
    bits, kind = max(_numbers(tags.get(258, 1))), max(_numbers(tags.get(339, 1)))
    if bits <= 8:
        return False
    if bits != 16 or kind != 1:
        raise Unreadable(f"it has {bits} bits a channel{', not whole numbers' if kind == 3 else ''}; save it with 8")
    samples, meaning = tags.get(277, 1), tags.get(262, 1)
    if (samples, meaning) not in ((1, 1), (3, 2), (4, 2)) or tags.get(284, 1) != 1:
        raise Unreadable("it has 16 bits a channel in a layout that isn't read; save it with 8")
    return bool(samples > 1)


def _numbers(value: Any) -> tuple[int, ...]:
    return tuple(value) if isinstance(value, (tuple, list)) else (value,)


def _bgr(pixels: Numbers) -> Array:
    """Three channels of 8 bits."""
    if pixels.ndim == 3 and pixels.shape[2] == 4:
        if (pixels[..., 3] != np.iinfo(pixels.dtype).max).any():
            raise Unreadable(
                "parts of it are transparent, which each viewer shows in its own way; save it without an alpha channel"
            )
        pixels = np.ascontiguousarray(pixels[..., :3])
    if pixels.dtype == np.uint16:
        if 0 < (most := int(pixels.max())) < DARK:
            raise Unreadable(
                f"it has 16 bits a channel but no value above {most}, as of a camera with {most.bit_length()} bits, and"
                " would come out nearly black; scale the values of all images to 0 to 65535, or save them with 8 bits"
            )
        pixels = ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)
    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_GRAY2BGR) if pixels.ndim == 2 else pixels, np.uint8)


def _indexed(data: bytes, depth: int) -> Mask:
    """A grey or palette PNG's stored numbers. It is decoded as if it were grey: a decoder would expand a palette to its
    colours.
    """
    values = _by_opencv(_rewritten(data, lambda kind: kind in (b"IHDR", b"IDAT", b"IEND"), _GREY))
    if values.ndim != 2:
        raise Unreadable(DAMAGED)
    if depth < 8:
        values = values // (255 // (2**depth - 1))  # OpenCV spreads 1, 2 and 4 bits over 0 to 255
    if (palette := _palette(data)) is not None:
        if int(values.max()) >= len(palette):
            raise Unreadable(
                f"it holds the index {int(values.max())}, its palette only {len(palette)} colours; export the mask"
                " again"
            )
        grey = (palette == palette[:, :1]).all()
        return Mask(values, greys=palette[:, 0].copy()) if grey else Mask(values, colours=palette)
    # Few bits are either the ids themselves or what an optimiser made of 8 bits, which then are multiples; it takes the
    # fewest that do.
    if depth == 1 or (depth < 8 and ((values > 0) & (values < 2**depth - 1)).any()):
        return Mask(values, (np.arange(2**depth) * (255 // (2**depth - 1))).astype(np.uint8))
    return Mask(values)


def _palette(data: bytes) -> Array | None:
    """(N, 3) RGB of a palette PNG, None of a grey one."""
    if data[25] != _PALETTE:
        return None
    for kind, offset, length in png_chunks(lambda offset, count: data[offset : offset + count]):
        if kind == b"PLTE" and length and length % 3 == 0:
            return np.frombuffer(data, np.uint8, length, offset).reshape(-1, 3)
    raise Unreadable(f"{DAMAGED}: its palette is missing")


def _rewritten(data: bytes, keep: Callable[[bytes], bool], colour: int | None = None) -> bytes:
    """A PNG of some chunks of another, of any colour type."""
    parts = [data[:8]]
    for kind, offset, length in png_chunks(lambda offset, count: data[offset : offset + count]):
        body = data[offset : offset + length]
        if kind == b"IHDR" and colour is not None:
            body = body[:9] + bytes([colour]) + body[10:]
        if keep(kind):
            parts.append(struct.pack(">I", length) + kind + body + struct.pack(">I", zlib.crc32(kind + body)))
    return b"".join(parts)


def _one_channel(mask: Numbers) -> Numbers:
    """The ids of a grey image stored with three equal channels."""
    opaque = mask.shape[2] == 3 or bool((mask[..., 3] == np.iinfo(mask.dtype).max).all())
    if not opaque:
        raise Coloured("with transparent pixels; expected class ids alone, export it without an alpha channel")
    if not ((mask[..., 0] == mask[..., 1]).all() and (mask[..., 0] == mask[..., 2]).all()):
        raise Coloured(
            f"of shape {(*mask.shape[:2], 3)} and type {mask.dtype}; expected one 8-bit channel of class ids (not"
            " colours): export it as greyscale or with a palette, or say what its colours mean (data.colours, where"
            " data.name is folder)"
        )
    return np.ascontiguousarray(mask[..., 0])
