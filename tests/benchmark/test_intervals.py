import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rdd_deploy.benchmark.accuracy import draw, interval, resampled_miou
from rdd_deploy.metrics import Confusion

matrices = st.integers(1, 8).flatmap(
    lambda n: st.integers(2, 4).flatmap(lambda c: arrays(np.int64, (n, c, c), elements=st.integers(0, 500)))
)


@given(st.integers(1, 50), st.integers(0, 1000))
@settings(max_examples=30)
def test_each_resample_has_as_many_images_and_the_seed_decides(images: int, seed: int) -> None:
    drawn = draw(images, 20, seed)
    assert drawn.shape == (20, images)
    assert (drawn.sum(1) == images).all()
    assert (drawn == draw(images, 20, seed)).all()


@given(matrices)
@settings(max_examples=40)
def test_a_resample_counts_what_the_metric_counts(given_matrices: np.ndarray) -> None:
    drawn = draw(len(given_matrices), 7, 3)
    got = resampled_miou(given_matrices, drawn)
    for weights, value in zip(drawn, got, strict=True):
        confusion = Confusion([str(i) for i in range(given_matrices.shape[1])])
        for count, matrix in zip(weights, given_matrices, strict=True):
            confusion.matrix += int(count) * matrix
        assert value == pytest.approx(confusion.miou, nan_ok=True)


@given(matrices)
@settings(max_examples=40)
def test_interval_lies_between_the_extremes_and_images_alike_leave_no_doubt(given_matrices: np.ndarray) -> None:
    values = resampled_miou(given_matrices, draw(len(given_matrices), 200, 0))
    low, high = interval(values)
    if np.isfinite(values).any():
        assert np.nanmin(values) <= low <= high <= np.nanmax(values)
    same = np.repeat(given_matrices[:1], 6, axis=0)
    low, high = interval(resampled_miou(same, draw(6, 50, 0)))
    assert low == pytest.approx(high, nan_ok=True)


def test_order_of_the_images_shifts_nothing_and_more_images_narrow_the_interval() -> None:
    generator = np.random.default_rng(0)

    def width(count: int) -> float:
        images = generator.multinomial(1000, np.array([[0.4, 0.1, 0.1, 0.4]]).ravel(), size=count).reshape(count, 2, 2)
        noisy = images * generator.integers(1, 9, (count, 1, 1))
        low, high = interval(resampled_miou(noisy, draw(count, 1000, 1)))
        return high - low

    assert width(400) < width(25)


def test_blocks_give_the_same_as_one_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    images = np.random.default_rng(0).integers(0, 90, (9, 3, 3))
    whole = resampled_miou(images, draw(9, 30, 0))
    monkeypatch.setattr("rdd_deploy.benchmark.accuracy._BLOCK", 7)
    assert (resampled_miou(images, draw(9, 30, 0)) == whole).all()


def test_nothing_finite_is_nan() -> None:
    assert np.isnan(interval(np.array([np.nan]))).all()
