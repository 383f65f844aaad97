"""Run + profile -> graph -> (quantise, accuracy gate) -> artifact measured through its own backend -> bundle."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import onnx

from rdd_deploy import console
from rdd_deploy.errors import DiskError, GateError, RecipeError, missing_package
from rdd_deploy.export.bundle import PLAN, PROFILE, RANGES, check_place, describe, facts, new_bundle
from rdd_deploy.export.compare import Comparison, Reference, compare, compare_bundle
from rdd_deploy.export.onnx.graph import opset, save_graph
from rdd_deploy.export.onnx.half import half_from_onnx
from rdd_deploy.export.onnx.lint import lint
from rdd_deploy.export.onnx.postprocess import with_postprocess
from rdd_deploy.export.onnx.session import infer_onnx
from rdd_deploy.export.options import Options
from rdd_deploy.export.profile import Profile, save_profile
from rdd_deploy.export.quantization.accuracy_gate import QuantizationSearch, Trial, search, show_trials
from rdd_deploy.export.quantization.calibrate import calibrated
from rdd_deploy.export.quantization.placement import check_layers
from rdd_deploy.export.quantization.plan import QuantizationPlan, load_plan, replayed, save_plan
from rdd_deploy.export.quantization.qdq import weight_bits
from rdd_deploy.export.quantization.schemes import open_scheme
from rdd_deploy.export.quantization.schemes.base import Scheme
from rdd_deploy.export.targets import TARGETS
from rdd_deploy.export.tensorrt import check_builder, engine_from_onnx
from rdd_deploy.export.trained_run import TrainedRun, checkpoint_name
from rdd_deploy.runtime import InputSpec
from rdd_deploy.runtime.manifest import GRAPH

AGREEMENT_PCT = 99.99
"""Least share of equal labels between torch and a float32 artifact; what is left are near-ties of two classes."""
CHECK_FRAMES = 8
"""So many frames are compared when the artifact isn't evaluated."""


def export_profile(source: TrainedRun, profile: Profile, folder: Path, options: Options) -> tuple[Path, Comparison]:
    """Write the bundle ``folder/<profile name>``.

    Returns:
        Its path, and the artifact's comparison with the float network.

    Raises:
        GateError: it loses more accuracy than allowed; no bundle is written (unless forced).
        RddError: anything else that the user can fix.
    """
    check_backend(profile, options.engine)
    plan = _plan(profile, options)
    profile = replayed(profile, plan) if plan else profile
    size = profile.size or source.data.size
    target = folder / profile.name
    check_place(target)
    console.info(f"{source.run.path} -> {target}, {size[0]}x{size[1]}")
    model = source.graph(size)
    lint(model, None, "the float graph")
    if plan is not None:
        check_layers(model, plan.float_layers, f"{options.plan}: float_layers")
    count = options.limit if options.evaluate else min(CHECK_FRAMES, options.limit or CHECK_FRAMES)
    reference = source.reference(size, options.split, count)
    if profile.precision == "int8":
        return target, _write_int8(source, profile, model, reference, target, options, plan)
    graph = half_from_onnx(model) if profile.precision == "fp16" else model
    _check_float(model, reference)
    comparison = _write(source, profile, graph, reference, target, options)
    return target, comparison


def _plan(profile: Profile, options: Options) -> QuantizationPlan | None:
    """The plan to replay; a wrong one is found before anything is computed."""
    if options.plan is None:
        return None
    if profile.precision != "int8":
        raise RecipeError(f"--plan replays how a graph was quantised; profile {profile.name} is {profile.precision}")
    return load_plan(options.plan, profile)


def check_backend(profile: Profile, engine: bool = True) -> None:
    """MissingPackageError where the profile's backend can't run here; without ``engine`` what builds one
    isn't needed.
    """
    from importlib.util import find_spec

    # An engine's graph is measured by onnxruntime.
    needed = "onnxruntime" if profile.backend.startswith("tensorrt") else profile.backend
    if find_spec(TARGETS[needed].module) is None:
        raise missing_package(needed, TARGETS[needed].extra, f"profile '{profile.name}'")
    if engine and profile.backend.startswith("tensorrt"):
        check_builder(profile)


def _check_float(model: onnx.ModelProto, reference: Reference) -> None:
    """The plain export against torch, before anything is made of it."""
    few = Reference(
        reference.data,
        reference.split_name,
        reference.split,
        reference.size,
        reference.labels[:CHECK_FRAMES],
        reference.confusion,
    )
    check_agreement(compare(infer_onnx(model), few), "the ONNX graph")


def check_agreement(comparison: Comparison, what: str, least_pct: float = AGREEMENT_PCT) -> None:
    """Raise GateError where a float32 artifact's labels aren't torch's."""
    frames = len(comparison.reference.labels)
    if not comparison.agreement_pct >= least_pct:
        raise GateError(
            f"{what} and torch agree on {comparison.agreement_pct:.3f} % of the pixels of {frames}"
            f" {comparison.reference.data} frames, expected {least_pct} %; no bundle was written. Compare step by step"
            " with: rdd-deploy parity"
        )
    console.info(f"{what} agrees with torch on {comparison.agreement_pct:.4f} % of the pixels ({frames} frames)")


def _write_int8(
    source: TrainedRun,
    profile: Profile,
    model: onnx.ModelProto,
    reference: Reference,
    target: Path,
    options: Options,
    plan: QuantizationPlan | None,
) -> Comparison:
    _check_float(model, reference)
    assert profile.calibration is not None
    frames = source.calibration_frames(profile.calibration, reference.size, options.split)
    folders = dict.fromkeys((target.parent, options.plan.parent if options.plan else target.parent))
    checkpoints = [folder / checkpoint_name(profile.name) for folder in folders]
    bench = QuantizationSearch(
        profile, source, frames, reference.size, checkpoints, lambda graph: measured(profile, graph, source, reference)
    )
    best, passed = search(bench, plan)
    plan_file = target.with_name(f"{target.name}.plan.yaml")
    if options.plan is None or options.plan.resolve() != plan_file.resolve():  # an edited plan keeps its comments
        save_plan(plan_file, best.plan, best.comparison, passed)
    show_trials(bench.trials, best, profile.gate.max_drop)
    if not passed and not options.force:
        raise GateError(
            f"'{profile.name}' loses {best.comparison.drop_pct:.2f} points of mIoU at best, allowed are"
            f" {profile.gate.max_drop:g}; no bundle was written. Edit {plan_file} and replay it with --plan, allow more"
            " with --max-drop, or write it with --force"
        )
    return _write(bench.student(best.plan), profile, best.model, reference, target, options, best, forced=not passed)


def measured(profile: Profile, graph: onnx.ModelProto, source: TrainedRun, reference: Reference) -> Comparison:
    """Run a graph through the backend that the bundle will use; an engine's graph through onnxruntime, where no GPU is
    at hand.
    """
    lint(graph, _scheme(profile), "the quantised graph" if profile.precision == "int8" else "the graph")
    try:
        with tempfile.TemporaryDirectory(prefix="rdd-export-") as name:
            folder = Path(name)
            backend = profile.backend if not profile.backend.startswith("tensorrt") else "onnxruntime"
            fields = _fields(source, profile, graph, reference) | {"backend": backend, "precision": _stand_in(profile)}
            _save_model(profile, graph, folder / "model.onnx", fields)
            describe(folder, **fields)
            return compare_bundle(folder, reference, device="cpu")
    except OSError as error:
        raise DiskError(
            f"can't write into {tempfile.gettempdir()}: {error.strerror or error}; free some space or set TMPDIR"
        ) from error


def _scheme(profile: Profile) -> Scheme | None:
    return open_scheme(profile.scheme_name) if profile.precision == "int8" else None


def _stand_in(profile: Profile) -> str:
    return "fp32" if profile.backend.startswith("tensorrt") and profile.precision == "fp16" else profile.precision


def _save_model(profile: Profile, graph: onnx.ModelProto, path: Path, fields: dict[str, Any]) -> None:
    save_graph(with_postprocess(graph, profile.postprocess, profile.backend), path, facts(fields))


def _write(
    source: TrainedRun,
    profile: Profile,
    graph: onnx.ModelProto,
    reference: Reference,
    target: Path,
    options: Options,
    trial: Trial | None = None,
    forced: bool = False,
) -> Comparison:
    """The bundle itself: model or engine, the plan, the manifest with what was measured on these files."""
    with new_bundle(target) as folder:
        fields = _fields(source, profile, graph, reference) | {"forced": forced}
        if trial is not None:
            save_plan(folder / PLAN, trial.plan, trial.comparison, not forced)
        if profile.backend.startswith("tensorrt"):
            return _write_engine(source, profile, graph, reference, folder, options, fields, trial)
        _save_model(profile, graph, folder / "model.onnx", fields)
        if profile.calibration is not None and trial is None:
            _save_ranges(source, profile, graph, folder, options, fields)
        describe(folder, **fields)
        comparison = compare_bundle(folder, reference, device="cpu")
        if profile.precision != "int8":  # INT8 graphs have been through the gate
            fields["forced"] = not _gate(comparison, profile, options)
        describe(folder, **fields, metrics=comparison.metrics() if options.evaluate else None)
    return comparison


def _save_ranges(
    source: TrainedRun, profile: Profile, graph: onnx.ModelProto, folder: Path, options: Options, fields: dict[str, Any]
) -> None:
    """What an INT8 engine is built from where there is no PyTorch: the ranges, and the plain graph where the model
    isn't it.
    """
    assert profile.calibration is not None
    frames = source.calibration_frames(profile.calibration, profile.size or source.data.size, options.split)
    calibrated(graph, frames, profile.calibration, source.run.path / "calibration").write(folder / RANGES)
    if profile.postprocess != "resize":
        save_graph(graph, folder / GRAPH, facts(fields))


def _write_engine(
    source: TrainedRun,
    profile: Profile,
    graph: onnx.ModelProto,
    reference: Reference,
    folder: Path,
    options: Options,
    fields: dict[str, Any],
    trial: Trial | None,
) -> Comparison:
    """An engine, or with ``options.engine`` False its graph only.

    With ``tensorrt`` its GPU is here and the engine itself is measured; with ``tensorrt-rtx`` only its graph can be.
    """
    comparison = trial.comparison if trial is not None else measured(profile, graph, source, reference)
    if profile.float_type == "fp16":
        graph = half_from_onnx(graph)
        lint(graph, _scheme(profile), "the quantised graph in half precision")
        comparison = compare(infer_onnx(graph), reference)
        fields["opset"] = opset(graph)
    if trial is None or profile.float_type == "fp16":
        fields["forced"] |= not _gate(comparison, profile, options)
    save_graph(graph, folder / GRAPH, facts(fields))
    save_profile(folder / PROFILE, profile)
    fields |= {"model": GRAPH, "provenance": fields["provenance"] | comparison.graph_figures()}
    if options.engine:
        fields |= engine_from_onnx(graph, profile).save(folder)
    describe(folder, **fields)
    if options.engine and profile.backend == "tensorrt":
        comparison = compare_bundle(folder, reference, device="cuda")
        fields["forced"] |= not _gate(comparison, profile, options)
        describe(folder, **fields, metrics=comparison.metrics() if options.evaluate else None)
    return comparison


def _gate(comparison: Comparison, profile: Profile, options: Options) -> bool:
    """Whether an artifact passes: float32 must give torch's labels, other precisions may lose what the gate allows, or
    more with --force.
    """
    if profile.precision == "fp32":
        check_agreement(comparison, f"the {profile.backend} artifact")
        return True
    passed = bool(comparison.drop_pct <= profile.gate.max_drop)
    if not passed and not options.force:
        raise GateError(
            f"'{profile.name}' loses {comparison.drop_pct:.2f} points of mIoU, allowed are {profile.gate.max_drop:g};"
            " no bundle was written. Allow more with --max-drop, or write it with --force"
        )
    return passed


def _fields(source: TrainedRun, profile: Profile, graph: onnx.ModelProto, reference: Reference) -> dict[str, Any]:
    return {
        "name": f"{source.run.path.name}/{profile.name}",
        "classes": source.classes,
        "palette": source.palette,
        "input": InputSpec(height=reference.size[0], width=reference.size[1]),
        "backend": profile.backend,
        "precision": profile.precision,
        "profile": profile.name,
        "model": "model.onnx",
        "opset": opset(graph),
        "provenance": source.provenance()
        | ({"weight_bits": weight_bits(graph)} if profile.precision == "int8" else {}),
    }
