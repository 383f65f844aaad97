"""Which rows are dominated by another one, and which one a budget chooses."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rdd_deploy.benchmark.options import LatencyMetric
from rdd_deploy.benchmark.records import Decision, Row


def dominated(points: Sequence[tuple[float, float]]) -> list[bool]:
    """For each (latency, mIoU): whether another point is no slower and no worse, and better in one of the two."""
    return [
        any(fast <= latency and good >= miou and (fast < latency or good > miou) for fast, good in points) for latency, miou in points
    ]  # fmt: skip


def point(row: Row, judge: LatencyMetric) -> tuple[float, float]:
    """(latency in ms, mIoU in percent) of a measured row."""
    assert row.latency is not None
    assert row.accuracy is not None
    return row.latency.judged_ms(judge), row.accuracy.miou_pct


def dominated_names(rows: Sequence[Row], judge: LatencyMetric) -> list[str]:
    """Names of the dominated rows of one table."""
    measured = [row for row in rows if row.measured]
    flags = dominated([point(row, judge) for row in measured])
    return [row.name for row, is_dominated in zip(measured, flags, strict=True) if is_dominated]


def decide(
    rows: Sequence[Row], device: str, budget_ms: float | None, max_drop: float | None, judge: LatencyMetric
) -> Decision:
    """The most accurate row within the budget (and the drop); without a budget, the fastest within the drop.

    Args:
        rows: of one device.
        max_drop: percentage points of mIoU that a row may lie below its float reference; a reference itself has lost
            nothing, and a row whose reference wasn't measured never fits.
    """
    measured = [row for row in rows if row.measured]

    def latency(row: Row) -> float:
        return point(row, judge)[0]

    in_time = [row for row in measured if budget_ms is None or latency(row) <= budget_ms]
    accurate = [row for row in measured if max_drop is None or _lost(row) <= max_drop]
    fitting = [row for row in in_time if row in accurate]
    if fitting and budget_ms is not None:
        chosen = min(fitting, key=lambda row: (-point(row, judge)[1], latency(row)))
    elif fitting:
        chosen = min(fitting, key=lambda row: (latency(row), -point(row, judge)[1]))
    else:
        chosen = None
    nearest = None
    if chosen is None and measured:
        # Accuracy that is lost can't be bought back, time can (a faster chip): so the fastest accurate one, else the
        # least lossy.
        nearest = (
            min(accurate, key=latency)
            if accurate
            else min(in_time or measured, key=lambda row: (_lost(row), latency(row)))
        )
    what = _asked(budget_ms, max_drop, judge)
    if chosen is not None:
        sentence = (
            f"{chosen.name} on {device}: {_figures(chosen, judge)},"
            f" {'the most accurate' if budget_ms is not None else 'the fastest'} {what}"
        )
    elif nearest is not None:
        sentence = (
            f"none on {device} {what}; the nearest is {nearest.name} with"
            f" {_figures(nearest, judge)}{_lacking(nearest, judge, budget_ms, max_drop)}"
        )
    else:
        sentence = f"none on {device}: nothing could be measured"
    return Decision(
        device=device, latency_budget_ms=budget_ms, max_drop_pct=max_drop, judge=judge, chosen=chosen.name if chosen else None,
        nearest=nearest.name if nearest else None, sentence=sentence,
    )  # fmt: skip


def _lost(row: Row) -> float:
    """Percentage points of mIoU below the float reference; 0 for a reference, infinite where none was measured."""
    if row.change is None:
        return math.inf if row.lacks_reference else 0.0
    return -row.change.miou_change_pct


def _asked(budget_ms: float | None, max_drop: float | None, judge: LatencyMetric) -> str:
    parts = [f"within {budget_ms:g} ms ({judge})"] if budget_ms is not None else []
    parts += [f"within {max_drop:g} points of the float mIoU"] if max_drop is not None else []
    return " and ".join(parts)


def _figures(row: Row, judge: LatencyMetric) -> str:
    latency, miou = point(row, judge)
    lost = f", {0.0 - round(_lost(row), 2):+.2f} points against {row.change.reference}" if row.change else ""
    return f"{latency:.2f} ms, mIoU {miou:.2f} %{lost}"


def _lacking(row: Row, judge: LatencyMetric, budget_ms: float | None, max_drop: float | None) -> str:
    lacks = []
    if budget_ms is not None and (over := point(row, judge)[0] - budget_ms) > 0:
        lacks.append(f"{over:.2f} ms too slow")
    if max_drop is not None and row.lacks_reference:
        lacks.append("its drop is unknown, since no float bundle of its run and input size was measured: add that one")
    elif max_drop is not None and (over := _lost(row) - max_drop) > 0:
        lacks.append(f"{over:.2f} points too inaccurate")
    return f" ({' and '.join(lacks)})" if lacks else ""
