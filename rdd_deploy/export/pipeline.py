"""The export's story: run + profile -> graph -> (quantise, gate) -> artifact measured through its own backend -> bundle."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from rdd_deploy import console
from rdd_deploy.errors import DiskError, GateError, RecipeError, missing_package
from rdd_deploy.export.bundle import check_place, describe, new_bundle
from rdd_deploy.export.compare import Comparison, Reference, compare, compare_bundle
from rdd_deploy.export.onnx.graph import opset, save_graph, set_metadata
from rdd_deploy.export.onnx.half import half_from_onnx
from rdd_deploy.export.onnx.lint import lint
from rdd_deploy.export.onnx.postprocess import with_tail
from rdd_deploy.export.onnx.session import infer_onnx
from rdd_deploy.export.profile import Profile
from rdd_deploy.export.quantization.accuracy_gate import (
    QuantizationPlan,
    QuantizationSearch,
    Trial,
    load_plan,
    replayed,
    save_plan,
    search,
    show_trials,
)
from rdd_deploy.export.quantization.calibration_frames import CalibrationFrames, from_folder, from_train
from rdd_deploy.export.quantization.schemes import check_layers
from rdd_deploy.export.tensorrt import engine_from_onnx
from rdd_deploy.export.trained_run import TrainedRun, checkpoint_name
from rdd_deploy.runtime import InputSpec
from rdd_deploy.runtime.backends.base import PRECISION

AGREEMENT_PCT = 99.99
"""Least share of equal labels between torch and a float32 artifact; what is left are near-ties of two classes."""
CHECK_FRAMES = 8
"""So many frames are compared when the artifact isn't evaluated."""


@dataclass(frozen=True)
class Options:
    """What the command line adds to a profile.

    Attributes:
        split: the artifact is measured on. limit: on its first so many frames.
        evaluate: False compares labels on a few frames only, and writes no figures.
        force: write a bundle that fails the gate, marked.
        plan: replay this quantisation plan.
    """

    split: str = "val"
    limit: int | None = None
    evaluate: bool = True
    force: bool = False
    plan: Path | None = None


def export_profile(source: TrainedRun, profile: Profile, folder: Path, options: Options) -> tuple[Path, Comparison]:
    """Write the bundle ``folder/<profile name>``.

    Returns:
        Its path, and the artifact's comparison with the float network.

    Raises:
        GateError: it loses more accuracy than allowed; no bundle is written (unless forced).
        RddError: whatever else the user can fix.
    """
    check_backend(profile)
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


def check_backend(profile: Profile) -> None:
    """MissingPackageError where the profile's backend can't run here."""
    from importlib.util import find_spec

    package, extra = {"onnxruntime": ("onnxruntime", "cpu"), "openvino": ("openvino", "openvino")}.get(
        profile.backend, ("onnxruntime", "cpu")
    )
    if find_spec(package) is None:
        raise missing_package(package, extra, f"profile '{profile.name}'")
    if profile.backend.startswith("tensorrt"):
        from rdd_deploy.export.tensorrt import check_builder

        check_builder(profile)


def _check_float(model: onnx.ModelProto, reference: Reference) -> None:
    """The plain export against torch, before anything is made of it."""
    few = Reference(
        reference.data, reference.split_name, reference.split, reference.size, reference.labels[:CHECK_FRAMES], reference.confusion
    )
    check_agreement(compare(infer_onnx(model), few), "the ONNX graph")


def check_agreement(comparison: Comparison, what: str, least_pct: float = AGREEMENT_PCT) -> None:
    """Raise GateError where a float32 artifact doesn't say what torch says."""
    frames = len(comparison.reference.labels)
    if not comparison.agreement_pct >= least_pct:
        raise GateError(
            f"{what} and torch agree on {comparison.agreement_pct:.3f} % of the pixels of {frames} {comparison.reference.data} frames, "
            f"expected {least_pct} %; no bundle was written. Compare step by step with: rdd-deploy parity"
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
    frames = calibration_frames(source, profile, reference.size, options.split)
    folders = dict.fromkeys((target.parent, options.plan.parent if options.plan else target.parent))
    checkpoints = [folder / checkpoint_name(profile.name) for folder in folders]
    bench = QuantizationSearch(
        profile, source, frames, reference.size, checkpoints, lambda graph: measured(profile, graph, source, reference)
    )
    best, passed = search(bench, plan)
    plan_file = target.with_name(f"{target.name}.plan.yaml")
    if options.plan is None or options.plan.resolve() != plan_file.resolve():  # an edited plan keeps its comments
        save_plan(plan_file, best, passed)
    show_trials(bench.trials, best, profile.gate.max_drop)
    if not passed and not options.force:
        raise GateError(
            f"'{profile.name}' loses {best.comparison.drop_pct:.2f} points of mIoU at best, allowed are {profile.gate.max_drop:g}; "
            f"no bundle was written. Edit {plan_file} and replay it with --plan, allow more with --max-drop, or write it with --force"
        )
    return _write(bench.student(best.plan), profile, best.model, reference, target, options, best, forced=not passed)


def calibration_frames(source: TrainedRun, profile: Profile, size: tuple[int, int], split: str = "val") -> CalibrationFrames:
    """The frames that a profile calibrates on. Images of val, or of the split that accuracy is measured on, are refused, all of them."""
    assert profile.calibration is not None
    config = profile.calibration
    key = ("calibration", config.folder, config.images, size, split)
    if key not in source.made:
        others = [source.split(name) for name in dict.fromkeys(("val", split))]
        if config.folder:
            source.made[key] = from_folder(Path(config.folder), others, config.images, size)
        else:
            source.made[key] = from_train(source.split("train"), others, config.images, size)
    return source.made[key]  # type: ignore[no-any-return]


def measured(profile: Profile, graph: onnx.ModelProto, source: TrainedRun, reference: Reference) -> Comparison:
    """Run a graph through the backend that the bundle will use; an engine's graph through onnxruntime, where no GPU is at hand."""
    lint(graph, profile.form, "the rendered graph")
    try:
        with tempfile.TemporaryDirectory(prefix="rdd-export-") as name:
            folder = Path(name)
            _save_model(profile, graph, folder / "model.onnx", _stand_in(profile))
            backend = profile.backend if not profile.backend.startswith("tensorrt") else "onnxruntime"
            describe(folder, **_fields(source, profile, graph, reference) | {"backend": backend, "precision": _stand_in(profile)})
            return compare_bundle(folder, reference, device="cpu")
    except OSError as error:
        raise DiskError(f"can't write into {tempfile.gettempdir()}: {error.strerror or error}; free some space or set TMPDIR") from error


def _stand_in(profile: Profile) -> str:
    return "fp32" if profile.backend.startswith("tensorrt") and profile.precision == "fp16" else profile.precision


def _save_model(profile: Profile, graph: onnx.ModelProto, path: Path, precision: str) -> None:
    model = onnx.ModelProto()
    model.CopyFrom(with_tail(graph, profile.tail, profile.backend))
    set_metadata(model, {PRECISION: precision})
    save_graph(model, path)


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
    """The bundle itself: model or engine, the plan, the manifest with what was measured on these very files."""
    with new_bundle(target) as folder:
        fields = _fields(source, profile, graph, reference) | {"forced": forced}
        if trial is not None:
            save_plan(folder / "plan.yaml", trial, not forced)
        if profile.backend.startswith("tensorrt"):
            return _write_engine(source, profile, graph, reference, folder, options, fields, trial)
        _save_model(profile, graph, folder / "model.onnx", profile.precision)
        describe(folder, **fields)
        comparison = compare_bundle(folder, reference, device="cpu")
        if profile.precision != "int8":  # INT8 graphs have been through the gate
            fields["forced"] = not _gate(comparison, profile, options)
        describe(folder, **fields, metrics=comparison.metrics() if options.evaluate else None)
    return comparison


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
    """Build an engine. With ``tensorrt`` its GPU is here and the engine itself is measured; with ``tensorrt-rtx`` only its graph can be."""
    comparison = trial.comparison if trial is not None else measured(profile, graph, source, reference)
    if profile.float_type == "fp16":
        graph = half_from_onnx(graph)
        lint(graph, profile.form, "the rendered graph in half precision")
        comparison = compare(infer_onnx(graph), reference)
        fields["opset"] = opset(graph)
    if trial is None or profile.float_type == "fp16":
        fields["forced"] |= not _gate(comparison, profile, options)
    save_graph(graph, folder / "graph.onnx")
    built = engine_from_onnx(graph, profile)
    (folder / "model.engine").write_bytes(built.engine)
    console.info(f"engine: {len(built.engine) / 1e6:.1f} MB for {built.info.gpu or ', '.join(built.info.compute_capabilities)}")
    provenance = fields["provenance"] | _graph_figures(comparison)
    fields |= {"model": "model.engine", "engine": built.info, "provenance": provenance}
    describe(folder, **fields)
    if profile.backend == "tensorrt":
        comparison = compare_bundle(folder, reference, device="cuda")
        fields["forced"] |= not _gate(comparison, profile, options)
        describe(folder, **fields, metrics=comparison.metrics() if options.evaluate else None)
    return comparison


def _gate(comparison: Comparison, profile: Profile, options: Options) -> bool:
    """Whether an artifact passes. float32 must say what torch says; other precisions may lose what the gate allows, or more with --force."""
    if profile.precision == "fp32":
        check_agreement(comparison, f"the {profile.backend} artifact")
        return True
    passed = bool(comparison.drop_pct <= profile.gate.max_drop)
    if not passed and not options.force:
        raise GateError(
            f"'{profile.name}' loses {comparison.drop_pct:.2f} points of mIoU, allowed are {profile.gate.max_drop:g}; no bundle was written. "
            "Allow more with --max-drop, or write it with --force"
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
        "provenance": source.provenance(),
    }


def _graph_figures(comparison: Comparison) -> dict[str, str | float]:
    """An engine's accuracy can't be measured where its GPU isn't; its graph's can, and is marked as that."""
    return {
        "graph_measured_with": "onnxruntime on the CPU, not the engine",
        "graph_miou_pct": round(comparison.miou_pct, 3),
        "graph_drop_pct": round(comparison.drop_pct, 3),
        "graph_label_agreement_pct": round(comparison.agreement_pct, 4),
    }
