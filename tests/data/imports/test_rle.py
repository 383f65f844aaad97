"""Run lengths: there and back, and never more memory than the image has."""

from contextlib import suppress

import exports
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rdd_deploy.data.imports import rle
from rdd_deploy.errors import DataError

MASKS = st.tuples(st.integers(1, 12), st.integers(1, 12)).flatmap(lambda shape: arrays(bool, shape))


@settings(max_examples=60, deadline=None)
@given(MASKS)
def test_there_and_back(mask: np.ndarray) -> None:
    height, width = mask.shape
    assert (rle.by_columns(exports.runs(mask, "F"), height, width, "x") == mask).all()
    assert (rle.by_rows(exports.runs(mask, "C"), height, width, "x") == mask).all()
    assert (rle.brush(exports.brush(mask), height, width, "x") == mask).all()
    text = exports.coco_text(mask)["counts"]
    assert (rle.by_columns(rle.counts_of(text, "x"), height, width, "x") == mask).all()


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=30), st.lists(st.integers(-5, 300), max_size=30), st.binary(max_size=40))
def test_rubbish_is_an_error_in_words(text: str, counts: list[int], data: bytes) -> None:
    for read in (
        lambda: rle.by_columns(rle.counts_of(text, "x"), 5, 5, "x"),
        lambda: rle.by_columns(counts, 5, 5, "x"),
        lambda: rle.by_rows(counts, 5, 5, "x"),
        lambda: rle.brush(counts, 5, 5, "x"),
        lambda: rle.brush(list(data), 5, 5, "x"),
    ):
        with suppress(DataError):
            assert read().shape == (5, 5)


def test_a_brush_that_promises_more_than_the_image() -> None:
    with pytest.raises(DataError, match=r"the brush has 4294967295 values of 8 bits; expected 8 bits and 100"):
        rle.brush([255, 255, 255, 255, 0b00111000, 0, 0, 0, 0], 5, 5, "x")
