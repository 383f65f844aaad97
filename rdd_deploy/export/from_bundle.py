"""Bundle -> engine bundle, on the machine that will run it, without PyTorch.

Two kinds of bundles hold what an engine is built from: one of a TensorRT profile, whose ``graph.onnx`` is what the
builder takes, and a float bundle for onnxruntime; INT8 needs its calibrated ranges (``ranges.json``), too.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx

from rdd_deploy import console
from rdd_deploy.data.base import Split, limited
from rdd_deploy.data.open import open_recorded
from rdd_deploy.errors import BundleError, DataError, DeviceError, GateError, MissingPackageError, RecipeError
from rdd_deploy.export.bundle import PLAN, PROFILE, RANGES, check_place, describe, facts, new_bundle
from rdd_deploy.export.compare import Comparison, compare, reference_from
from rdd_deploy.export.onnx.graph import load_graph, opset, save_graph, weight_fingerprint
from rdd_deploy.export.onnx.half import half_from_onnx
from rdd_deploy.export.onnx.lint import lint
from rdd_deploy.export.onnx.session import infer_onnx
from rdd_deploy.export.options import Options
from rdd_deploy.export.profile import Profile, save_profile
from rdd_deploy.export.quantization.placement import check_layers
from rdd_deploy.export.quantization.plan import QuantizationPlan, load_plan, save_plan, starting_plan
from rdd_deploy.export.quantization.qdq import qdq_from_onnx
from rdd_deploy.export.quantization.ranges import RangeTable, read_table
from rdd_deploy.export.quantization.schemes import open_scheme
from rdd_deploy.export.tensorrt import engine_from_onnx
from rdd_deploy.metrics import evaluate_split
from rdd_deploy.runtime import Segmenter
from rdd_deploy.runtime.backends.base import check_model
from rdd_deploy.runtime.facts import Facts
from rdd_deploy.runtime.manifest import GRAPH, Manifest, Metrics, read_file, read_manifest
from rdd_deploy.utils import files


class _Made(NamedTuple):
    """The graph for the builder; where it was made here, the float graph and the plan that it was made from."""

    graph: onnx.ModelProto
    plain: onnx.ModelProto | None = None
    plan: QuantizationPlan | None = None


def engine_from_bundle(path: Path, profile: Profile, folder: Path | None, options: Options, data: Path | None) -> Path:
    """Build an engine bundle from a bundle.

    Args:
        path: a bundle of a TensorRT profile, with an engine or without, or a float bundle for onnxruntime.
        profile: of the engine.
        folder: of bundles; default: the one that ``path`` lies in, so that a bundle without an engine gets one.
        data: root of the data set; default: where the manifest says. Without data nothing is measured.

    Returns:
        The engine's bundle. Its manifest holds metrics where the engine can run here and there is data.

    Raises:
        BundleError: nothing in it that an engine of this profile can be built from.
        GateError: the quantised graph loses more accuracy than allowed; only found where there is data.
    """
    manifest = read_manifest(path)
    same = folder is None and profile.name == manifest.profile
    target = path.absolute() if same else (folder or path.absolute().parent) / profile.name
    check_place(target)
    console.info(f"{path} -> {target}, {manifest.input.height}x{manifest.input.width}")
    made = (
        _ready(path, manifest, profile)
        if manifest.backend.startswith("tensorrt")
        else _from_float(path, manifest, profile, options)
    )
    lint(made.graph, open_scheme(profile.scheme_name) if profile.precision == "int8" else None)
    frames = _frames(manifest, options, data)
    comparison = _against_float(made, manifest, frames, options)
    passed = comparison is None or comparison.drop_pct <= profile.gate.max_drop
    if comparison is not None and not passed and not options.force:
        raise GateError(
            f"'{profile.name}' loses {comparison.drop_pct:.2f} points of mIoU, allowed are {profile.gate.max_drop:g};"
            " no bundle was written. Allow more with --max-drop, or write it with --force"
        )
    provenance = manifest.provenance | {"built_from": f"{manifest.name} ({manifest.backend} {manifest.precision})"}
    if comparison is not None:
        provenance |= comparison.graph_figures()
    elif made.plain is not None:
        provenance["graph_measured_with"] = "nothing: there was no data where the engine was built"
    built = engine_from_onnx(made.graph, profile)
    old_plan = path / PLAN if PLAN in manifest.files else None
    with new_bundle(target) as part:
        if made.plan is not None:
            save_plan(part / PLAN, made.plan, comparison, passed)
        elif old_plan is not None:
            files.write_bytes(part / PLAN, old_plan.read_bytes())
        save_profile(part / PROFILE, profile)
        fields: dict[str, Any] = {
            "name": f"{manifest.name.rpartition('/')[0] or manifest.name}/{profile.name}",
            **{key: getattr(manifest, key) for key in Facts.model_fields},
            "backend": profile.backend,
            "precision": profile.precision,
            "profile": profile.name,
            "opset": opset(made.graph),
            "provenance": provenance,
            "forced": manifest.forced or not passed,
        }
        save_graph(made.graph, part / GRAPH, facts(fields))
        fields |= built.save(part)
        describe(part, **fields)
        if frames is not None and (metrics := _through_the_engine(part, frames, comparison, options)) is not None:
            describe(part, **fields, metrics=metrics)
    return target


def _ready(path: Path, manifest: Manifest, profile: Profile) -> _Made:
    """The graph as the export prepared it for the builder."""
    if GRAPH not in manifest.files:
        raise BundleError(f"{path} holds no {GRAPH}, from which an engine could be built; export it again")
    if manifest.precision != profile.precision:
        raise RecipeError(
            f"{path} holds a graph in {manifest.precision}, profile '{profile.name}' is {profile.precision}; leave the"
            f" precision out, or export a bundle in {profile.precision}"
        )
    return _Made(_loaded(path, manifest, GRAPH))


def _loaded(path: Path, manifest: Manifest, file: str) -> onnx.ModelProto:
    """A bundle's graph, which says of itself what the manifest says."""
    graph = load_graph(path / file)
    check_model(path / file, manifest, read_file(path / file, manifest.files[file]))
    return graph


def _from_float(path: Path, manifest: Manifest, profile: Profile, options: Options) -> _Made:
    """The float graph, brought to the profile's precision."""
    if (manifest.backend, manifest.precision) != ("onnxruntime", "fp32"):
        raise BundleError(
            f"{path} is for {manifest.backend} in {manifest.precision}; an engine is built from a bundle of a TensorRT"
            " profile, or from a float one for onnxruntime (--onnx)"
        )
    plain = _loaded(path, manifest, GRAPH if GRAPH in manifest.files else manifest.model)
    graph = onnx.ModelProto()
    graph.CopyFrom(plain)
    plan = None
    if profile.precision == "int8":
        table = _table(path, manifest, plain)
        plan = _plan(profile, table, options)
        check_layers(graph, plan.float_layers, f"{options.plan}: float_layers")
        graph = qdq_from_onnx(graph, table, open_scheme(plan.scheme), plan.placement, plan.float_layers)
    if profile.precision == "fp16" or profile.float_type == "fp16":
        graph = half_from_onnx(graph)
    return _Made(graph, plain, plan)


def _table(path: Path, manifest: Manifest, plain: onnx.ModelProto) -> RangeTable:
    if RANGES not in manifest.files:
        raise BundleError(
            f"{path} holds no {RANGES}, which INT8 needs; export the run with --profile tensorrt-int8 --no-engine and"
            " build from that bundle, or export it with a float profile that has the key 'calibration'"
        )
    table = read_table(path / RANGES)
    if table is None or table.key.get("graph") != weight_fingerprint(plain):
        raise BundleError(f"{path / RANGES} isn't the range table of its graph; export the bundle again")
    return table


def _plan(profile: Profile, table: RangeTable, options: Options) -> QuantizationPlan:
    """The plan that is asked for, or the profile's own; with the ranges that the bundle holds."""
    plan = load_plan(options.plan, profile) if options.plan else starting_plan(profile)
    if plan.bias_correction or plan.qad is not None:
        what = "bias_correction" if plan.bias_correction else "qad"
        raise RecipeError(
            f"{options.plan} asks for {what}, which needs the run folder and its train frames; export from the run"
        )
    method = table.key["method"]
    if options.plan and plan.method != method:
        raise RecipeError(
            f"{options.plan} asks for ranges by {plan.method}, the bundle holds those by {method}; set method: {method}"
        )
    held = {key: value for key, value in table.key.items() if key in ("method", "percentile", "bins")}
    return plan.model_copy(update=held)


def _frames(manifest: Manifest, options: Options, data: Path | None) -> Split | None:
    """What accuracy is measured on; None where nothing is to be measured, or no data is here and none was named."""
    if not options.evaluate:
        return None
    try:
        return limited(open_recorded(manifest, options.split, data), options.limit, options.split)
    except DataError as error:
        if data is not None:
            raise
        console.info(f"accuracy isn't measured: {error}")
        return None


def _against_float(made: _Made, manifest: Manifest, frames: Split | None, options: Options) -> Comparison | None:
    """The graph's labels against the float graph's, both by onnxruntime; None where one of the three is missing."""
    if made.plain is None or frames is None or find_spec("onnxruntime") is None:
        return None
    size = (manifest.input.height, manifest.input.width)
    reference = reference_from(infer_onnx(made.plain), frames, size, str(manifest.provenance["data"]), options.split)
    return compare(infer_onnx(made.graph), reference, "graph")


def _through_the_engine(part: Path, frames: Split, comparison: Comparison | None, options: Options) -> Metrics | None:
    """What the engine itself scores; None where it can't run here."""
    try:
        with Segmenter.load(part, device="cuda") as engine, console.progress("engine", len(frames)) as bar:
            confusion = evaluate_split(
                lambda rgb: [engine(np.ascontiguousarray(rgb[0][..., ::-1]))], frames, 1, bar.advance
            )
            data = str(engine.manifest.provenance["data"])
    except (BundleError, DeviceError, MissingPackageError) as error:
        console.info(f"the engine isn't measured here: {error}")
        return None
    figures: dict[str, Any] = {"data": data, "split": options.split, "images": len(frames), **confusion.summary()}
    if comparison is not None:
        before = comparison.reference.confusion.miou
        figures |= {"float_miou_pct": round(100 * before, 3), "drop_pct": round(100 * (before - confusion.miou), 3)}
    return Metrics.model_validate(figures)
