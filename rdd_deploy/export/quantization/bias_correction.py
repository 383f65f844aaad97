"""Bias correction (Nagel et al., "Data-free quantization through weight equalization and bias correction", ICCV 2019),
with data.

Rounding weights and inputs shifts a convolution's mean output; the shift is measured per channel on the calibration
frames and taken out of the float bias. Each layer is measured on the float network's own activations, so no layer
corrects what another one caused.
"""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from rdd_deploy.console import progress
from rdd_deploy.export.onnx.graph import INPUT, initializers
from rdd_deploy.export.profile import Placement
from rdd_deploy.export.quantization.calibration_frames import CalibrationFrames
from rdd_deploy.export.quantization.placement import QdqPlacement, place_qdq
from rdd_deploy.export.quantization.ranges import RangeTable, quantised_weight
from rdd_deploy.export.quantization.schemes.base import Scheme
from rdd_deploy.runtime.backends.onnxruntime import EXACT_INT8

FRAMES = 32
"""So many frames give the mean shift to well under a quantisation step."""


def corrected_biases(
    model: onnx.ModelProto, table: RangeTable, scheme: Scheme, placement: Placement, frames: CalibrationFrames
) -> dict[str, NDArray[np.float32]]:
    """Corrected bias (O,) of every convolution that is quantised by this scheme."""
    import onnxruntime

    constants = initializers(model)
    plan = place_qdq(model, scheme, placement)
    layers = plan.convolutions
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    settings.add_session_config_entry(*EXACT_INT8)
    measuring = _with_shifts(model, plan, table, scheme)
    session = onnxruntime.InferenceSession(measuring.SerializeToString(), settings, providers=["CPUExecutionProvider"])
    sums = {layer: np.zeros(constants[node.input[1]].shape[0], np.float64) for layer, node in layers.items()}
    chosen = np.linspace(0, len(frames) - 1, min(FRAMES, len(frames))).round().astype(int)
    with progress("bias correction", len(chosen)) as bar:
        for position in chosen:
            shifts = session.run([_output(layer) for layer in layers], {INPUT: frames.network_input(int(position))})
            for layer, shift in zip(layers, shifts, strict=True):
                sums[layer] += shift.ravel() / len(chosen)
            bar.advance()
    biases = {
        layer: constants[node.input[2]] if len(node.input) > 2 and node.input[2] else 0.0
        for layer, node in layers.items()
    }
    return {layer: np.asarray(biases[layer] + total, np.float32) for layer, total in sums.items()}


def _output(layer: str) -> str:
    return f"{layer}/shift"


def _with_shifts(model: onnx.ModelProto, plan: QdqPlacement, table: RangeTable, scheme: Scheme) -> onnx.ModelProto:
    """The float graph, with a quantised twin beside each convolution and the mean of their difference as an output."""
    twin = onnx.ModelProto()
    twin.CopyFrom(model)
    constants, layers = initializers(model), plan.convolutions
    nodes, added = [], [numpy_helper.from_array(np.array([0, 2, 3], np.int64), "shift/axes")]
    for layer, node in layers.items():
        source = node.input[0]
        scale, zero = scheme.activation_scale(table.ranges[source])
        integers, scales = quantised_weight(constants[node.input[1]], plan.weight_bits)
        rounded = (integers * scales.reshape(-1, 1, 1, 1)).astype(np.float32)
        added += [
            numpy_helper.from_array(np.asarray(scale), f"{layer}/shift/scale"),
            numpy_helper.from_array(np.asarray(zero), f"{layer}/shift/zero"),
            numpy_helper.from_array(rounded, f"{layer}/shift/weight"),
        ]
        pair = [f"{layer}/shift/scale", f"{layer}/shift/zero"]
        copied = onnx.NodeProto.FromString(node.SerializeToString())
        copied.name = f"{layer}/shift/Conv"
        copied.input[:] = [f"{layer}/shift/DequantizeLinear", f"{layer}/shift/weight", *node.input[2:]]
        copied.output[:] = [copied.name]
        nodes += [
            helper.make_node("QuantizeLinear", [source, *pair], [f"{layer}/shift/QuantizeLinear"]),
            helper.make_node(
                "DequantizeLinear", [f"{layer}/shift/QuantizeLinear", *pair], [f"{layer}/shift/DequantizeLinear"]
            ),
            copied,
            helper.make_node("Sub", [node.output[0], copied.name], [f"{layer}/shift/Sub"]),
            helper.make_node("ReduceMean", [f"{layer}/shift/Sub", "shift/axes"], [_output(layer)], keepdims=0),
        ]
    twin.graph.node.extend(nodes)
    twin.graph.initializer.extend(added)
    del twin.graph.output[:]
    twin.graph.output.extend(helper.make_tensor_value_info(_output(layer), TensorProto.FLOAT, None) for layer in layers)
    return twin
