"""What a study has found so far: one row a run in ``results.csv``, one a variant in ``table.md``, and the plot."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rdd_deploy import console
from rdd_deploy.errors import missing_package
from rdd_deploy.study import plot
from rdd_deploy.study.plan import Plan, Run
from rdd_deploy.study.standing import Found, Standing, look, read_summary, taught_by
from rdd_deploy.study.statistics import Row, mean_and_deviation, paired_difference
from rdd_deploy.utils import files
from rdd_deploy.utils.text import shown

NO_PLOT = str(missing_package("matplotlib", "report", "the plot"))
MEASURED = (
    "mIoU of the last epoch (the end of the schedule; the best epoch is chosen on the same frames and flatters), mean ±"
    " sample deviation over seeds. Difference: paired by seed, with its 95 % interval by Student's t; each interval is"
    " of one comparison alone. Seconds: training only."
)


@dataclass(frozen=True)
class Result:
    """A finished run."""

    run: Run
    summary: dict[str, Any]
    teacher_sha256: str

    @property
    def miou(self) -> float | None:
        """Of the last epoch, in %; None where it couldn't be measured."""
        return _number(self.summary["last"].get("miou_pct"))

    @property
    def best(self) -> float | None:
        """Of the best epoch, in %; with the offsets of ``train.class_bias`` where those were kept."""
        return _number(self.summary["best"].get("miou_pct"))

    @property
    def seconds(self) -> float | None:
        """Of training."""
        return _number(self.summary.get("train_seconds"))


def finished(plan: Plan) -> list[Result]:
    """The finished runs of a plan that are its own, in the order of variants and seeds."""
    found = []
    for variant in plan.study.variants:
        for run in plan.runs:
            if run.variant == variant and look(run).standing is Standing.DONE and (summary := read_summary(run.folder)):
                found.append(Result(run, summary, taught_by(run.folder)))
    return found


def rows_of(plan: Plan, results: Sequence[Result]) -> list[Row]:
    """One row a variant, in the study's order."""
    values = {
        name: {one.run.seed: one.miou for one in results if one.run.variant == name and one.miou is not None}
        for name in plan.study.variants
    }
    rows = []
    for name, miou in values.items():
        own = [one for one in results if one.run.variant == name]
        mean, deviation = mean_and_deviation(list(miou.values())) if miou else (None, None)
        difference = None if name == plan.study.baseline else paired_difference(miou, values[plan.study.baseline])
        rows.append(
            Row(
                name,
                miou,
                mean,
                deviation,
                _mean([one.best for one in own]),
                difference,
                _mean([one.seconds for one in own]),
            )
        )
    return rows


def write_results(plan: Plan, results: Sequence[Result]) -> list[str]:
    """Write ``results.csv``, ``table.md`` and, where matplotlib is installed, ``plot.png``, together or none; returns
    their names.
    """
    rows = rows_of(plan, results)
    contents = {"results.csv": csv_text(plan, results).encode(), "table.md": markdown(plan, results, rows).encode()}
    if plot.available() and any(row.miou for row in rows):
        contents["plot.png"] = plot.png(rows, plan.study.baseline, _teacher_miou(results))
    files.write_together({plan.folder / name: content for name, content in contents.items()})
    return list(contents)


def csv_text(plan: Plan, results: Sequence[Result]) -> str:
    """One row a run."""
    classes = list(dict.fromkeys(name for one in results for name in one.summary["last"].get("iou_pct") or {}))
    text = io.StringIO()
    names = [
        "variant", "seed", "miou_last_pct", "miou_best_pct", "best_epoch", *(f"iou_{name}_pct" for name in classes), "train_seconds", "epochs",
        "steps", "parameters", "precision", "run", "teacher_sha256", "git_commit", "version", "machine",
    ]  # fmt: skip
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    for one in results:
        summary = one.summary
        iou = summary["last"].get("iou_pct") or {}
        writer.writerow([
            one.run.variant, one.run.seed, one.miou, one.best, summary["best"].get("epoch"), *(iou.get(name) for name in classes), one.seconds,
            summary.get("epochs"), summary.get("steps"), summary.get("parameters"), summary.get("precision"), one.run.folder.path.name,
            one.teacher_sha256, summary.get("git_commit"), (summary.get("versions") or {}).get("rdd-deploy"), summary.get("machine"),
        ])  # fmt: skip
    return text.getvalue()


def markdown(plan: Plan, results: Sequence[Result], rows: Sequence[Row]) -> str:
    """The whole of ``table.md``."""
    baseline = plan.study.baseline
    heads = [
        "variant",
        "seeds",
        "mIoU %",
        "each seed",
        f"difference to {_cell(baseline)}",
        "best epoch's mIoU %",
        "seconds",
    ]
    lines = [
        f"# {shown(plan.folder.name)}",
        "",
        *teacher_lines(results),
        "| " + " | ".join(heads) + " |",
        "|---" * len(heads) + "|",
    ]
    for row in rows:
        planned = len(plan.study.seeds_of(row.variant))
        count = str(len(row.miou)) if len(row.miou) == planned else f"{len(row.miou)} of {planned}"
        cells = [
            _cell(row.variant), count, mean_text(row), " / ".join(f"{value:.2f}" for value in row.miou.values()) or "–",
            difference_text(row, baseline), _fixed(row.best, 2), _fixed(row.seconds, 0),
        ]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", MEASURED, *(f"\n{note}" for note in notes(plan, results)), ""])


def show(plan: Plan, results: Sequence[Result]) -> None:
    """Print the table."""
    for line in teacher_lines(results):
        if line:
            console.info(line)
    baseline = plan.study.baseline
    heads = ("variant", "seeds", "mIoU %", f"difference to {baseline}", "seconds")
    cells = [
        (row.variant, str(len(row.miou)), mean_text(row), difference_text(row, baseline), _fixed(row.seconds, 0))
        for row in rows_of(plan, results)
    ]
    console.show(
        "mIoU of the last epoch, mean ± deviation; difference paired by seed, 95 % interval",
        console.table(heads, cells),
    )


def mean_text(row: Row) -> str:
    """``61.65 ± 1.27``; a single value stands alone."""
    if row.mean is None:
        return "–"
    return f"{row.mean:.2f}" + (f" ± {row.deviation:.2f}" if row.deviation is not None else "")


def difference_text(row: Row, baseline: str) -> str:
    """``+1.23 (-0.40 to +2.86)``, with the number of pairs where it isn't that of the seeds."""
    if row.variant == baseline:
        return "baseline"
    if row.difference is None:
        return "–"
    mean, half, pairs = row.difference
    interval = "one pair: no interval" if half is None else f"{mean - half:+.2f} to {mean + half:+.2f}"
    note = "" if pairs == len(row.miou) or half is None else f"; {pairs} pairs"
    return f"{mean:+.2f} ({interval}{note})"


def teacher_lines(results: Sequence[Result]) -> list[str]:
    """What taught the students, and how good it is itself."""
    taught: dict[str, None] = {}
    for one in results:
        if isinstance(teacher := one.summary.get("teacher"), dict):
            miou = _number(teacher.get("miou_pct"))
            where, views = shown(teacher.get("checkpoint")), _views(teacher.get("views"))
            taught[f"Teacher: {where}, mIoU {_fixed(miou, 2)} % as it teaches{views}"] = None
    return [line for text in taught for line in (text, "")]


def _views(views: Any) -> str:
    if not isinstance(views, dict):
        return ""
    told = views.get("scales")
    scales = ", ".join(f"{scale:g}" for scale in told if _number(scale)) if isinstance(told, list) else "unknown"
    return (
        f" ({views.get('height')}x{views.get('width')}, scales {scales}{', mirrored too' if views.get('flip') else ''})"
    )


def notes(plan: Plan, results: Sequence[Result]) -> list[str]:
    """What a reader must know before comparing the rows."""
    found = []
    missing = len(plan.runs) - len(results)
    if missing:
        found.append(f"Not finished: {missing} of {len(plan.runs)} runs are missing.")
    if results:
        protocol = results[0].summary["protocol"]
        found.append(f"Protocol: {', '.join(f'{key} {shown(value)}' for key, value in protocol.items())}.")
    for what, values in (
        ("commits", {str(one.summary.get("git_commit")) for one in results}),
        ("machines", {str(one.summary.get("machine")) for one in results}),
        ("precisions", {str(one.summary.get("precision")) for one in results}),
        ("schedules (epochs)", {str(one.summary.get("epochs")) for one in results}),
    ):
        told = ", ".join(shown(value) for value in sorted(values))
        found.append(
            f"Runs of different {what}: {told}."
            if len(values) > 1
            else f"{what.partition(' ')[0].capitalize()}: {told}."
        )
    if offsets := [text for one in results if (text := _offsets(one))]:
        found.append(
            "train.class_bias, fitted to the best epoch's weights, mIoU % without and with its offsets:"
            f" {'; '.join(offsets)}. Where they were kept, the best epoch's column holds them, mIoU and the differences"
            " don't."
        )
    teachers = {one.teacher_sha256 for one in results if one.teacher_sha256}
    if len(teachers) > 1:
        found.append(f"The students had {len(teachers)} different teachers; their rows compare teachers, too.")
    return found


def _offsets(one: Result) -> str:
    fitted = one.summary.get("class_bias")
    if not isinstance(fitted, dict):
        return ""
    before, after = (_fixed(_number(fitted.get(f"miou_pct_{key}")), 2) for key in ("without", "with"))
    kept = "" if fitted.get("kept") else ", not kept"
    return f"{shown(one.run.variant)}, seed {one.run.seed}: {before}, {after}{kept}"


def others(found: dict[Path, Found]) -> list[str]:
    """The runs of another recipe, one line each."""
    return [f"{path}: {one.why}" for path, one in found.items() if one.standing is Standing.OTHER]


def _teacher_miou(results: Sequence[Result]) -> float | None:
    values = {_number((one.summary.get("teacher") or {}).get("miou_pct")) for one in results} - {None}
    return values.pop() if len(values) == 1 else None


def _mean(values: Sequence[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return statistics.fmean(there) if there else None


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _fixed(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _cell(text: str) -> str:
    return shown(text).replace("\\", "\\\\").replace("|", "\\|")
