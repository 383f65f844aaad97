from itertools import pairwise

import made_up
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rdd_deploy.benchmark.pareto import decide, dominated, dominated_names

points = st.lists(st.tuples(st.integers(1, 20).map(float), st.integers(0, 20).map(float)), min_size=1, max_size=12)
FLOAT, INT8, SMALL = (
    made_up.row("float", 30, 70),
    made_up.row("int8", 10, 69.5, drop=0.5),
    made_up.row("small", 4, 60, drop=10),
)
ROWS = [FLOAT, INT8, SMALL, made_up.row("slow", 40, 65, drop=5), made_up.failed("lost", "no driver")]


@given(points)
def test_the_front_is_never_empty_and_beats_all_others(given_points: list[tuple[float, float]]) -> None:
    beaten = dominated(given_points)
    best = [one for one, is_beaten in zip(given_points, beaten, strict=True) if not is_beaten]
    assert best
    for one, is_beaten in zip(given_points, beaten, strict=True):
        by = [other for other in best if other[0] <= one[0] and other[1] >= one[1] and other != one]
        assert bool(by) == is_beaten


@given(points)
def test_along_the_front_slower_is_better(given_points: list[tuple[float, float]]) -> None:
    best = sorted({one for one, is_beaten in zip(given_points, dominated(given_points), strict=True) if not is_beaten})
    assert all(a[0] < b[0] and a[1] < b[1] for a, b in pairwise(best))


def test_equal_rows_stay_both() -> None:
    assert dominated([(1.0, 2.0), (1.0, 2.0)]) == [False, False]


def test_names_leave_failed_rows_out() -> None:
    assert dominated_names(ROWS, "model-p50") == ["slow"]


@pytest.mark.parametrize(
    ("budget", "drop", "judge", "chosen"),
    [
        (15, None, "model-p50", "int8"), (30, None, "model-p50", "float"), (5, None, "model-p50", "small"), (15, 0.5, "model-p50", "int8"),
        (None, 1.0, "model-p50", "int8"), (None, 50.0, "model-p50", "small"), (None, 0.0, "model-p50", "float"),
        (14.9, None, "model-p95", "small"), (15, None, "end-to-end-p50", "int8"), (14.9, None, "end-to-end-p50", "small"),
    ],
)  # fmt: skip
def test_the_most_accurate_within_the_budget(budget, drop, judge, chosen) -> None:
    assert decide(ROWS, "cpu", budget, drop, judge).chosen == chosen


@pytest.mark.parametrize(
    ("rows", "budget", "drop", "nearest", "end"),
    [
        (
            ROWS,
            3,
            None,
            "small",
            "the nearest is small with 4.00 ms, mIoU 60.00 %, -10.00 points against float (1.00 ms too slow)",
        ),
        (
            ROWS,
            5,
            1.0,
            "int8",
            "the nearest is int8 with 10.00 ms, mIoU 69.50 %, -0.50 points against float (5.00 ms too slow)",
        ),
        ([SMALL], 5, 1.0, "small", "(9.00 points too inaccurate)"),
        ([made_up.failed("lost", "no driver")], 5, None, None, "none on cpu: nothing could be measured"),
    ],
)
def test_none_names_the_nearest_and_what_it_lacks(rows, budget, drop, nearest, end) -> None:
    decision = decide(rows, "cpu", budget, drop, "model-p50")
    assert (decision.chosen, decision.nearest) == (None, nearest)
    assert decision.sentence.startswith("none on cpu")
    assert decision.sentence.endswith(end)


def test_without_a_float_bundle_no_drop_is_promised() -> None:
    alone = made_up.row("int8", 10, 69.5, precision="int8")
    decision = decide([alone], "cpu", None, 50.0, "model-p50")
    assert (decision.chosen, decision.nearest) == (None, "int8")
    assert (
        decision.sentence
        == "none on cpu within 50 points of the float mIoU; the nearest is int8 with 10.00 ms, mIoU 69.50 % "
        "(its drop is unknown, since no float bundle of its run and input size was measured: add that one)"
    )
    assert decide([alone], "cpu", 15, None, "model-p50").chosen == "int8"
    assert decide([alone, FLOAT], "cpu", None, 50.0, "model-p50").chosen == "float"


def test_the_sentence_of_a_choice() -> None:
    assert (
        decide(ROWS, "cpu", 15, 1, "model-p50").sentence
        == "int8 on cpu: 10.00 ms, mIoU 69.50 %, -0.50 points against float, the most accurate within 15 ms"
        " (model-p50) "
        "and within 1 points of the float mIoU"
    )
