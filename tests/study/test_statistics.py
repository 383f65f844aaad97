"""Mean, deviation and paired interval against figures worked by hand and by the tables in books."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rdd_deploy.study.statistics import Difference, mean_and_deviation, paired_difference, t_quantile

TABLE = {
    1: (6.314, 12.706),
    2: (2.920, 4.303),
    3: (2.353, 3.182),
    4: (2.132, 2.776),
    5: (2.015, 2.571),
    9: (1.833, 2.262),
    30: (1.697, 2.042),
}
"""Degrees of freedom -> quantiles at 0.95 and 0.975, as any textbook has them."""


@pytest.mark.parametrize("freedom", TABLE)
def test_quantiles_are_those_of_the_table(freedom: int) -> None:
    assert [t_quantile(p, freedom) for p in (0.95, 0.975)] == pytest.approx(TABLE[freedom], abs=6e-4)


def test_many_degrees_of_freedom_are_almost_normal() -> None:
    assert t_quantile(0.975, 2000) == pytest.approx(1.95996, abs=2e-3)
    assert t_quantile(0.5, 7) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(("probability", "freedom"), [(0.4, 3), (1.0, 3), (0.9, 0), (math.nan, 2)])
def test_quantiles_of_nothing_are_refused(probability: float, freedom: int) -> None:
    with pytest.raises(ValueError, match="expected"):
        t_quantile(probability, freedom)


def test_by_hand() -> None:
    # Differences 0.9, 0.9, 1.9: mean 1.2333, deviation 0.57735, so ± 4.30265 · 0.57735 / √3 = 1.43422.
    rdd, kd = {0: 61.5, 1: 60.4, 2: 63.0}, {2: 61.1, 1: 59.5, 0: 60.6}
    got = paired_difference(rdd, kd)
    assert got is not None
    assert (got.mean, got.half_width, got.pairs) == (
        pytest.approx(1.233333, abs=1e-6),
        pytest.approx(1.434218, abs=1e-5),
        3,
    )
    mean, deviation = mean_and_deviation(list(rdd.values()))
    assert (mean, deviation) == (pytest.approx(61.633333, abs=1e-6), pytest.approx(1.305118, abs=1e-6))


def test_seeds_are_paired_by_number_and_one_pair_has_no_interval() -> None:
    assert paired_difference({0: 5.0, 7: 50.0}, {0: 3.0, 1: 90.0}) == Difference(2.0, None, 1)
    assert paired_difference({1: 1.0}, {2: 1.0}) is None
    assert mean_and_deviation([4.0]) == (4.0, None)


@given(st.dictionaries(st.integers(0, 50), st.floats(-100, 100), min_size=2), st.floats(-50, 50))
def test_a_shift_is_found_whatever_the_spread_over_seeds(values: dict[int, float], shift: float) -> None:
    got = paired_difference({seed: value + shift for seed, value in values.items()}, values)
    assert got is not None
    assert got.mean == pytest.approx(shift, abs=1e-9)
    assert got.half_width == pytest.approx(0, abs=1e-9)
