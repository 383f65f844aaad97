"""The Pareto plot: mIoU over latency, the front as a staircase, dominated rows grey and hollow, the budget as a border."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rdd_deploy.benchmark.records import LatencyMetric, Row
from rdd_deploy.benchmark.report.shapes import Area, Dot, Line, Shape, Text

WIDTH, HEIGHT = 860, 470
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 24, 44, 58
_LOG_FROM = 5.0
"""Ratio of the slowest to the fastest from which the latency axis is logarithmic."""


@dataclass(frozen=True)
class Axis:
    """Values to pixels; ``ticks`` lie within [low, high]."""

    low: float
    high: float
    start: float
    end: float
    ticks: tuple[float, ...]
    logarithmic: bool = False

    def __call__(self, value: float) -> float:
        low, high = self.low, self.high
        if self.logarithmic:
            value, low, high = math.log(max(value, 1e-9)), math.log(low), math.log(high)
        return self.start + (value - low) / (high - low) * (self.end - self.start)


def nice_ticks(low: float, high: float, count: int = 6) -> tuple[float, ...]:
    """Round values within [low, high], 1, 2 or 5 times a power of ten apart, about ``count`` of them."""
    span = max(high - low, 1e-9)
    raw = span / count
    power = 10 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return tuple(round(i * step, 10) for i in range(first, math.floor(high / step + 1e-9) + 1))


def log_ticks(low: float, high: float) -> tuple[float, ...]:
    """1, 2 and 5 times the powers of ten within [low, high]; some between them where that gives too few."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    factors = (1, 2, 5) if high > 30 * low else (1, 1.5, 2, 3, 4, 5, 7)
    return tuple(round(factor * 10.0**power, 10) for power in powers for factor in factors if low <= factor * 10.0**power <= high)


def pareto_shapes(
    rows: Sequence[Row], judge: LatencyMetric, beaten: Sequence[str], budget_ms: float | None = None, chosen: str | None = None
) -> list[Shape]:
    """Draw the measured rows of one table; whiskers are the bootstrap interval of the mIoU and the way from p50 to p95.

    Args:
        beaten: names of the dominated rows.
        budget_ms: drawn as a border, what lies beyond is tinted.
        chosen: gets a ring.
    """
    measured = sorted((row for row in rows if row.measured), key=lambda row: (row.name not in beaten, row.name))  # grey lies below
    if not measured:
        return [Text(WIDTH / 2, HEIGHT / 2, "nothing could be measured", "label", "middle", 14)]
    across, up = _axes(measured, judge, budget_ms)
    shapes = _frame(across, up, judge, budget_ms)
    tails = [_tail_shape(row, judge, across, up, row.name in beaten) for row in measured] if judge.endswith("p50") else []
    steps = _staircase([row for row in measured if row.name not in beaten], judge, across, up)
    shapes += [*tails, Line(tuple(steps), "front")]
    dots: list[Shape] = []
    for row in measured:
        x, y = across(_latency(row, judge)), up(_miou(row))
        style = "beaten" if row.name in beaten else "front"
        shapes += _whiskers(row, judge, across, up, "beaten-whisker" if style == "beaten" else "whisker")
        dots.append(Dot(x, y, 5.5, style, _tooltip(row, judge)))
        if row.name == chosen:
            dots.append(Dot(x, y, 10, "chosen"))
    return shapes + dots + _labels(measured, judge, beaten, chosen, across, up)


def _latency(row: Row, judge: LatencyMetric) -> float:
    assert row.latency is not None
    return row.latency.judged_ms(judge)


def _miou(row: Row) -> float:
    assert row.accuracy is not None
    return row.accuracy.miou_pct


def _tail(row: Row, judge: LatencyMetric) -> float:
    assert row.latency is not None
    return (row.latency.model if judge.startswith("model") else row.latency.end_to_end).p95_ms


def _axes(rows: Sequence[Row], judge: LatencyMetric, budget_ms: float | None) -> tuple[Axis, Axis]:
    times = [_latency(row, judge) for row in rows] + [_tail(row, judge) for row in rows] + ([budget_ms] if budget_ms else [])
    low, high = min(times), max(times)
    left, right = float(_LEFT), float(WIDTH - _RIGHT)
    if high > _LOG_FROM * low:
        low, high = low / 1.3, high * 1.3
        across = Axis(low, high, left, right, log_ticks(low, high), True)
    else:
        low, high = 0.0, high * 1.12
        across = Axis(low, high, left, right, nice_ticks(low, high, 8))
    ends = [value for row in rows if row.accuracy for value in (row.accuracy.miou_low_pct, row.accuracy.miou_high_pct, _miou(row))]
    margin = max(0.08 * (max(ends) - min(ends)), 0.5)
    bottom, top = max(0.0, min(ends) - margin), min(100.0, max(ends) + margin)
    return across, Axis(bottom, top, float(HEIGHT - _BOTTOM), float(_TOP), nice_ticks(bottom, top))


def _frame(across: Axis, up: Axis, judge: LatencyMetric, budget_ms: float | None) -> list[Shape]:
    bottom, top, left, right = up.start, up.end, across.start, across.end
    shapes: list[Shape] = []
    if budget_ms is not None:
        shapes.append(Area(across(budget_ms), top, right - across(budget_ms), bottom - top, "over"))
    for tick in up.ticks:
        shapes += [Line(((left, up(tick)), (right, up(tick))), "grid"), Text(left - 8, up(tick) + 4, f"{tick:g}", "label", "end")]
    for tick in across.ticks:
        shapes += [Line(((across(tick), bottom), (across(tick), bottom + 5)), "axis")]
        shapes.append(Text(across(tick), bottom + 20, f"{tick:g}", "label", "middle"))
    shapes.append(Line(((left, top), (left, bottom), (right, bottom)), "axis"))
    scale = ", logarithmic" if across.logarithmic else ""
    shapes.append(
        Text((left + right) / 2, HEIGHT - 14, f"latency, {judge.replace('-p', ' p')} in ms{scale} (left is better)", "label", "middle", 13)
    )
    shapes.append(
        Text(left - 40, top - 20, "mIoU in % (up is better); bars: 95 % interval over images; bands: p50 to p95", "label", "start", 13)
    )
    if budget_ms is not None:
        x = across(budget_ms)
        shapes.append(Line(((x, top), (x, bottom)), "budget"))
        shapes.append(Text(x + 5, bottom - 8, f"budget {budget_ms:g} ms", "budget", "start", 12))
        if x + 5 + len(shapes[-1].text) * 7 > right:  # type: ignore[union-attr]
            shapes[-1] = Text(x - 5, bottom - 8, f"budget {budget_ms:g} ms", "budget", "end", 12)
    return shapes


def _staircase(front: Sequence[Row], judge: LatencyMetric, across: Axis, up: Axis) -> list[tuple[float, float]]:
    """The best mIoU that any latency buys: flat until the next better row, then up."""
    steps: list[tuple[float, float]] = []
    for row in sorted(front, key=lambda row: (_latency(row, judge), _miou(row))):
        x, y = across(_latency(row, judge)), up(_miou(row))
        steps += [(x, steps[-1][1])] if steps else [(x, up.start)]
        steps.append((x, y))
    return [*steps, (across.end, steps[-1][1])]


def _whiskers(row: Row, judge: LatencyMetric, across: Axis, up: Axis, style: str) -> list[Shape]:
    assert row.accuracy is not None
    x = across(_latency(row, judge))
    low, high = up(row.accuracy.miou_low_pct), up(row.accuracy.miou_high_pct)
    shapes: list[Shape] = [Line(((x, low), (x, high)), style)]
    shapes += [Line(((x - 4, end), (x + 4, end)), style) for end in (low, high)]
    return shapes


def _tail_shape(row: Row, judge: LatencyMetric, across: Axis, up: Axis, is_beaten: bool) -> Shape:
    y = up(_miou(row))
    return Line(((across(_latency(row, judge)), y), (across(_tail(row, judge)), y)), "beaten-tail" if is_beaten else "tail")


def _tooltip(row: Row, judge: LatencyMetric) -> str:
    return f"{row.name}: {_latency(row, judge):.2f} ms, mIoU {_miou(row):.2f} %"


def _labels(rows: Sequence[Row], judge: LatencyMetric, beaten: Sequence[str], chosen: str | None, across: Axis, up: Axis) -> list[Shape]:
    """Each name at the place around its dot that covers least of what is there already."""
    dots = [(across(_latency(row, judge)), up(_miou(row))) for row in rows]
    placed: list[Text] = []
    for row, (x, y) in sorted(zip(rows, dots, strict=True), key=lambda pair: pair[0].name in beaten):
        style, bold = ("beaten" if row.name in beaten else "front"), row.name == chosen
        options = [
            Text(x + 12, y - 8, row.name, style, "start", bold=bold), Text(x - 12, y - 8, row.name, style, "end", bold=bold),
            Text(x + 12, y + 17, row.name, style, "start", bold=bold), Text(x - 12, y + 17, row.name, style, "end", bold=bold),
            Text(x + 8, y - 24, row.name, style, "start", bold=bold), Text(x + 8, y + 33, row.name, style, "start", bold=bold),
            Text(x - 8, y - 24, row.name, style, "end", bold=bold), Text(x - 8, y + 33, row.name, style, "end", bold=bold),
        ]  # fmt: skip
        placed.append(min(options, key=lambda text: _cost(text, placed, dots, across, up)))
    return list(placed)


def _cost(text: Text, placed: Sequence[Text], dots: Sequence[tuple[float, float]], across: Axis, up: Axis) -> float:
    left, top, right, bottom = text.box
    cost = 50.0 * max(0.0, across.start - left, right - across.end, up.end - top, bottom - up.start)
    for other in placed:
        a, b, c, d = other.box
        cost += max(0.0, min(right, c) - max(left, a)) * max(0.0, min(bottom, d) - max(top, b))
    for x, y in dots:
        cost += 300.0 * (left - 8 < x < right + 8 and top - 8 < y < bottom + 8)
    return cost
