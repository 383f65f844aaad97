"""A video whose frames come at odd times: Matroska with JPEG frames, written by hand, since OpenCV's writer knows
constant rates only.
"""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np


def _element(number: bytes, content: bytes) -> bytes:
    return number + (len(content) | 1 << 56).to_bytes(8, "big") + content


def _number(number: bytes, value: int) -> bytes:
    return _element(number, value.to_bytes(8, "big"))


def write_vfr(path: Path, times_ms: Sequence[int], size: tuple[int, int] = (48, 64)) -> Path:
    """Frame i is grey of level 10 + 15 i."""
    header = _element(b"\x42\x82", b"matroska") + _number(b"\x42\x87", 2) + _number(b"\x42\x85", 2)
    video = _number(b"\xb0", size[1]) + _number(b"\xba", size[0])
    track = (
        _number(b"\xd7", 1)
        + _number(b"\x73\xc5", 1)
        + _number(b"\x83", 1)
        + _element(b"\x86", b"V_MJPEG")
        + _element(b"\xe0", video)
    )
    clusters = b""
    for index, at in enumerate(times_ms):
        image = cv2.imencode(".jpg", np.full((*size, 3), level(index), np.uint8))[1].tobytes()
        clusters += _element(b"\x1f\x43\xb6\x75", _number(b"\xe7", at) + _element(b"\xa3", b"\x81\0\0\x80" + image))
    info = _element(
        b"\x15\x49\xa9\x66", _number(b"\x2a\xd7\xb1", 1_000_000) + _element(b"\x44\x89", _float(times_ms[-1] + 40))
    )
    body = info + _element(b"\x16\x54\xae\x6b", _element(b"\xae", track)) + clusters
    path.write_bytes(_element(b"\x1a\x45\xdf\xa3", header) + _element(b"\x18\x53\x80\x67", body))
    return path


def _float(value: float) -> bytes:
    return np.array(value, ">f8").tobytes()


def level(index: int) -> int:
    return 10 + 15 * index


def timeline(path: Path) -> list[tuple[float, int]]:
    """When which frame of ``write_vfr`` begins to be seen, in milliseconds."""
    capture = cv2.VideoCapture(str(path))
    found: list[tuple[float, int]] = []
    while capture.grab():
        at = capture.get(cv2.CAP_PROP_POS_MSEC)
        index = round((float(np.median(np.asarray(capture.retrieve()[1]))) - 10) / 15)
        if not found or found[-1][1] != index:
            found.append((at, index))
    return found
