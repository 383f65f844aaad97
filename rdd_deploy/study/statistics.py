"""Mean, deviation and the paired difference with its interval, as the table gives them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

CONFIDENCE = 0.95


class Difference(NamedTuple):
    """A variant's values minus the baseline's, seed by seed.

    Attributes:
        mean: of the differences. half_width: of the interval ``mean ± half_width``; None for one pair, which tells
            nothing of the spread.
        pairs: seeds that both have.
    """

    mean: float
    half_width: float | None
    pairs: int


class Row(NamedTuple):
    """A variant in the table. ``deviation`` is None for one seed, ``difference`` for the baseline and where no seed is
    shared.
    """

    variant: str
    miou: dict[int, float]
    mean: float | None
    deviation: float | None
    best: float | None
    difference: Difference | None
    seconds: float | None


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and sample deviation (n − 1); None for the deviation of a single value."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def paired_difference(
    values: Mapping[int, float], baseline: Mapping[int, float], confidence: float = CONFIDENCE
) -> Difference | None:
    """The mean difference over the seeds that both have, with the interval of Student's t for paired samples.

    Args:
        values, baseline: seed -> value. confidence: of the two-sided interval, between 0 and 1.

    Returns:
        None where they share no seed.
    """
    differences = [values[seed] - baseline[seed] for seed in values if seed in baseline]
    if not differences:
        return None
    mean, deviation = mean_and_deviation(differences)
    count = len(differences)
    half = None if deviation is None else t_quantile((1 + confidence) / 2, count - 1) * deviation / math.sqrt(count)
    return Difference(mean, half, count)


def t_quantile(probability: float, freedom: int) -> float:
    """Quantile of Student's t, for a probability of at least 0.5 and at least one degree of freedom.

    By bisection of the distribution's finite sum for whole degrees of freedom (Abramowitz and Stegun, 26.7.3 and
    26.7.4).
    """
    if not 0.5 <= probability < 1 or freedom < 1:
        raise ValueError(
            f"got probability {probability} and {freedom} degrees of freedom; expected 0.5 to 1 and at least 1"
        )
    low, high = 0.0, math.pi / 2
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, freedom) < 2 * probability - 1 else (low, middle)
    return math.sqrt(freedom) * math.tan(low)


def _within(angle: float, freedom: int) -> float:
    """The probability that |t| is at most √freedom · tan(angle)."""
    odd = freedom % 2
    term = total = math.cos(angle) if odd else 1.0
    # Odd: cos + 2/3 cos³ + 2·4/(3·5) cos⁵ …; even: 1 + 1/2 cos² + 1·3/(2·4) cos⁴ …
    for k in range(2 + odd, freedom - 1, 2):
        term *= (k - 1) / k * math.cos(angle) ** 2
        total += term
    if not odd:
        return math.sin(angle) * total
    return 2 / math.pi * (angle + (math.sin(angle) * total if freedom > 1 else 0.0))
