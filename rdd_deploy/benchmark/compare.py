"""Rows of an earlier ``benchmark.json`` beside the new ones: in the same table only if machine and protocol are the same."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rdd_deploy.benchmark.records import Benchmark, Incomparable, Machine, Protocol, Row

_MACHINE = ("cpu_model", "architecture", "cores", "governor", "gpu")
"""Library versions aren't among them: comparing two is what people do, and every row names its own.
Nor is the device that was asked for: tables go by the one that a row really ran on."""


def differences(new: tuple[Machine, Protocol], old: tuple[Machine, Protocol]) -> list[str]:
    """Every fact that keeps two measurements out of one table, as ``name: old against new``; empty if there is none."""
    pairs = [(name, getattr(old[0], name), getattr(new[0], name)) for name in _MACHINE]
    pairs += [(name, getattr(old[1], name), getattr(new[1], name)) for name in Protocol.model_fields if name != "device_asked"]
    return [f"{name}: {_short(before)} against {_short(after)}" for name, before, after in pairs if before != after]


def merged(benchmark: Benchmark, earlier: Sequence[tuple[Path, Benchmark]]) -> Benchmark:
    """The benchmark with the earlier rows: joined where comparable (renamed if the name is taken), else set apart with the reasons.

    Rows that stood apart in an earlier file come along, and are judged again: they may well be comparable with these.
    """
    rows, apart, warnings = list(benchmark.rows), list(benchmark.apart), list(benchmark.warnings)
    warnings += [f"{path}: {text}" for path, old in earlier for text in old.warnings]
    for group in (group for path, old in earlier for group in _groups(path, old)):
        differing = differences((benchmark.machine, benchmark.protocol), (group.machine, group.protocol))
        classes = next((list(row.accuracy.iou_pct) for row in group.rows if row.accuracy), benchmark.classes)
        differing += ["classes: others"] if not differing and classes != benchmark.classes else []
        taken = set() if differing else {row.name for row in rows}
        marked = _marked(group.rows, group.source, taken)
        if differing:
            apart.append(group.model_copy(update={"differences": differing, "rows": marked}))
            warnings.append(f"{group.source} was measured otherwise ({'; '.join(differing)}); its rows stand in a table of their own")
        else:
            rows += marked
    return benchmark.model_copy(update={"rows": rows, "apart": apart, "warnings": warnings})


def _groups(path: Path, old: Benchmark) -> list[Incomparable]:
    """A file's own rows, and those that stand apart in it."""
    return [Incomparable(source=str(path), differences=[], machine=old.machine, protocol=old.protocol, rows=old.rows), *old.apart]


def _marked(rows: Sequence[Row], source: str, taken: set[str]) -> list[Row]:
    """The rows with their source and a name that isn't taken; references follow."""
    names: dict[str, str] = {}
    for row in rows:
        name, number = row.name, 1
        while name in taken:
            name = f"{row.name} ({row.measured_utc[:16].replace('T', ' ')}{f', {number}' if number > 1 else ''})"
            number += 1
        taken.add(name)
        names[row.name] = name

    def marked(row: Row) -> Row:
        change = row.change and row.change.model_copy(update={"reference": names.get(row.change.reference, row.change.reference)})
        return row.model_copy(update={"source": row.source or source, "name": names[row.name], "change": change})

    return [marked(row) for row in rows]


def _short(value: object) -> str:
    text = str(value)
    return text[:12] + "…" if len(text) == 64 else text
