"""Run -> float ONNX bundle, checked against torch on real frames and measured through its own runtime."""

from __future__ import annotations

from pathlib import Path

import onnx

from rdd_deploy import console
from rdd_deploy.errors import GateError
from rdd_deploy.export.bundle import describe, new_bundle
from rdd_deploy.export.graph import opset, save_graph, set_metadata
from rdd_deploy.export.measure import Comparison, Reference, compare_bundle, reference_from
from rdd_deploy.export.onnx_from_run import onnx_from_segmenter
from rdd_deploy.export.source import Source
from rdd_deploy.runtime import InputSpec

AGREEMENT_PCT = 99.99
"""Least share of equal labels between torch and the float graph; what is left are near-ties of two classes."""
CHECK_FRAMES = 8
"""So many frames are compared when the artifact isn't evaluated."""


def float_graph(source: Source, size: tuple[int, int]) -> onnx.ModelProto:
    """The plain float export, with classes, palette and provenance in its metadata."""
    model = onnx_from_segmenter(source.segmenter, size)
    set_metadata(model, {"classes": source.classes, "palette": source.palette, "provenance": source.provenance()})
    return model


def float_reference(source: Source, size: tuple[int, int], split: str, limit: int | None, evaluate: bool = True) -> Reference:
    """The torch network's labels on the split that artifacts are measured on."""
    count = limit if evaluate else min(CHECK_FRAMES, limit or CHECK_FRAMES)
    return reference_from(source.infer(), source.split(split, count), size, source.data.name, split)


def write_float_bundle(source: Source, model: onnx.ModelProto, reference: Reference, target: Path, evaluate: bool = True) -> Comparison:
    """Write ``target`` from a float graph.

    Args:
        evaluate: write the measured figures into the manifest; otherwise the frames are only compared with torch's labels.

    Raises:
        GateError: the graph's labels differ from torch's on more than 0.01 % of the pixels. Nothing is written then.
        DiskError: the bundle can't be written.
    """
    with new_bundle(target) as folder:
        save_graph(model, folder / "model.onnx")
        fields = {
            "name": f"{source.run.path.name}/{target.name}",
            "classes": source.classes,
            "palette": source.palette,
            "input": InputSpec(height=reference.size[0], width=reference.size[1]),
            "backend": "onnxruntime",
            "precision": "fp32",
            "profile": "onnxruntime-fp32",
            "model": "model.onnx",
            "opset": opset(model),
            "provenance": source.provenance(),
        }
        describe(folder, **fields)
        comparison = compare_bundle(folder, reference, device="cpu")
        check_agreement(comparison, "the ONNX graph")
        if evaluate:
            describe(folder, **fields, metrics=comparison.metrics())
    return comparison


def check_agreement(comparison: Comparison, what: str, least_pct: float = AGREEMENT_PCT) -> None:
    """Raise GateError where a float artifact doesn't say what torch says."""
    frames = len(comparison.reference.labels)
    if not comparison.agreement_pct >= least_pct:
        raise GateError(
            f"{what} and torch agree on {comparison.agreement_pct:.3f} % of the pixels of {frames} {comparison.reference.data} frames, "
            f"expected {least_pct} %; no bundle was written. Compare step by step with: rdd-deploy parity"
        )
    console.say(f"{what} agrees with torch on {comparison.agreement_pct:.4f} % of the pixels ({frames} frames)")
