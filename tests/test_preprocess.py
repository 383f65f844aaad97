import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rdd_deploy.preprocess import ALIASING, resize_frame, resize_labels
from rdd_deploy.runtime.facts import Preprocessing


def noise(height: int, width: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def test_bundles_say_this_rule() -> None:
    assert Preprocessing().shrink_from == ALIASING


SIDE = st.integers(1, 150)


@settings(max_examples=150)
@given(before=st.tuples(SIDE, SIDE), after=st.tuples(SIDE, SIDE), seed=st.integers(0, 9))
def test_any_size_becomes_any_other(before: tuple[int, int], after: tuple[int, int], seed: int) -> None:
    frame = noise(*before, seed)
    kept = frame.copy()
    got = resize_frame(frame, after)
    assert (got.shape, got.dtype) == ((*after, 3), np.uint8)
    assert (got is frame) == (before == after)
    assert np.array_equal(frame, kept)
    assert frame.min() <= got.min()
    assert got.max() <= frame.max()
    plain = np.full((*before, 3), (7, 80, 200), np.uint8)
    assert np.all(resize_frame(plain, after) == plain[0, 0])


@pytest.mark.parametrize(
    ("before", "halved", "after", "how"),
    [
        ((360, 480), (360, 480), (240, 320), cv2.INTER_LINEAR), ((720, 1280), (360, 640), (360, 480), cv2.INTER_LINEAR),
        ((1080, 1920), (540, 960), (360, 480), cv2.INTER_LINEAR), ((1080, 1920), (1080, 1920), (512, 1024), cv2.INTER_LINEAR),
        ((361, 481), (361, 481), (100, 100), cv2.INTER_AREA), ((240, 320), (240, 320), (360, 480), cv2.INTER_LINEAR),
        ((200, 100), (200, 100), (50, 200), cv2.INTER_AREA), ((251, 251), (251, 251), (100, 101), cv2.INTER_AREA),
        ((251, 251), (251, 251), (101, 101), cv2.INTER_LINEAR),
    ],
)  # fmt: skip
def test_what_halving_leaves_is_interpolated_or_averaged(
    before: tuple[int, int], halved: tuple[int, int], after: tuple[int, int], how: int
) -> None:
    frame = noise(*before)
    expected = cv2.resize(frame, halved[::-1], interpolation=cv2.INTER_AREA) if halved != before else frame
    assert np.array_equal(resize_frame(frame, after), cv2.resize(expected, after[::-1], interpolation=how))
    assert np.array_equal(
        resize_frame(frame[:, ::-1], before[::-1]), resize_frame(frame[:, ::-1].copy(), before[::-1])
    ), "a view's strides"


def test_halving_is_the_mean_of_blocks() -> None:
    frame = noise(48, 64)
    for size in ((24, 32), (12, 16), (6, 8)):
        frame, expected = resize_frame(frame, size), frame.reshape(size[0], 2, size[1], 2, 3).mean((1, 3))
        assert np.abs(frame - expected).max() <= 0.5
    assert np.array_equal(resize_frame(noise(48, 64), (6, 8)), frame)


def test_labels_keep_their_classes() -> None:
    labels = np.random.default_rng(0).integers(0, 12, (36, 48)).astype(np.uint8)
    assert resize_labels(labels, (36, 48)) is labels
    assert np.array_equal(resize_labels(labels, (72, 96))[::2, ::2], labels)
    assert set(np.unique(resize_labels(labels, (17, 23)))) <= set(np.unique(labels))
