"""The accuracy gate: the artifact is measured; where it loses too much, fallbacks are tried, cheapest first."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import onnx

from rdd_deploy import console
from rdd_deploy.data.base import Split
from rdd_deploy.errors import DataError
from rdd_deploy.export.compare import Comparison
from rdd_deploy.export.profile import Method, Profile, Qad
from rdd_deploy.export.quantization.bias_correction import corrected_biases
from rdd_deploy.export.quantization.calibrate import calibrated
from rdd_deploy.export.quantization.calibration_frames import CalibrationFrames
from rdd_deploy.export.quantization.placement import place_qdq
from rdd_deploy.export.quantization.plan import QadCheckpoint, QuantizationPlan, starting_plan
from rdd_deploy.export.quantization.qdq import qdq_from_onnx
from rdd_deploy.export.quantization.ranges import RangeTable
from rdd_deploy.export.quantization.schemes import open_scheme
from rdd_deploy.export.quantization.sensitivity import rank_layers, within_budget
from rdd_deploy.export.trained_run import TrainedRun
from rdd_deploy.metrics import iou_from
from rdd_deploy.models.weights import save_segmenter


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
        measure: runs a Q/DQ graph through the target's own backend.
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
        return self.tuned[plan.qad.sha256] if plan.qad else self.source

    def table(self, method: Method) -> RangeTable:
        """The float student's ranges. A fine-tuned student keeps them, since its weights were fitted to them."""
        assert self.profile.calibration is not None
        config = self.profile.calibration.model_copy(update={"method": method})
        return calibrated(self.source.graph(self.size), self.frames, config, self.source.run.path / "calibration")

    def try_plan(self, what: str, plan: QuantizationPlan) -> Trial:
        """Quantise the graph by a plan and measure it."""
        model, table, placement = self.student(plan).graph(self.size), self.table(plan.method), plan.placement
        scheme = open_scheme(plan.scheme)
        biases = corrected_biases(model, table, scheme, placement, self.frames) if plan.bias_correction else None
        quantised = qdq_from_onnx(model, table, scheme, placement, plan.float_layers, biases)
        trial = Trial(what, plan, quantised, self.measure(quantised))
        console.info(
            f"{what}: mIoU {trial.comparison.miou_pct:.2f} %, {trial.comparison.drop_pct:+.2f} points below float, "
            f"labels agree on {trial.comparison.agreement_pct:.2f} %"
        )
        self.trials.append(trial)
        return trial

    def train(self, fallback: str) -> Split | None:
        """The train split; None, with a warning, where it isn't there for a fallback."""
        try:
            return self.source.split("train")
        except DataError as error:
            console.warn(f"the fallback '{fallback}' is left out, for it needs the train split: {error}")
            return None

    def fine_tuned(self, plan: QuantizationPlan) -> QuantizationPlan:
        """The plan with its fine-tuned student at hand: the one that it names, or where that is missing one that is
        fine-tuned now.
        """
        assert plan.qad is not None
        wanted = plan.qad.sha256
        found = self.source.find_fine_tuned(wanted, self.checkpoints) if wanted else None
        if found is None:
            found = self._fine_tune(plan, plan.qad)
            if wanted not in {"", found.fine_tuned_sha256}:
                console.warn(
                    f"the student that was fine-tuned now isn't the one that the plan names ({wanted[:12]}…): another"
                    f" machine or another version rounds otherwise. The new one is {found.fine_tuned_sha256}"
                )
        sha256 = str(found.fine_tuned_sha256)
        self.tuned[sha256] = found
        return plan.model_copy(update={"qad": plan.qad.model_copy(update={"sha256": sha256})})

    def _fine_tune(self, plan: QuantizationPlan, config: Qad) -> TrainedRun:
        from rdd_deploy.export.quantization.qad import distilled  # the training stack, which nothing else here needs

        source, recipe = self.source, self.source.run.load_recipe()
        scheme = open_scheme(plan.scheme)
        placed = place_qdq(source.graph(self.size), scheme, plan.placement, plan.float_layers)
        table, train = self.table(plan.method), source.split("train")
        student = distilled(source.segmenter, train, recipe, self.size, placed, table, scheme, config)
        # Those are the float student's.
        metadata = {key: value for key, value in source.metadata.items() if key not in {"epoch", "miou_pct"}}
        save_segmenter(
            self.checkpoints[0], student, metadata | {"fine_tuned_from": source.weights_sha256, "profile": plan.profile}
        )
        console.info(f"fine-tuned student -> {self.checkpoints[0]}")
        return source.fine_tuned(self.checkpoints[0])


def search(bench: QuantizationSearch, plan: QuantizationPlan | None = None) -> tuple[Trial, bool]:
    """Find a way to quantise that loses at most ``gate.max_drop`` points.

    Args:
        plan: replay this one instead of searching.

    Returns:
        The first trial that passes, or the best one; whether it passes.
    """
    profile = bench.profile
    first = plan or starting_plan(profile)
    if plan is None and profile.placement.weight_bits == "auto" and first.placement.weight_bits == 7:
        console.info(
            "weights of 7 bits: this CPU has no VNNI, and sums of OpenVINO's INT8 would saturate with 8"
            " (--weight-bits 8 for a CPU that has it)"
        )
    if first.qad:
        first = bench.fine_tuned(first)
    best = bench.try_plan(f"plan by {first.method}" if plan else first.method, first)
    if plan is None:
        for step in _fallbacks(bench):
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


def _fallbacks(bench: QuantizationSearch) -> Iterator[Callable[[Trial], Iterable[Trial]]]:
    def other_ranges(method: Method) -> Callable[[Trial], Iterable[Trial]]:
        return lambda best: [bench.try_plan(method, best.plan.model_copy(update={"method": method}))]

    def bias_correction(best: Trial) -> Iterable[Trial]:
        yield bench.try_plan(
            f"{best.plan.method} + bias correction", best.plan.model_copy(update={"bias_correction": True})
        )

    assert bench.profile.calibration is not None
    for fallback in bench.profile.gate.fallbacks:
        if fallback == "bias_correction":
            yield bias_correction
        elif fallback == "float_layers":
            yield lambda best: _float_layers(bench, best)
        elif fallback == "qad":
            yield lambda best: _qad(bench, best)
        elif fallback != bench.profile.calibration.method:
            yield other_ranges(fallback)


def _float_layers(bench: QuantizationSearch, best: Trial) -> Iterator[Trial]:
    """Leave the worst layers in float, 1, 2, 4, … of them, within the budget of multiply-adds."""
    profile, train = bench.profile, bench.train("float_layers")
    if train is None:
        return
    model, table = bench.student(best.plan).graph(bench.size), bench.table(best.plan.method)
    ranked = rank_layers(
        model,
        table,
        open_scheme(best.plan.scheme),
        best.plan.placement,
        train,
        bench.size,
        profile.gate.sensitivity_frames,
    )
    allowed = within_budget(ranked, profile.gate.max_float_macs)
    console.info(
        "layers that cost most alone: "
        + ", ".join(f"{one.layer} ({one.drop_pct:+.2f})" for one in ranked[:5])
        + f"; {len(allowed)} may stay float ({100 * profile.gate.max_float_macs:.0f} % of the multiply-adds)"
    )
    count = 1
    while allowed:
        layers = allowed[:count]
        yield bench.try_plan(f"{len(layers)} layer(s) in float", best.plan.model_copy(update={"float_layers": layers}))
        if count >= len(allowed):
            return
        count *= 2


def _qad(bench: QuantizationSearch, best: Trial) -> Iterator[Trial]:
    """Fine-tune the student for the best plan so far, without bias correction: its biases learn to make up for the same
    shifts.
    """
    if bench.train("qad") is not None:
        asked = QadCheckpoint(**bench.profile.gate.qad.model_dump())
        plan = bench.fine_tuned(best.plan.model_copy(update={"bias_correction": False, "qad": asked}))
        yield bench.try_plan("fine-tuned for INT8", plan)


def show_trials(trials: list[Trial], best: Trial, max_drop: float) -> None:
    """Print what was tried and the per-class change of the best."""
    figures = [
        (one.what, one.comparison.miou_pct, one.comparison.drop_pct, one.comparison.agreement_pct) for one in trials
    ]
    tried = [(what, f"{miou:.2f}", f"{drop:+.2f}", f"{agreement:.2f}") for what, miou, drop, agreement in figures]
    console.show(
        f"INT8 against float, gate at {max_drop:g} points",
        console.table(("tried", "mIoU %", "drop", "labels agree %"), tried),
    )
    classes = [
        (name, f"{before:.2f}", f"{after:.2f}", f"{after - before:+.2f}")
        for name, before, after in per_class(best.comparison)
    ]
    console.show(f"IoU per class: {best.what}", console.table(("class", "float %", "INT8 %", "change"), classes))


def per_class(comparison: Comparison) -> list[tuple[str, float, float]]:
    """(class, IoU of the float network, IoU of the artifact) in percent."""
    before = 100 * iou_from(comparison.reference.confusion.matrix)
    after = 100 * comparison.confusion.iou
    return [(name, float(b), float(a)) for name, b, a in zip(comparison.confusion.classes, before, after, strict=True)]
