"""The table on the terminal, and the few lines around it."""

from __future__ import annotations

from collections.abc import Sequence

from rdd_deploy import console
from rdd_deploy.benchmark.records import Benchmark, Change, Row
from rdd_deploy.console import Cell

_HEADINGS: tuple[Cell, ...] = (
    "bundle", ("mIoU %", "95 % interval"), ("change", "95 % interval"), ("model ms", "p50/p95/p99"), ("end to end ms", "p50/p95/p99"),
    ("worst class", "its change"), ("fps model", "end to end"), ("cold ms", "peak MiB"), ("file", "MiB"),
)  # fmt: skip
_FEWEST = 4
"""Columns that any terminal gets; from the right the others are left out where they don't fit. The report has all."""


def show(benchmark: Benchmark) -> None:
    """Print one table per device, the failures and the decisions."""
    protocol, machine = benchmark.protocol, benchmark.machine
    for device, rows in benchmark.tables().items():
        title = (
            f"{protocol.data} {protocol.split}, {protocol.images} images; {device}: {machine.where(device)},"
            f" {protocol.threads} threads"
        )
        chosen = [decision.chosen for decision in benchmark.decisions if decision.device == device and decision.chosen]
        _print(rows, title, benchmark.dominated, chosen)
    for row in benchmark.rows:
        if row.failure:
            console.mark(f"{row.name} failed:", row.failure, "red")
    for decision in benchmark.decisions:
        console.mark("decision:", decision.sentence, "green" if decision.chosen else "red")


def _print(rows: Sequence[Row], title: str, dominated: Sequence[str] = (), chosen: Sequence[str] = ()) -> None:
    """As many columns as the terminal is wide."""
    style = {**dict.fromkeys(dominated, "bright_black"), **dict.fromkeys(chosen, "bold green")}
    styles = ["red" if row.failure else style.get(row.name) for row in rows]
    cells = [_cells(row) for row in rows]
    tables = [
        console.table(_HEADINGS[:columns], [row[:columns] for row in cells], left=(0, 5), styles=styles, framed=False)
        for columns in range(len(_HEADINGS), _FEWEST - 1, -1)
    ]
    console.show(title, *tables)


def _cells(row: Row) -> list[Cell]:
    size = "" if row.file_size_bytes is None else f"{row.file_size_bytes / 2**20:.1f}"
    cold: Cell = (
        ""
        if row.cold_start is None
        else (f"{row.cold_start.first_label_ms:.0f}", f"{row.cold_start.peak_memory_mib:.0f}")
    )
    if row.accuracy is None or row.latency is None or row.failure:
        return [row.name, "failed", "", "", "", "", "", cold, size]
    accuracy, latency = row.accuracy, row.latency
    model, whole = latency.model, latency.end_to_end
    change, worst = (("no float", "bundle measured"), "") if row.lacks_reference else _change(row.change)
    return [
        row.name, (f"{accuracy.miou_pct:.2f}", f"{accuracy.miou_low_pct:.1f} to {accuracy.miou_high_pct:.1f}"), change,
        f"{model.p50_ms:.2f}/{model.p95_ms:.2f}/{model.p99_ms:.2f}", f"{whole.p50_ms:.2f}/{whole.p95_ms:.2f}/{whole.p99_ms:.2f}", worst,
        (_fps(latency.model_throughput_fps), _fps(latency.end_to_end_throughput_fps)), cold, size,
    ]  # fmt: skip


def _fps(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.1f}"


def _change(change: Change | None) -> tuple[Cell, Cell]:
    if change is None:
        return "reference", ""
    unchanged = change.worst_class is None or (change.worst_class_change_pct or 0) > -0.005
    worst: Cell = "none worse" if unchanged else (str(change.worst_class), f"{change.worst_class_change_pct:+.2f}")
    return (
        f"{change.miou_change_pct:+.2f}",
        f"{change.miou_change_low_pct:+.2f} to {change.miou_change_high_pct:+.2f}",
    ), worst
