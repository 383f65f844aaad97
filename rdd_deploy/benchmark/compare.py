"""Rows of earlier ``benchmark.json`` files in the new one's table; refused where machine, protocol or
classes differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rdd_deploy.benchmark.records import Benchmark, Machine, Protocol, Row
from rdd_deploy.errors import BundleError

_MACHINE = ("cpu_model", "architecture", "cores", "governor", "gpu")
"""Library versions aren't among them: comparing two is what people do, and every row names its own.
Nor is the device that was asked for: tables go by the one that a row really ran on."""


def differences(new: tuple[Machine, Protocol], old: tuple[Machine, Protocol]) -> list[str]:
    """Every fact that keeps two measurements out of one table, as ``name: old against new``; empty if there is none."""
    pairs = [(name, getattr(old[0], name), getattr(new[0], name)) for name in _MACHINE]
    pairs += [
        (name, getattr(old[1], name), getattr(new[1], name)) for name in Protocol.model_fields if name != "device_asked"
    ]
    return [f"{name}: {_short(before)} against {_short(after)}" for name, before, after in pairs if before != after]


def check_comparable(
    machine: Machine, protocol: Protocol, classes: Sequence[str], earlier: Sequence[tuple[Path, Benchmark]]
) -> None:
    """Raise BundleError, with all that differs in each file, unless the earlier rows may stand in one table with new
    ones.
    """
    problems = []
    for path, old in earlier:
        differing = differences((machine, protocol), (old.machine, old.protocol))
        if not differing and old.classes != list(classes):
            differing = ["classes: others"]
        problems += [f"{path}: {text}" for text in differing]
    if problems:
        raise BundleError(
            "--compare takes files of this machine and protocol only; what differs (there against here):",
            *problems,
            "measure those bundles here, in one call with these, or leave --compare out",
        )


def merged(benchmark: Benchmark, earlier: Sequence[tuple[Path, Benchmark]]) -> Benchmark:
    """The benchmark with the earlier rows, which ``check_comparable`` passed, renamed where a name is taken, and their
    warnings.
    """
    rows, warnings = list(benchmark.rows), list(benchmark.warnings)
    for path, old in earlier:
        rows += _marked(old.rows, str(path), {row.name for row in rows})
        warnings += [f"{path}: {text}" for text in old.warnings]
    return benchmark.model_copy(update={"rows": rows, "warnings": warnings})


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
        change = row.change and row.change.model_copy(
            update={"reference": names.get(row.change.reference, row.change.reference)}
        )
        return row.model_copy(update={"source": row.source or source, "name": names[row.name], "change": change})

    return [marked(row) for row in rows]


def _short(value: object) -> str:
    text = str(value)
    return text[:12] + "…" if len(text) == 64 else text
