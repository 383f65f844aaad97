"""Float graph + frames -> range table, by onnxruntime's calibrators, fed one image at a time so that
memory stays flat.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from rdd_deploy import console
from rdd_deploy.console import progress
from rdd_deploy.errors import DiskError, missing_package
from rdd_deploy.export.onnx.graph import INPUT
from rdd_deploy.export.profile import Calibration
from rdd_deploy.export.quantization.calibration_frames import CalibrationFrames
from rdd_deploy.export.quantization.ranges import (
    Range,
    RangeTable,
    check_ranges,
    load_table,
    table_key,
    tensors_to_calibrate,
)

Histogram = tuple[NDArray[np.int64], NDArray[np.float32], float, float]
"""Counts, edges over [-max, max], lowest, highest."""
ENTROPY_BINS = 128
"""Quantised bins of the entropy method, as TensorRT's calibrator had."""


def calibrated(model: onnx.ModelProto, frames: CalibrationFrames, config: Calibration, folder: Path) -> RangeTable:
    """The range table of a graph, from disk if there is one of exactly these weights, graph, images and method.

    Args:
        folder: where tables are kept.
    """
    parameters: dict[str, Any] = {}
    if config.method == "percentile":
        parameters["percentile"] = config.percentile
    if config.method != "minmax":
        parameters["bins"] = config.bins
    key = table_key(model, frames.digest, config.method, **parameters)
    tensors = tensors_to_calibrate(model)
    # Version 0.2's first tables held no range of what a head resizes inside.
    if (table := load_table(folder, key)) is not None and table.ranges.keys() >= set(tensors):
        console.info(f"ranges: {len(table.ranges)} activations by {config.method}, from {folder}")
        return table
    ranges = (
        _minmax(model, tensors, frames)
        if config.method == "minmax"
        else _from_histograms(model, tensors, frames, config)
    )
    check_ranges(ranges)
    table = RangeTable(key, ranges)
    path = table.save(folder)
    console.info(f"ranges: {len(ranges)} activations by {config.method} on {len(frames)} frames -> {path}")
    return table


def _minmax(model: onnx.ModelProto, tensors: list[str], frames: CalibrationFrames) -> dict[str, Range]:
    with _calibrator("MinMaxCalibrater", model, tensors) as calibrator:
        _feed(calibrator, frames, "calibrate")
        data = calibrator.compute_data()
        return {
            name: (float(np.min(data[name].range_value[0])), float(np.max(data[name].range_value[1])))
            for name in tensors
        }


def _from_histograms(
    model: onnx.ModelProto, tensors: list[str], frames: CalibrationFrames, config: Calibration
) -> dict[str, Range]:
    name, options = (
        "PercentileCalibrater",
        {
            "symmetric": False,
            "num_bins": config.bins,
            "percentile": config.percentile,
        },
    )
    if config.method == "entropy":
        name, options = "EntropyCalibrater", {"num_bins": config.bins, "num_quantized_bins": ENTROPY_BINS}
    with _calibrator(name, model, tensors, **options) as calibrator:
        _feed(calibrator, frames, "calibrate")
        if config.method == "mse":
            histograms = calibrator.collector.get_histogram_dict()
            return {name: least_error_range((h[0], h[1], float(h[2]), float(h[3]))) for name, h in histograms.items()}
        with contextlib.redirect_stdout(io.StringIO()):
            data = calibrator.compute_data()
        return {name: (float(data[name].range_value[0]), float(data[name].range_value[1])) for name in tensors}


def least_error_range(histogram: Histogram, candidates: int = 100) -> Range:
    """The range whose 8-bit rounding and clipping have the least mean squared error, among shrunken versions of the
    full one.

    Rounding costs step² / 12 for each value inside, clipping the squared distance to the range for each one outside.
    """
    counts, edges, low, high = histogram
    centres = (edges[:-1] + edges[1:]) / 2
    best, least = (low, high), np.inf
    for share in np.linspace(1 / candidates, 1, candidates):
        bottom, top = share * low, share * high
        if top <= bottom:
            continue
        outside = np.clip(bottom - centres, 0, None) + np.clip(centres - top, 0, None)
        step = (max(top, 0.0) - min(bottom, 0.0)) / 255
        error = float((counts * np.where(outside > 0, outside**2, step**2 / 12)).sum())
        if error < least:
            best, least = (float(bottom), float(top)), error
    return best


def _feed(calibrator: Any, frames: CalibrationFrames, what: str) -> None:
    with progress(what, len(frames)) as bar:
        for position in range(len(frames)):
            # All at once would keep every activation of every image in memory.
            with contextlib.redirect_stdout(io.StringIO()):
                calibrator.collect_data(_One({INPUT: frames.network_input(position)}))
            bar.advance()


class _One:
    """A calibration data reader of one image."""

    def __init__(self, feed: dict[str, Any]) -> None:
        self._feed: dict[str, Any] | None = feed

    def get_next(self) -> dict[str, Any] | None:
        feed, self._feed = self._feed, None
        return feed

    def __iter__(self) -> Any:
        return iter(self.get_next, None)


@contextlib.contextmanager
def _calibrator(name: str, model: onnx.ModelProto, tensors: Iterable[str], **options: Any) -> Any:
    """One of onnxruntime's calibrators, for the given tensors only."""
    try:
        import onnxruntime
        from onnxruntime.quantization import calibrate
    except ImportError as error:
        raise missing_package("onnxruntime", "cpu", "calibration") from error
    wanted = set(tensors)
    base: Any = getattr(calibrate, name)

    class Selected(base):  # type: ignore[misc]
        def select_tensors_to_calibrate(self, model: onnx.ModelProto) -> Any:
            found, infos = super().select_tensors_to_calibrate(model)
            return {tensor for tensor in found if tensor in wanted}, infos

        def create_inference_session(self) -> None:
            settings = onnxruntime.SessionOptions()
            # Or tensors would be fused away.
            settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
            settings.enable_cpu_mem_arena = False  # an arena never gives back what the largest layer took
            self.infer_session = onnxruntime.InferenceSession(
                self.augmented_model_path, settings, providers=["CPUExecutionProvider"]
            )

    with tempfile.TemporaryDirectory(prefix="rdd-calibrate-") as folder:
        plain, augmented = Path(folder) / "plain.onnx", Path(folder) / "augmented.onnx"
        try:
            onnx.save(model, plain)
            calibrator = Selected(str(plain), augmented_model_path=str(augmented), **options)
            calibrator.augment_graph()
        except OSError as error:
            raise DiskError(
                f"can't write into {folder}: {error.strerror or error}; free some space or set TMPDIR"
            ) from error
        calibrator.create_inference_session()
        yield calibrator
        calibrator.infer_session = None
