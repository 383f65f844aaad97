"""Flicker: labels that change where the image doesn't."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rdd_deploy.live.flicker import ROWS, STILL, Flicker, grey_rows


def test_changes_count_where_the_image_is_still() -> None:
    flicker, grey = Flicker(), np.full((10, 10), 90, np.uint8)
    labels = np.zeros((10, 10), np.uint8)
    assert flicker.add(grey, labels) is None
    assert flicker.add(grey, labels) == 0
    changed = labels.copy()
    changed[:5] = 1
    assert flicker.add(grey + 2, changed) == 0.5
    moved = grey.copy()
    moved[:5] = 200  # the image changes with the labels: no flicker
    assert flicker.add(moved, labels) == 0
    assert flicker.add(255 - moved, 1 - labels) is None


@given(st.data(), st.integers(1, 12))
def test_every_frame_is_compared_with_the_one_before(data: st.DataObject, count: int) -> None:
    """Against the definition, pixel by pixel."""
    shape = (count, 3, 5)
    greys = data.draw(arrays(np.uint8, shape, elements=st.integers(100, 100 + 2 * STILL)))
    labels = data.draw(arrays(np.uint8, shape, elements=st.integers(0, 2)))
    expected: list[float | None] = [None]
    for index in range(1, count):
        still = np.abs(greys[index].astype(int) - greys[index - 1]) <= STILL
        changed = (labels[index] != labels[index - 1]) & still
        expected.append(changed.sum() / still.sum() if still.any() else None)
    flicker = Flicker()
    shares = [flicker.add(grey, classes) for grey, classes in zip(greys, labels, strict=True)]
    assert [share is None for share in shares] == [share is None for share in expected]
    assert [share for share in shares if share is not None] == pytest.approx(
        [share for share in expected if share is not None]
    )


def test_every_so_many_th_row_is_looked_at() -> None:
    network_input = np.zeros((1, 2 * ROWS + 1, 6, 3), np.uint8)
    network_input[0, ROWS] = 200
    assert grey_rows(network_input).tolist() == [[0] * 6, [200] * 6, [0] * 6]
