"""The rows of ``suggest``: figures, what is worth training, tables, and the command that begins it."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rdd_deploy import console
from rdd_deploy.benchmark.pareto import dominated
from rdd_deploy.suggest.candidates import prior

RECIPE, RECIPE_SIZE = "recipes/camvid_effnet_lite0.yaml", (240, 320)
"""The recipe that the printed command trains by, and the frame size in it."""
SMALLEST_CROP = 32


@dataclass(frozen=True)
class Row:
    """One candidate; times in milliseconds, of one frame. ``failure`` says why there are no figures."""

    encoder: str
    head: str
    bundle_mb: float | None = None
    parameters: int | None = None
    call_p50_ms: float | None = None
    call_p95_ms: float | None = None
    network_p50_ms: float | None = None
    failure: str | None = None

    @property
    def measured(self) -> bool:
        """Whether it has figures."""
        return self.call_p50_ms is not None

    def record(self) -> dict[str, Any]:
        """The row as JSON has it, with what was known before."""
        return asdict(self) | prior(self.encoder)._asdict()


def by_latency(rows: Sequence[Row]) -> list[Row]:
    """The fastest first, failures last."""
    return sorted(rows, key=lambda row: row.call_p50_ms if row.call_p50_ms is not None else math.inf)


def worth_training(rows: Sequence[Row], latency_ms: float | None) -> list[Row]:
    """The rows within the latency that no other one beats in both p50 and ImageNet accuracy, the most accurate first.

    Rows without a known accuracy can't be placed, so they are never among them.
    """
    placed = [(row, row.call_p50_ms, prior(row.encoder).top1_pct) for row in rows]
    known = [
        (row, ms, top1)
        for row, ms, top1 in placed
        if ms is not None and top1 is not None and (latency_ms is None or ms <= latency_ms)
    ]
    flags = dominated([(ms, top1) for _, ms, top1 in known])
    front = [(row, top1) for (row, _, top1), beaten in zip(known, flags, strict=True) if not beaten]
    return [row for row, _ in sorted(front, key=lambda one: -one[1])]


def unknown_within(rows: Sequence[Row], latency_ms: float | None) -> list[str]:
    """Encoders that are fast enough but of unknown accuracy."""
    return [
        row.encoder
        for row in rows
        if row.call_p50_ms is not None
        and prior(row.encoder).top1_pct is None
        and (latency_ms is None or row.call_p50_ms <= latency_ms)
    ]


def command(row: Row, size: tuple[int, int]) -> str:
    """What trains a candidate on CamVid; without a teacher, which gains nothing in so long a training."""
    words = ["rdd-deploy", "train", RECIPE, f"student.encoder={row.encoder}", f"student.head={row.head}"]
    if size != RECIPE_SIZE:
        side = min(size)
        small = max(SMALLEST_CROP, 2 * side // 3)  # the recipe's shares: 160 of 240
        words += [
            f"data.size=[{size[0]},{size[1]}]",
            f"augment.crop=[{side},{side}]",
            f"train.progressive=[[0.0,{small}],[0.5,{side}]]",
        ]
    return shlex.join(words)


def show(title: str, rows: Sequence[Row], chosen: Sequence[Row]) -> None:
    """Print the table; what is worth training is marked."""
    headings = (
        "encoder",
        "head",
        "MB",
        "params M",
        "p50 ms",
        "p95 ms",
        "network ms",
        "ImageNet %",
        "CamVid mIoU %",
        "",
    )
    cells = [
        (
            row.encoder,
            row.head,
            *figures(row),
            row.failure or ("worth training" if row in chosen else prior(row.encoder).note),
        )
        for row in rows
    ]
    console.show(
        title,
        console.table(headings, cells, left=(0, 1, 9), styles=["bold" if row in chosen else None for row in rows]),
    )


def figures(row: Row) -> tuple[str, ...]:
    """The numbers as a table shows them."""
    known = prior(row.encoder)
    parameters = None if row.parameters is None else row.parameters / 1e6
    values = (
        (row.bundle_mb, 1), (parameters, 2), (row.call_p50_ms, 2), (row.call_p95_ms, 2), (row.network_p50_ms, 2),
        (known.top1_pct, 1),
    )  # fmt: skip
    camvid = "" if known.camvid_pct is None else f"{known.camvid_pct:.1f} {known.camvid_start}"
    return *("" if value is None else f"{value:.{digits}f}" for value, digits in values), camvid
