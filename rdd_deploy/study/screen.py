"""How a study tells what goes on: a table that is drawn again and again on a terminal, a line an event elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from rich.live import Live
from rich.table import Table

from rdd_deploy import console
from rdd_deploy.study.plan import Plan, Run, TeacherRun
from rdd_deploy.study.standing import read_rows, read_summary
from rdd_deploy.training.forecast import BESIDE, in_words

EVERY_S = 1.0
"""Between two drawings."""


class Now(NamedTuple):
    """What the folders don't say: which runs wait, which go on (False: in another process), which failed, and how many
    go on at once.
    """

    waiting: Sequence[Run | TeacherRun]
    going_on: Mapping[Path, bool]
    failed: Collection[Path]
    at_once: int


class Screen:
    """What is told of a plan's runs; all of it is read from their folders."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._live: Live | None = None
        self._drawn = 0.0

    def __enter__(self) -> Screen:
        if (terminal := console.terminal()) is not None:
            self._live = Live(console=terminal, auto_refresh=False, transient=True)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def event(self, text: str) -> None:
        """One line, where no table shows it."""
        if self._live is None:
            console.info(text)

    def finished(self, run: Run | TeacherRun) -> None:
        """A run has come to its end."""
        summary = read_summary(run.folder) or {}
        miou, seconds = _percent((summary.get("last") or {}).get("miou_pct")), summary.get("train_seconds")
        done = sum(one.folder.finished for one in self.plan.runs)
        console.info(
            f"done   {run.title}: mIoU {miou} %, {seconds} s of training; {done} of {len(self.plan.runs)} runs are"
            " finished"
        )

    def failed(self, run: Run | TeacherRun, why: str) -> None:
        """A run has failed."""
        console.warn(f"{run.title} failed: {why}")

    def draw(self, now: Callable[[], Now]) -> None:
        """Show where all runs stand, where there is a terminal."""
        if self._live is not None and time.monotonic() - self._drawn > EVERY_S:
            self._drawn = time.monotonic()
            self._live.update(self.table(now()), refresh=True)

    def table(self, now: Now) -> Table:
        """Variants by seeds: what each run has reached."""
        cells = {(run.variant, run.seed): self._cell(run, now) for run in self.plan.runs}
        rows = [(name, *(cells.get((name, seed), "") for seed in self.plan.seeds)) for name in self.plan.study.variants]
        rows += [
            (one.title, self._cell(one, now), *[""] * (len(self.plan.seeds) - 1)) for one in self.plan.teachers.values()
        ]
        left = seconds_left(
            now.waiting, [one for one in self.plan.everything if one.folder.path in now.going_on], self.plan.everything
        )
        total = f", about {in_words(left / now.at_once)} to come" if left else ""
        table = console.table(
            (self.plan.folder.name, *(f"seed {seed}" for seed in self.plan.seeds)), rows, framed=False
        )
        table.caption = f"mIoU in %{total}; Ctrl-C saves and stops, the same command goes on"
        return table

    def _cell(self, run: Run | TeacherRun, now: Now) -> str:
        path = run.folder.path
        if path in now.failed:
            return "failed"
        if path in now.going_on:
            rows = read_rows(run.folder)
            left = seconds_left([], [run], [run])
            parts = [f"epoch {len(rows)}/{run.recipe.train.epochs}", last_miou(rows), in_words(left) if left else ""]
            return " ".join(part for part in (*parts, "" if now.going_on[path] else "(another process)") if part)
        if run in now.waiting:
            return "waits"
        summary = read_summary(run.folder)
        return _percent((summary or {}).get("last", {}).get("miou_pct")) if summary else ""


def last_miou(rows: list[dict[str, str]]) -> str:
    """The newest measured mIoU of a run's metrics, in %; empty where none was measured yet."""
    measured = [value for row in rows if (value := row.get("miou_pct"))]
    with suppress(ValueError):
        return f"{float(measured[-1]):.2f}" if measured else ""
    return ""


def seconds_left(
    waiting: Collection[Run | TeacherRun], active: Collection[Run | TeacherRun], known: Collection[Run | TeacherRun]
) -> float:
    """Seconds until these runs end, one after the other, by what an epoch took so far; 0 where nothing is known yet."""
    per_epoch: dict[str, float] = {}
    for run in known:
        rows = read_rows(run.folder)
        with suppress(ValueError, KeyError, IndexError, TypeError):
            per_epoch[_kind(run)] = BESIDE * float(rows[-1]["seconds"]) / len(rows)
    if not per_epoch:
        return 0.0
    typical = sum(per_epoch.values()) / len(per_epoch)
    begun = {run.folder.path for run in active}
    return sum(
        per_epoch.get(_kind(run), typical)
        * (run.recipe.train.epochs - (len(read_rows(run.folder)) if run.folder.path in begun else 0))
        for run in (*waiting, *active)
    )


def _kind(run: Run | TeacherRun) -> str:
    return run.variant if isinstance(run, Run) else run.title


def _percent(value: object) -> str:
    return f"{value:.2f}" if isinstance(value, (int, float)) else "–"
