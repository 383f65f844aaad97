"""The accuracy gate: the very artifact is measured; where it loses too much, remedies are tried, cheapest first, and the plan is kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import onnx
from pydantic import Field

from rdd_deploy import console
from rdd_deploy.data.base import Split
from rdd_deploy.errors import DataError, RecipeError
from rdd_deploy.export.compare import Comparison
from rdd_deploy.export.profile import Bins, Distil, Form, Images, Method, Percentile, Placement, Profile
from rdd_deploy.export.quantization.bias_correction import corrected_biases
from rdd_deploy.export.quantization.calibrate import calibrated
from rdd_deploy.export.quantization.calibration_frames import CalibrationFrames
from rdd_deploy.export.quantization.qdq import qdq_from_onnx
from rdd_deploy.export.quantization.ranges import RangeTable
from rdd_deploy.export.quantization.schemes import plan_of
from rdd_deploy.export.quantization.sensitivity import rank_layers, within_budget
from rdd_deploy.export.trained_run import TrainedRun
from rdd_deploy.metrics import iou_from
from rdd_deploy.models.weights import save_segmenter
from rdd_deploy.schema import Part, validated
from rdd_deploy.utils import files
from rdd_deploy.utils.yaml_file import load_yaml


class Distilled(Distil):
    """How the student was fine-tuned for its rendering, and what came out."""

    sha256: Annotated[str, Field(pattern="^([0-9a-f]{64})?$")] = Field("", description="of the checkpoint; empty: fine-tune it again")


class QuantizationPlan(Part):
    """How a graph was quantised: what the gate decided, to be reviewed, edited and replayed with ``--plan``."""

    profile: str
    form: Form
    method: Method
    percentile: Percentile
    bins: Bins
    images: Images
    placement: Placement
    bias_correction: bool = False
    float_layers: list[str] = Field([])
    distil: Distilled | None = None
    result: dict[str, float | int | str | None] = Field({}, description="what was measured; not read back")


class Trial(NamedTuple):
    """One attempt: its plan, graph and measurement."""

    what: str
    plan: QuantizationPlan
    model: onnx.ModelProto
    comparison: Comparison


@dataclass
class QuantizationSearch:
    """What the gate works with.

    Attributes:
        checkpoints: where a fine-tuned student may lie; a new one is written to the first.
        measure: runs a rendered graph through the target's own backend.
    """

    profile: Profile
    source: TrainedRun
    frames: CalibrationFrames
    size: tuple[int, int]
    checkpoints: list[Path]
    measure: Callable[[onnx.ModelProto], Comparison]
    trials: list[Trial] = field(default_factory=list)
    tuned: dict[str, TrainedRun] = field(default_factory=dict)

    def student(self, plan: QuantizationPlan) -> TrainedRun:
        """The run with the weights that a plan quantises: its own, or fine-tuned ones."""
        return self.tuned[plan.distil.sha256] if plan.distil else self.source

    def table(self, method: Method) -> RangeTable:
        """The float student's ranges. A fine-tuned one keeps them: its weights were fitted to them, and to others they fit worse."""
        assert self.profile.calibration is not None
        config = self.profile.calibration.model_copy(update={"method": method})
        return calibrated(self.source.graph(self.size), self.frames, config, self.source.run.path / "calibration")

    def try_plan(self, what: str, plan: QuantizationPlan) -> Trial:
        """Render and measure one plan."""
        model, table, placement = self.student(plan).graph(self.size), self.table(plan.method), self.profile.placement
        biases = corrected_biases(model, table, plan.form, placement, self.frames) if plan.bias_correction else None
        rendered = qdq_from_onnx(model, table, plan.form, placement, plan.float_layers, biases)
        trial = Trial(what, plan, rendered, self.measure(rendered))
        console.info(
            f"{what}: mIoU {trial.comparison.miou_pct:.2f} %, {trial.comparison.drop_pct:+.2f} points below float, "
            f"labels agree on {trial.comparison.agreement_pct:.2f} %"
        )
        self.trials.append(trial)
        return trial

    def train(self, remedy: str) -> Split | None:
        """The train split; None, with a warning, where it isn't there for a remedy."""
        try:
            return self.source.split("train")
        except DataError as error:
            console.warn(f"the remedy '{remedy}' is left out, for it needs the train split: {error}")
            return None

    def fine_tuned(self, plan: QuantizationPlan) -> QuantizationPlan:
        """The plan with its fine-tuned student at hand: the one that it names, or where that is missing one that is fine-tuned now."""
        assert plan.distil is not None
        wanted = plan.distil.sha256
        found = self.source.find_fine_tuned(wanted, self.checkpoints) if wanted else None
        if found is None:
            found = self._fine_tune(plan, plan.distil)
            if wanted not in {"", found.fine_tuned_sha256}:
                console.warn(
                    f"the student that was fine-tuned now isn't the one that the plan names ({wanted[:12]}…): another machine or another version "
                    f"rounds otherwise. The new one is {found.fine_tuned_sha256}"
                )
        sha256 = str(found.fine_tuned_sha256)
        self.tuned[sha256] = found
        return plan.model_copy(update={"distil": plan.distil.model_copy(update={"sha256": sha256})})

    def _fine_tune(self, plan: QuantizationPlan, config: Distil) -> TrainedRun:
        from rdd_deploy.export.quantization.qad import distilled  # the training stack, which nothing else here needs

        source, recipe = self.source, self.source.run.load_recipe()
        rendering = plan_of(source.graph(self.size), plan.form, self.profile.placement, plan.float_layers)
        table, train = self.table(plan.method), source.split("train")
        student = distilled(source.segmenter, train, recipe, self.size, rendering, table, plan.form, config)
        metadata = {
            key: value for key, value in source.metadata.items() if key not in {"epoch", "miou_pct"}
        }  # those are the float student's
        save_segmenter(self.checkpoints[0], student, metadata | {"fine_tuned_from": source.weights_sha256, "profile": plan.profile})
        console.info(f"fine-tuned student -> {self.checkpoints[0]}")
        return source.fine_tuned(self.checkpoints[0])


def search(bench: QuantizationSearch, plan: QuantizationPlan | None = None) -> tuple[Trial, bool]:
    """Find a rendering that loses at most ``gate.max_drop`` points.

    Args:
        plan: replay this one instead of searching.

    Returns:
        The first trial that passes, or the best one; whether it passes.
    """
    profile = bench.profile
    first = plan or starting_plan(profile)
    if first.distil:
        first = bench.fine_tuned(first)
    best = bench.try_plan(f"plan by {first.method}" if plan else first.method, first)
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


def starting_plan(profile: Profile) -> QuantizationPlan:
    """What a profile says, before any remedy."""
    assert profile.form is not None
    assert profile.calibration is not None
    calibration = profile.calibration.model_dump(include={"method", "percentile", "bins", "images"})
    return QuantizationPlan(profile=profile.name, form=profile.form, placement=profile.placement, **calibration)


def replayed(profile: Profile, plan: QuantizationPlan) -> Profile:
    """The profile as it was when a plan was made."""
    assert profile.calibration is not None
    calibration = profile.calibration.model_copy(update={key: getattr(plan, key) for key in ("method", "percentile", "bins", "images")})
    return profile.model_copy(update={"calibration": calibration, "placement": plan.placement})


def _passes(trial: Trial, profile: Profile) -> bool:
    return bool(trial.comparison.drop_pct <= profile.gate.max_drop)


def _remedies(bench: QuantizationSearch) -> Iterator[Callable[[Trial], Iterable[Trial]]]:
    def other_ranges(method: Method) -> Callable[[Trial], Iterable[Trial]]:
        return lambda best: [bench.try_plan(method, best.plan.model_copy(update={"method": method}))]

    def bias_correction(best: Trial) -> Iterable[Trial]:
        yield bench.try_plan(f"{best.plan.method} + bias correction", best.plan.model_copy(update={"bias_correction": True}))

    assert bench.profile.calibration is not None
    for remedy in bench.profile.gate.remedies:
        if remedy == "bias_correction":
            yield bias_correction
        elif remedy == "float_layers":
            yield lambda best: _float_layers(bench, best)
        elif remedy == "distil":
            yield lambda best: _distil(bench, best)
        elif remedy != bench.profile.calibration.method:
            yield other_ranges(remedy)


def _float_layers(bench: QuantizationSearch, best: Trial) -> Iterator[Trial]:
    """Leave the worst layers in float, 1, 2, 4, … of them, within the budget of multiply-adds."""
    profile, train = bench.profile, bench.train("float_layers")
    if train is None:
        return
    model, table = bench.student(best.plan).graph(bench.size), bench.table(best.plan.method)
    ranked = rank_layers(model, table, best.plan.form, profile.placement, train, bench.size, profile.gate.ranking_frames)
    allowed = within_budget(ranked, profile.gate.float_macs)
    console.info(
        "layers that cost most alone: " + ", ".join(f"{one.layer} ({one.drop_pct:+.2f})" for one in ranked[:5]) + f"; "
        f"{len(allowed)} may stay float ({100 * profile.gate.float_macs:.0f} % of the multiply-adds)"
    )
    count = 1
    while allowed:
        layers = allowed[:count]
        yield bench.try_plan(f"{len(layers)} layer(s) in float", best.plan.model_copy(update={"float_layers": layers}))
        if count >= len(allowed):
            return
        count *= 2


def _distil(bench: QuantizationSearch, best: Trial) -> Iterator[Trial]:
    """Fine-tune the student for the best rendering so far. Its biases learn to make up for the shifts that bias correction takes out."""
    if bench.train("distil") is not None:
        asked = Distilled(**bench.profile.gate.distil.model_dump())
        plan = bench.fine_tuned(best.plan.model_copy(update={"bias_correction": False, "distil": asked}))
        yield bench.try_plan("fine-tuned for INT8", plan)


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
    files.write_text(path, head + files.yaml_text(tree))


def load_plan(path: Path, profile: Profile) -> QuantizationPlan:
    """Read a plan; what an older one doesn't hold is as in the profile. RecipeError if it is invalid or of another form."""
    own = starting_plan(profile).model_dump(include={"percentile", "bins", "images", "placement"})
    plan = validated(QuantizationPlan, own | load_yaml(path), path)
    if plan.form != profile.form:
        raise RecipeError(f"{path} is a plan for the {plan.form} form, profile {profile.name} renders {profile.form}; take its own plan")
    if plan.profile != profile.name:
        raise RecipeError(
            f"{path} is a plan of the profile {plan.profile}, not of {profile.name}; take its own plan, or edit its first line"
        )
    return plan


def show_trials(trials: list[Trial], best: Trial, max_drop: float) -> None:
    """Print what was tried and the per-class change of the best."""
    figures = [(one.what, one.comparison.miou_pct, one.comparison.drop_pct, one.comparison.agreement_pct) for one in trials]
    tried = [(what, f"{miou:.2f}", f"{drop:+.2f}", f"{agreement:.2f}") for what, miou, drop, agreement in figures]
    console.show(f"INT8 against float, gate at {max_drop:g} points", console.table(("tried", "mIoU %", "drop", "labels agree %"), tried))
    classes = [(name, f"{before:.2f}", f"{after:.2f}", f"{after - before:+.2f}") for name, before, after in per_class(best.comparison)]
    console.show(f"IoU per class: {best.what}", console.table(("class", "float %", "INT8 %", "change"), classes))


def per_class(comparison: Comparison) -> list[tuple[str, float, float]]:
    """(class, IoU of the float network, IoU of the artifact) in percent."""
    before = 100 * iou_from(comparison.reference.confusion.matrix)
    after = 100 * comparison.confusion.iou
    return [(name, float(b), float(a)) for name, b, a in zip(comparison.confusion.classes, before, after, strict=True)]
