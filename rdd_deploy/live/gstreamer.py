"""A GStreamer pipeline as a source, through an OpenCV that was built with GStreamer; those of PyPI aren't."""

from __future__ import annotations

import re
from typing import Any

import cv2

from rdd_deploy.errors import SourceError
from rdd_deploy.live.captures import Capture
from rdd_deploy.utils.addresses import HIDDEN

SCHEME = "gst:"
MAX_LENGTH = 4096
SINK = "videoconvert ! video/x-raw,format=BGR ! appsink drop=true max-buffers=1"
"""What a pipeline ends in unless it says so itself: the newest frame, in OpenCV's colour order."""
EXAMPLE = "gst:nvarguscamerasrc ! video/x-raw(memory:NVMM),width=1280,height=720 ! nvvidconv ! video/x-raw,format=BGRx"
_PART = re.compile(r"""(?:"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|[^"'!])*""")
_ELEMENT = re.compile(r"[A-Za-z][A-Za-z0-9_/-]*(?=[\s,;(.]|$)")


def parts_of(text: str) -> list[str]:
    """What stands between the ``!`` of a pipeline, quoted ones left out. Raises SourceError for what can't be a
    pipeline.
    """
    if not text.strip():
        raise SourceError(f"got an empty GStreamer pipeline; expected elements with ! between them, like {EXAMPLE}")
    if len(text) > MAX_LENGTH:
        raise SourceError(f"got a GStreamer pipeline of {len(text)} characters, expected at most {MAX_LENGTH}")
    if not text.isprintable() or not text.isascii():
        raise SourceError(
            "got a GStreamer pipeline with control characters or others that aren't ASCII; write it in one line, with"
            " \\ooo for them"
        )
    parts, at = [], 0
    while at <= len(text):
        part = _PART.match(text, at)
        assert part is not None, "matches nothing, too"
        if part.end() < len(text) and text[part.end()] != "!":
            raise SourceError(
                f"a quotation mark of the GStreamer pipeline isn't closed (character {part.end() + 1}); close it, or"
                " leave it out"
            )
        parts.append(part[0].strip())
        at = part.end() + 1
    if "" in parts:
        raise SourceError(
            "the GStreamer pipeline has a ! without an element before or behind it; expected 'element ! element ! ...'"
        )
    return parts


def title_of(source: str) -> str:
    """The pipeline's elements alone: their properties may hold addresses and passwords."""
    try:
        parts = parts_of(source.removeprefix(SCHEME))
    except SourceError:
        return f"{SCHEME}{HIDDEN}"
    names = [match[0] if (match := _ELEMENT.match(part)) else HIDDEN for part in parts]
    return SCHEME + " ! ".join(name for name in names if name not in ("appsink", "queue"))


def open_pipeline(source: str) -> Capture:
    """Open ``gst:PIPELINE``, live: the newest frame wins. No shell and no file reads it; GStreamer's own parser does.
    Raises SourceError.
    """
    text = source.removeprefix(SCHEME).strip()
    parts = parts_of(text)
    sinks = [part for part in parts if re.match(r"\w*sink\b", part)]
    if sinks and not sinks[-1].startswith("appsink"):
        raise SourceError(
            f"the GStreamer pipeline ends in {sinks[-1].split()[0]}, which gives no frames to this program; leave it"
            " out, or end in appsink"
        )
    pipeline = text if sinks else f"{text} ! {SINK}"
    title = title_of(source)
    if not cv2.videoio_registry.hasBackend(cv2.CAP_GSTREAMER):
        raise SourceError(
            f"can't open {title}: this OpenCV ({cv2.__version__}) was built without GStreamer, as all of PyPI's are;"
            " take the system's (apt install python3-opencv, in an environment made with --system-site-packages), or"
            " one built with -D WITH_GSTREAMER=ON. docs/jetson.md has the steps"
        )

    def opener() -> Any:
        return cv2.VideoCapture(pipeline, cv2.CAP_GSTREAMER)

    failure = (
        f"can't open {title}: an element is missing, a property is wrong, or no picture came; try it with"
        " gst-launch-1.0 and fakesink first"
    )
    capture = Capture(title, True, opener, failure)
    capture.open()
    return capture
