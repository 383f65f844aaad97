"""Labels and mIoU of torch, ONNX, Q/DQ and the backend over real frames, each stage compared with the one before."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx

from rdd_deploy import console
from rdd_deploy.data.base import Split
from rdd_deploy.errors import BundleError, DeviceError, MissingPackageError
from rdd_deploy.export.onnx.graph import initializers, load_graph
from rdd_deploy.runtime.manifest import Manifest, read_manifest

FLOAT_AGREEMENT_PCT = 99.99
"""Stages that compute the same numbers elsewhere must keep this share of the labels."""
HALF_AGREEMENT_PCT = 99.0
"""A 16-bit backend may flip near-ties."""
NODES = 8
NODE_FRAMES = 4


class Stage(NamedTuple):
    """One stage, compared with the one before and with torch; percentages."""

    name: str
    agreement_before_pct: float
    agreement_torch_pct: float
    miou_pct: float
    change_pct: float
    """Points of mIoU against the stage before."""
    worst_class: str
    worst_change_pct: float
    finding: str
    """Empty if the stage holds; otherwise what breaks."""


class NodeError(NamedTuple):
    """Error of one tensor in the Q/DQ graph against the float one."""

    tensor: str
    signal_to_noise_db: float


@dataclass(frozen=True)
class ParityReport:
    """The whole result."""

    bundle: str
    images: int
    stages: list[Stage]
    not_finite: list[str]
    """Tensors of the float graph that hold NaN or infinity."""
    worst: list[NodeError]
    skipped: str

    @property
    def broken(self) -> str | None:
        """The first stage that breaks."""
        return next((stage.name for stage in self.stages if stage.finding), None)


def compare_stages(
    bundle: Path,
    run: Path | None = None,
    data: Path | None = None,
    split: str = "val",
    limit: int | None = None,
    max_drop: float = 1.0,
) -> ParityReport:
    """Compare every stage of a bundle.

    Args:
        run: its run folder; default: the one that the bundle lies in (RUN/export/PROFILE).
        max_drop: points of mIoU that a stage may lose against the one before.

    Raises:
        BundleError: the bundle is invalid or belongs to other weights.
    """
    from rdd_deploy.export.compare import Comparison, compare, compare_bundle, reference_from
    from rdd_deploy.export.onnx.export import onnx_from_segmenter
    from rdd_deploy.export.onnx.session import infer_onnx
    from rdd_deploy.export.trained_run import checkpoint_name, open_run

    manifest = read_manifest(bundle)
    source = open_run(run or _run_of(bundle), data)
    if (made_from := manifest.provenance.get("weights_sha256")) not in (None, source.weights_sha256):
        raise BundleError(
            f"{bundle} was exported from other weights ({str(made_from)[:12]}…) than {source.run.path} holds "
            f"({source.weights_sha256[:12]}…); name its run with --run, or export it again"
        )
    if tuned := manifest.provenance.get("fine_tuned_sha256"):
        places = [folder / checkpoint_name(manifest.profile) for folder in (bundle.resolve().parent, source.run.export)]
        found = source.find_fine_tuned(str(tuned), places)
        if found is None:
            raise BundleError(
                f"{bundle} was made from a fine-tuned student, and {places[0]} isn't there; put it there, or export it"
                " again"
            )
        source = found
    size = (manifest.input.height, manifest.input.width)
    frames = source.split(split, limit)
    base = reference_from(source.infer(), frames, size, source.data.name, split)
    plain = onnx_from_segmenter(source.segmenter, size)
    steps: list[tuple[str, Any, float]] = [
        ("onnx", lambda ref: compare(infer_onnx(plain), ref, "onnx"), FLOAT_AGREEMENT_PCT)
    ]
    graph = _graph_of(bundle, manifest)
    if manifest.precision == "int8" and graph is not None:
        steps.append(("q/dq", lambda ref: compare(infer_onnx(graph), ref, "q/dq"), 0.0))
    least = {"fp32": FLOAT_AGREEMENT_PCT}.get(manifest.precision, HALF_AGREEMENT_PCT)
    steps.append((f"{manifest.backend} {manifest.precision}", lambda ref: compare_bundle(bundle, ref), least))
    stages: list[Stage] = []
    before: Comparison | None = None
    skipped = ""
    for name, step, floor in steps:
        try:
            now: Comparison = step(base)
        except (DeviceError, MissingPackageError) as error:
            skipped = f"{name}: {error}"
            break
        stages.append(_stage(name, base, before, now, floor, max_drop))
        before = now
    worst = node_errors(plain, graph, frames, size) if manifest.precision == "int8" and graph is not None else []
    return ParityReport(str(bundle), len(frames), stages, not_finite(plain, frames, size), worst, skipped)


def _run_of(bundle: Path) -> Path:
    """RUN of RUN/export/PROFILE."""
    folder = bundle.resolve().parent
    if folder.name != "export":
        raise BundleError(
            f"{bundle} doesn't lie in a run's export folder; name the run that it was made from with --run"
        )
    return folder.parent


def _graph_of(bundle: Path, manifest: Manifest) -> onnx.ModelProto | None:
    """The bundle's ONNX graph: its model, or what its engine was built from."""
    for name in (manifest.model, "graph.onnx"):
        if name.endswith(".onnx") and name in manifest.files:
            return load_graph(bundle / name)
    return None


def _stage(name: str, base: Any, before: Any, now: Any, floor: float, max_drop: float) -> Stage:
    """Compare a stage with the one before it (torch for the first)."""
    earlier = base.confusion if before is None else before.confusion
    agreement = now.agreement_pct if before is None else 100 * _same(before.labels, now.labels)
    change = 100 * (now.confusion.miou - earlier.miou)
    per_class = 100 * (now.confusion.iou - earlier.iou)
    worst = int(np.nanargmin(np.where(np.isfinite(per_class), per_class, 0)))
    finding = ""
    if agreement < floor:
        finding = f"labels agree on {agreement:.3f} % only, expected {floor:g} %"
    elif change < -max_drop:
        finding = f"mIoU falls by {-change:.2f} points"
    return Stage(
        name, round(agreement, 4), round(now.agreement_pct, 4), round(now.miou_pct, 3), round(change, 3), now.confusion.classes[worst],
        round(float(per_class[worst]), 3), finding,
    )  # fmt: skip


def _same(before: list[Any], now: list[Any]) -> float:
    return float(np.mean([(a == b).mean() for a, b in zip(before, now, strict=True)]))


def not_finite(model: onnx.ModelProto, frames: Split, size: tuple[int, int]) -> list[str]:
    """Float tensors of a graph that hold NaN or infinity on some frame, in the graph's order."""
    found: list[str] = []
    names, values = _tensors(model)
    for network_input in _network_inputs(frames, size):
        for name, value in zip(names, values(network_input), strict=True):
            if name not in found and not np.isfinite(value).all():
                found.append(name)
    return [name for name in names if name in found]


def node_errors(
    plain: onnx.ModelProto, quantised: onnx.ModelProto, frames: Split, size: tuple[int, int]
) -> list[NodeError]:
    """Tensors with the lowest signal-to-noise ratio between the float and the Q/DQ graph, worst first, over a few
    frames.
    """
    own, other = _tensors(plain), _tensors(quantised)
    there = set(other[0])
    # Where a tensor is quantised, its quantised values count: those are what the next layer reads.
    twins = {name: back if (back := f"{name}/DequantizeLinear") in there else name for name in own[0]}
    shared = [name for name in own[0] if twins[name] in there]
    signal = dict.fromkeys(shared, 0.0)
    noise = dict.fromkeys(shared, 0.0)
    for network_input in _network_inputs(frames, size):
        first, second = (
            dict(zip(own[0], own[1](network_input), strict=True)),
            dict(zip(other[0], other[1](network_input), strict=True)),
        )
        for name in shared:
            if first[name].shape == second[twins[name]].shape:
                signal[name] += float(np.square(first[name], dtype=np.float64).sum())
                noise[name] += float(np.square(first[name] - second[twins[name]], dtype=np.float64).sum())
    ratios = [
        NodeError(name, round(10 * np.log10(signal[name] / noise[name]), 2))
        for name in shared
        if noise[name] > 0 < signal[name]
    ]
    return sorted(ratios, key=lambda one: one.signal_to_noise_db)[:NODES]


def _network_inputs(frames: Split, size: tuple[int, int]) -> Any:
    from rdd_deploy.preprocess import resize_frame

    for index in np.linspace(0, len(frames) - 1, min(NODE_FRAMES, len(frames))).round().astype(int):
        yield np.ascontiguousarray(resize_frame(frames.frame(int(index)), size)[np.newaxis, ..., ::-1])


def _tensors(model: onnx.ModelProto) -> tuple[list[str], Any]:
    """Names of a graph's layer outputs (convolutions and what computes between them), and a function from network input
    to their values.
    """
    from rdd_deploy.export.onnx.session import run_onnx

    constants = initializers(model)
    kinds = {
        "Conv",
        "Add",
        "Mul",
        "HardSwish",
        "Relu",
        "Clip",
        "Resize",
        "ReduceMean",
        "GlobalAveragePool",
        "Sigmoid",
        "HardSigmoid",
    }
    computed = [node for node in model.graph.node if node.input[0] not in constants]
    names = [node.output[0] for node in computed if node.op_type in kinds or node.op_type == "DequantizeLinear"]
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    shown.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in names)
    return names, run_onnx(shown, names)


def show(report: ParityReport) -> None:
    """Print every stage and the verdict."""
    headings = ("stage", "labels as before %", "labels as torch %", "mIoU %", "change", "worst class", "")
    rows = [
        (
            stage.name, f"{stage.agreement_before_pct:.3f}", f"{stage.agreement_torch_pct:.3f}", f"{stage.miou_pct:.2f}", f"{stage.change_pct:+.2f}",
            f"{stage.worst_class} {stage.worst_change_pct:+.2f}", stage.finding or "holds",
        )
        for stage in report.stages
    ]  # fmt: skip
    console.show(f"{report.bundle}: {report.images} images", console.table(headings, rows, left=(0, 5, 6)))
    for one in report.worst:
        console.info(f"  {one.signal_to_noise_db:6.2f} dB  {one.tensor}")
    if report.worst:
        console.info("^ tensors with the largest error between float and Q/DQ, in decibels of signal over noise")
    if report.not_finite:
        console.info(f"NaN or infinity in the float network: {', '.join(report.not_finite[:5])}")
    if report.skipped:
        console.warn(f"not compared: {report.skipped}")
    console.info(f"first stage that breaks: {report.broken}" if report.broken else "every stage compared holds")
