"""The table on the terminal, and the few lines around it."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table

from rdd_deploy import console
from rdd_deploy.benchmarking.records import Benchmark, Change, Row, by_device

_HEADINGS = (
    "bundle", "mIoU %\n95 % interval", "change\n95 % interval", "model ms\np50/p95/p99", "end to end ms\np50/p95/p99", "worst class\nits change",
    "fps model\nend to end", "cold ms\npeak MiB", "file\nMiB",
)  # fmt: skip
_FEWEST = 4
"""Columns that any terminal gets; from the right the others are left out where they don't fit. The report has all."""


def show(benchmark: Benchmark) -> None:
    """Print one table per device, what was set apart, the failures and the decisions."""
    protocol, machine = benchmark.protocol, benchmark.machine
    for device, rows in benchmark.tables().items():
        title = f"{protocol.data} {protocol.split}, {protocol.images} images; {device}: {machine.where(device)}, {protocol.threads} threads"
        chosen = [decision.chosen for decision in benchmark.decisions if decision.device == device and decision.chosen]
        _print(rows, title, benchmark.dominated, chosen)
    for other in benchmark.apart:
        for device, rows in by_device(other.rows).items():
            _print(rows, f"{other.source}, {device}: {other.machine.where(device)}; measured otherwise ({'; '.join(other.differences)})")
    for row in benchmark.rows:
        if row.failure:
            console.out.print(f"[red]{escape(row.name)} failed:[/] {escape(row.failure)}")
    for decision in benchmark.decisions:
        mark = "[green]decision:[/]" if decision.chosen else "[red]decision:[/]"
        console.out.print(f"{mark} {escape(decision.sentence)}")


def _print(rows: Sequence[Row], title: str, dominated: Sequence[str] = (), chosen: Sequence[str] = ()) -> None:
    """Into a file or pipe the whole table goes, on a terminal as many columns as it is wide."""
    console.out.print(f"[bold]{escape(title)}[/]")
    if not console.out.is_terminal:
        Console(file=console.out.file, width=1000, highlight=False).print(_table(rows, len(_HEADINGS), dominated, chosen))
        return
    tables = [_table(rows, columns, dominated, chosen) for columns in range(len(_HEADINGS), _FEWEST - 1, -1)]
    wide = console.out.options.update(width=1000)
    fitting = (table for table in tables if Measurement.get(console.out, wide, table).maximum <= console.out.width)
    console.out.print(next(fitting, tables[-1]), soft_wrap=False)


def _table(rows: Sequence[Row], columns: int, dominated: Sequence[str], chosen: Sequence[str]) -> Table:
    table = Table(header_style="bold", box=SIMPLE_HEAD)
    for number, heading in enumerate(_HEADINGS[:columns]):
        # Names are folded where nothing else fits: cut off they would read alike.
        table.add_column(heading, justify="left" if number in (0, 5) else "right", no_wrap=number > 0, overflow="fold")
    for row in rows:
        style = "bold green" if row.name in chosen else "bright_black" if row.name in dominated else None
        table.add_row(*(escape(cell) for cell in _cells(row)[:columns]), style="red" if row.failure else style)
    return table


def _cells(row: Row) -> list[str]:
    size = "" if row.file_size_bytes is None else f"{row.file_size_bytes / 2**20:.1f}"
    cold = "" if row.cold_start is None else f"{row.cold_start.first_label_ms:.0f}\n{row.cold_start.peak_memory_mib:.0f}"
    if row.accuracy is None or row.latency is None or row.failure:
        return [row.name, "failed", "", "", "", "", "", cold, size]
    accuracy, latency = row.accuracy, row.latency
    model, whole = latency.model, latency.end_to_end
    change, worst = ("no float\nbundle measured", "") if row.lacks_reference else _change(row.change)
    return [
        row.name, f"{accuracy.miou_pct:.2f}\n{accuracy.miou_low_pct:.1f} to {accuracy.miou_high_pct:.1f}", change,
        f"{model.p50_ms:.2f}/{model.p95_ms:.2f}/{model.p99_ms:.2f}", f"{whole.p50_ms:.2f}/{whole.p95_ms:.2f}/{whole.p99_ms:.2f}", worst,
        f"{_fps(latency.model_throughput_fps)}\n{_fps(latency.end_to_end_throughput_fps)}", cold, size,
    ]  # fmt: skip


def _fps(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.1f}"


def _change(change: Change | None) -> tuple[str, str]:
    if change is None:
        return "reference", ""
    unchanged = change.worst_class is None or (change.worst_class_change_pct or 0) > -0.005
    worst = "none worse" if unchanged else f"{change.worst_class}\n{change.worst_class_change_pct:+.2f}"
    return f"{change.miou_change_pct:+.2f}\n{change.miou_change_low_pct:+.2f} to {change.miou_change_high_pct:+.2f}", worst
