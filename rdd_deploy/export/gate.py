"""The accuracy gate: the very artifact is measured; where it loses too much, remedies are tried, cheapest first, and the plan is kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import yaml
from numpy.typing import NDArray
from pydantic import Field
from rich.table import Table

from rdd_deploy import console, files
from rdd_deploy.data.base import Split
from rdd_deploy.errors import RecipeError
from rdd_deploy.export.bias_correction import corrected_biases
from rdd_deploy.export.calibrate import calibrated
from rdd_deploy.export.frames_to_calibrate import CalibrationFrames
from rdd_deploy.export.measure import Comparison
from rdd_deploy.export.profile import Form, Method, Profile
from rdd_deploy.export.qdq_from_onnx import qdq_from_onnx
from rdd_deploy.export.ranges import RangeTable
from rdd_deploy.export.sensitivity import rank_layers, within_budget
from rdd_deploy.metrics import iou_from
from rdd_deploy.recipe import Part
from rdd_deploy.schema import load_yaml, validated


class Plan(Part):
    """How a graph was quantised: what the gate decided, to be reviewed, edited and replayed with ``--plan``."""

    profile: str
    form: Form
    method: Method
    bias_correction: bool = False
    float_layers: list[str] = Field([])
    result: dict[str, float | int | str | None] = Field({}, description="what was measured; not read back")


class Trial(NamedTuple):
    """One attempt: its plan, graph and measurement."""

    what: str
    plan: Plan
    model: onnx.ModelProto
    comparison: Comparison


@dataclass
class Workbench:
    """What the gate works with.

    Attributes:
        measure: runs a rendered graph through the target's own backend.
        tables: folder of range tables.
    """

    profile: Profile
    model: onnx.ModelProto
    frames: CalibrationFrames
    train: Split
    size: tuple[int, int]
    tables: Path
    measure: Callable[[onnx.ModelProto], Comparison]
    trials: list[Trial] = field(default_factory=list)

    def table(self, method: Method) -> RangeTable:
        assert self.profile.calibration is not None
        return calibrated(self.model, self.frames, self.profile.calibration.model_copy(update={"method": method}), self.tables)

    def biases(self, plan: Plan) -> dict[str, NDArray[np.float32]] | None:
        if not plan.bias_correction:
            return None
        return corrected_biases(self.model, self.table(plan.method), plan.form, self.profile.placement, self.frames)

    def attempt(self, what: str, plan: Plan) -> Trial:
        """Render and measure one plan."""
        table = self.table(plan.method)
        rendered = qdq_from_onnx(self.model, table, plan.form, self.profile.placement, plan.float_layers, self.biases(plan))
        trial = Trial(what, plan, rendered, self.measure(rendered))
        console.say(
            f"{what}: mIoU {trial.comparison.miou_pct:.2f} %, {trial.comparison.drop_pct:+.2f} points below float, "
            f"labels agree on {trial.comparison.agreement_pct:.2f} %"
        )
        self.trials.append(trial)
        return trial


def through_gate(bench: Workbench, plan: Plan | None = None) -> tuple[Trial, bool]:
    """Find a rendering that loses at most ``gate.max_drop`` points.

    Args:
        plan: replay this one instead of searching.

    Returns:
        The first trial that passes, or the best one; whether it passes.
    """
    profile = bench.profile
    assert profile.form is not None
    assert profile.calibration is not None
    first = plan or Plan(profile=profile.name, form=profile.form, method=profile.calibration.method)
    best = bench.attempt(f"plan by {first.method}" if plan else first.method, first)
    if plan is None:
        for step in _remedies(bench):
            if _passes(best, profile):
                break
            for trial in step(best):
                if trial.comparison.drop_pct < best.comparison.drop_pct:
                    best = trial
                if _passes(best, profile):
                    break
    return best, _passes(best, profile)


def _passes(trial: Trial, profile: Profile) -> bool:
    return bool(trial.comparison.drop_pct <= profile.gate.max_drop)


def _remedies(bench: Workbench) -> Iterator[Callable[[Trial], Iterable[Trial]]]:
    def other_ranges(method: Method) -> Callable[[Trial], Iterable[Trial]]:
        return lambda best: [bench.attempt(method, best.plan.model_copy(update={"method": method}))]

    def bias_correction(best: Trial) -> Iterable[Trial]:
        yield bench.attempt(f"{best.plan.method} + bias correction", best.plan.model_copy(update={"bias_correction": True}))

    assert bench.profile.calibration is not None
    for remedy in bench.profile.gate.remedies:
        if remedy == "bias_correction":
            yield bias_correction
        elif remedy == "float_layers":
            yield lambda best: _float_layers(bench, best)
        elif remedy != bench.profile.calibration.method:
            yield other_ranges(remedy)


def _float_layers(bench: Workbench, best: Trial) -> Iterator[Trial]:
    """Leave the worst layers in float, 1, 2, 4, … of them, within the budget of multiply-adds."""
    profile = bench.profile
    ranked = rank_layers(
        bench.model, bench.table(best.plan.method), best.plan.form, profile.placement, bench.train, bench.size, profile.gate.ranking_frames
    )
    allowed = within_budget(ranked, profile.gate.float_macs)
    console.say(
        "layers that cost most alone: " + ", ".join(f"{one.layer} ({one.drop_pct:+.2f})" for one in ranked[:5]) + f"; "
        f"{len(allowed)} may stay float ({100 * profile.gate.float_macs:.0f} % of the multiply-adds)"
    )
    count = 1
    while allowed:
        layers = allowed[:count]
        yield bench.attempt(f"{len(layers)} layer(s) in float", best.plan.model_copy(update={"float_layers": layers}))
        if count >= len(allowed):
            return
        count *= 2


def save_plan(path: Path, trial: Trial, passed: bool) -> None:
    """Write the plan as YAML with what was measured."""
    result: dict[str, Any] = {
        "miou_pct": round(trial.comparison.miou_pct, 3),
        "drop_pct": round(trial.comparison.drop_pct, 3),
        "label_agreement_pct": round(trial.comparison.agreement_pct, 3),
        "gate": "passed" if passed else "failed",
    }
    head = "# How this graph was quantised. Edit it and replay it: python -m rdd_deploy.export RUN --profile … --plan THIS_FILE\n"
    tree = trial.plan.model_copy(update={"result": result}).model_dump(mode="json")
    files.write_text(path, head + yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, width=140))


def load_plan(path: Path, profile: Profile) -> Plan:
    """Read a plan; RecipeError if it is invalid or of another form."""
    plan = validated(Plan, load_yaml(path), path)
    if plan.form != profile.form:
        raise RecipeError(f"{path} is a plan for the {plan.form} form, profile {profile.name} renders {profile.form}; take its own plan")
    if plan.profile != profile.name:
        raise RecipeError(
            f"{path} is a plan of the profile {plan.profile}, not of {profile.name}; take its own plan, or edit its first line"
        )
    return plan


def show_trials(trials: list[Trial], best: Trial, max_drop: float) -> None:
    """Print what was tried and the per-class change of the best."""
    table = Table(title=f"INT8 against float, gate at {max_drop:g} points")
    for column in ("tried", "mIoU %", "drop", "labels agree %"):
        table.add_column(column, justify="left" if column == "tried" else "right")
    for trial in trials:
        own = trial.comparison
        table.add_row(trial.what, f"{own.miou_pct:.2f}", f"{own.drop_pct:+.2f}", f"{own.agreement_pct:.2f}")
    console.out.print(table)
    classes = Table(title=f"IoU per class: {best.what}")
    for column in ("class", "float %", "INT8 %", "change"):
        classes.add_column(column, justify="left" if column == "class" else "right")
    for name, before, after in per_class(best.comparison):
        classes.add_row(name, f"{before:.2f}", f"{after:.2f}", f"{after - before:+.2f}")
    console.out.print(classes)


def per_class(comparison: Comparison) -> list[tuple[str, float, float]]:
    """(class, IoU of the float network, IoU of the artifact) in percent."""
    before = 100 * iou_from(comparison.reference.confusion.matrix)
    after = 100 * comparison.confusion.iou
    return [(name, float(b), float(a)) for name, b, a in zip(comparison.confusion.classes, before, after, strict=True)]
