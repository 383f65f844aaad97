"""Polygons cover exactly the pixels of the mask that they were made of, by COCO's own tools."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from rdd_deploy.prediction.polygons import polygons


def drawn(mask: np.ndarray) -> np.ndarray:
    from pycocotools import mask as coco

    found = np.zeros(mask.shape, int)
    for outline in polygons(mask):
        assert len(outline) >= 8
        found += coco.decode(coco.frPyObjects([outline], *mask.shape))[..., 0]
    return found


@given(arrays.arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12))))
@settings(max_examples=200)
def test_any_mask(mask: np.ndarray) -> None:
    assert np.array_equal(drawn(mask), mask)


@pytest.mark.parametrize("shape", [(7, 9), (1, 1), (40, 3)])
def test_whole_and_empty(shape: tuple[int, int]) -> None:
    assert [*polygons(np.zeros(shape, bool))] == []
    [outline] = polygons(np.ones(shape, bool))
    corners = {(x, y) for x, y in zip(outline[::2], outline[1::2], strict=True)}
    assert corners == {(0, 0), (shape[1], 0), (0, shape[0]), (shape[1], shape[0])}


def test_rings() -> None:
    rows, columns = np.indices((60, 80))
    away = np.hypot(rows - 30, columns - 40)
    mask = (away.astype(int) // 5) % 2 == 0
    assert np.array_equal(drawn(mask), mask)
