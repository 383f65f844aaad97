import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rdd_deploy import frames
from rdd_deploy.frames import resize_frame, resize_labels


def noise(height: int, width: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@settings(max_examples=150, deadline=None)
@given(
    before=st.tuples(st.integers(1, 150), st.integers(1, 150)),
    after=st.tuples(st.integers(1, 150), st.integers(1, 150)),
    seed=st.integers(0, 9),
)
def test_shrinking_is_area_averaging(before: tuple[int, int], after: tuple[int, int], seed: int) -> None:
    frame = noise(*before, seed)
    got = resize_frame(frame, after)
    if before == after:
        assert got is frame
        return
    shrinks = after[0] * after[1] < before[0] * before[1]
    expected = cv2.resize(frame, after[::-1], interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    assert got.dtype == np.uint8
    assert np.array_equal(got, expected.reshape(got.shape))


@pytest.mark.parametrize(
    ("before", "after", "two"),
    [
        ((360, 480), (240, 320), True), ((1080, 1920), (720, 1280), True), ((480, 640), (360, 480), True), ((100, 50), (80, 50), True),
        ((36, 48), (35, 47), True), ((480, 640), (240, 320), True), ((720, 1280), (480, 853), False), ((360, 480), (100, 100), False),
        ((360, 480), (256, 320), False),
    ],
)  # fmt: skip
def test_two_neighbours_are_looked_up(before: tuple[int, int], after: tuple[int, int], two: bool) -> None:
    """Which shapes are bilinear look-ups is arithmetic; whether this OpenCV computes them exactly is tried."""
    places = [frames._places(*pair) for pair in zip(before, after, strict=True)]
    assert all(one is not None for one in places) == two
    for seed in range(3):
        frame = noise(*before, seed)
        assert np.array_equal(resize_frame(frame, after), cv2.resize(frame, after[::-1], interpolation=cv2.INTER_AREA))
    plain = np.zeros((*before, 3), np.uint8)
    plain[:, : before[1] // 2] = 255  # an edge, and a view with strides of its own
    assert np.array_equal(resize_frame(plain[:, ::-1], after), cv2.resize(plain[:, ::-1].copy(), after[::-1], interpolation=cv2.INTER_AREA))


def test_an_opencv_that_rounds_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def rounding(frame: np.ndarray, x: np.ndarray, y: np.ndarray, how: int) -> np.ndarray:
        return remap(frame, np.round(x * 32) / 32, np.round(y * 32) / 32, how)

    remap = cv2.remap
    monkeypatch.setattr(cv2, "remap", rounding)
    frames._area_as_bilinear.cache_clear()
    frame = noise(36, 48)
    assert frames._area_as_bilinear((36, 48), (24, 32)) is None
    assert np.array_equal(resize_frame(frame, (24, 32)), cv2.resize(frame, (32, 24), interpolation=cv2.INTER_AREA))
    frames._area_as_bilinear.cache_clear()


def test_labels_keep_their_classes() -> None:
    labels = np.random.default_rng(0).integers(0, 12, (36, 48)).astype(np.uint8)
    assert resize_labels(labels, (36, 48)) is labels
    assert np.array_equal(resize_labels(labels, (72, 96))[::2, ::2], labels)
    assert set(np.unique(resize_labels(labels, (17, 23)))) <= set(np.unique(labels))
