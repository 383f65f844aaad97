"""GStreamer pipelines as sources: what is refused, what is shown of them, what OpenCV is asked for."""

from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rdd_deploy.errors import SourceError
from rdd_deploy.live.gstreamer import EXAMPLE, SCHEME, SINK, open_pipeline, parts_of, title_of
from rdd_deploy.live.sources import open_source


def open_(source: str, **asked: Any) -> Any:
    return open_source(
        source, asked.get("camera"), asked.get("size"), fps=asked.get("fps"), streets_live=False, info=print
    )


@given(st.text(max_size=60))
def test_any_text_is_parsed_or_refused_in_one_sentence(text: str) -> None:
    try:
        parts = parts_of(text)
    except SourceError as error:
        assert "\n" not in str(error)  # noqa: PT017
    else:
        assert all(parts)
        assert "!".join(parts).replace(" ", "") == text.replace(" ", "")
    assert title_of(SCHEME + text).isprintable()


@pytest.mark.parametrize(
    ("pipeline", "words"),
    [
        ("", "empty GStreamer pipeline"),
        ("  ", "empty GStreamer pipeline"),
        ("a ! ! b", "a ! without an element"),
        ("a !", "a ! without an element"),
        ('a p="x ! b', r"a quotation mark of the GStreamer pipeline isn't closed \(character 5\)"),
        ("a\nb ! c", "control characters"),
        ("a\0b ! c", "control characters"),
        ("x" * 5000, "of 5000 characters, expected at most 4096"),
        ("videotestsrc ! autovideosink sync=false", "ends in autovideosink, which gives no frames to this program"),
    ],
)
def test_sentences(pipeline: str, words: str) -> None:
    with pytest.raises(SourceError, match=words):
        open_("gst:" + pipeline)


def test_a_quoted_exclamation_mark_is_no_link() -> None:
    assert parts_of('a p=\'x ! y\' ! b q="\\" ! " ! c') == ["a p='x ! y'", 'b q="\\" ! "', "c"]


def test_no_property_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    source = "gst:rtspsrc location=rtsp://me:secret@10.0.0.7/x user-pw=secret ! queue ! decodebin ! secret=1"
    assert title_of(source) == "gst:rtspsrc ! decodebin ! ***"
    for asked in ({}, {"camera": 0}, {"size": (64, 48)}, {"fps": 5.0}):
        with pytest.raises(SourceError) as caught:
            open_(source, **asked)
        assert "secret" not in str(caught.value)
    assert title_of(EXAMPLE) == "gst:nvarguscamerasrc ! video/x-raw ! nvvidconv ! video/x-raw"


def test_an_opencv_without_gstreamer_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cv2.videoio_registry, "hasBackend", lambda _: False)
    with pytest.raises(SourceError, match=r"was built without GStreamer.*apt install python3-opencv") as caught:
        open_(EXAMPLE)
    assert "\n" not in str(caught.value)


def test_opencv_gets_the_pipeline_as_it_is_typed_and_the_end_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, int]] = []

    class Pipeline:
        def __init__(self, *arguments: Any) -> None:
            asked.append(arguments)

        def isOpened(self) -> bool:
            return "broken" not in asked[-1][0]

        def get(self, _: int) -> float:
            return 30.0

        def grab(self) -> bool:
            return True

        def retrieve(self) -> tuple[bool, np.ndarray]:
            return True, np.zeros((48, 64, 3), np.uint8)

        def release(self) -> None:
            pass

    monkeypatch.setattr(cv2.videoio_registry, "hasBackend", lambda _: True)
    monkeypatch.setattr(cv2, "VideoCapture", Pipeline)
    source = open_("gst: videotestsrc pattern=$(reboot);`x` ")
    captured = source.read()
    assert captured is not None
    assert (source.live, source.title) == (True, "gst:videotestsrc")
    open_pipeline("gst:videotestsrc ! appsink name=mine")
    assert asked == [
        (f"videotestsrc pattern=$(reboot);`x` ! {SINK}", cv2.CAP_GSTREAMER),
        ("videotestsrc ! appsink name=mine", cv2.CAP_GSTREAMER),
    ]
    with pytest.raises(
        SourceError, match="can't open gst:broken: an element is missing, a property is wrong, or no picture came"
    ):
        open_("gst:broken")
