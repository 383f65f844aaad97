"""Checks of a graph before an engine is built from it or an INT8 graph is saved: what a target rejects, or silently
computes otherwise.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto

from rdd_deploy.errors import BundleError
from rdd_deploy.export.onnx.graph import INPUT, OUTPUT, attribute, consumers, initializers, opset, producers
from rdd_deploy.export.quantization.schemes.base import Scheme

OLDEST_OPSET = 13
"""Per-channel Q/DQ came with it."""


def lint(model: onnx.ModelProto, scheme: Scheme | None, what: str = "the graph") -> None:
    """Check a float graph (``scheme`` None) or a Q/DQ graph.

    Raises:
        BundleError: every finding, one a line.
    """
    problems = [*_interface(model), *_quantisers(model, scheme)]
    if problems:
        kind = f"scheme {scheme.name}" if scheme else "float"
        raise BundleError(
            f"{what} isn't fit for its target ({kind}), {len(problems)} finding(s); export it again:", *problems
        )


def _interface(model: onnx.ModelProto) -> list[str]:
    problems = []
    if [one.name for one in model.graph.input] != [INPUT] or [one.name for one in model.graph.output] != [OUTPUT]:
        return [f"its tensors aren't {INPUT} and {OUTPUT}"]
    if opset(model) < OLDEST_OPSET:
        problems.append(f"opset is {opset(model)}; expected {OLDEST_OPSET} or newer")
    for one in (*model.graph.input, *model.graph.output):
        if one.type.tensor_type.elem_type != TensorProto.UINT8:
            problems.append(f"{one.name} isn't uint8")
        if any(not dimension.dim_value for dimension in one.type.tensor_type.shape.dim):
            problems.append(f"{one.name} has a dimension without a fixed size")
    for node in consumers(model).get(INPUT, []):
        if node.op_type != "Cast":
            problems.append(
                f"uint8 {INPUT} goes into {node.op_type} '{node.name}'; TensorRT takes it only straight into a Cast"
            )
    maker = producers(model).get(OUTPUT)
    if maker is None or maker.op_type != "Cast":
        problems.append(f"{OUTPUT} comes from {maker.op_type if maker else 'nothing'}; expected a Cast to uint8")
    return problems


def _quantisers(model: onnx.ModelProto, scheme: Scheme | None) -> list[str]:
    constants, makers, readers = initializers(model), producers(model), consumers(model)
    problems = []
    found = False
    for node in model.graph.node:
        if node.op_type not in {"QuantizeLinear", "DequantizeLinear"}:
            continue
        found = True
        scale = constants.get(node.input[1])
        if scale is None:
            problems.append(f"'{node.name}' has a scale that isn't constant")
            continue
        if not np.isfinite(scale).all() or (scale <= 0).any():
            problems.append(f"'{node.name}' has a scale that isn't positive and finite")
        zero = constants.get(node.input[2]) if len(node.input) > 2 else None
        value = constants.get(node.input[0])
        problems += _weight(node, scale, zero, value) if value is not None else _activation(node, scale, zero, scheme)
        if node.op_type == "QuantizeLinear" and any(
            reader.op_type != "DequantizeLinear" for reader in readers.get(node.output[0], [])
        ):
            problems.append(f"'{node.name}' feeds something else than DequantizeLinear")
        if node.op_type == "DequantizeLinear" and value is None and makers[node.input[0]].op_type != "QuantizeLinear":
            problems.append(f"'{node.name}' dequantises what QuantizeLinear didn't make")
    if scheme is None and found:
        problems.append("a float graph holds quantisers")
    if scheme is not None and not found:
        problems.append("a quantised graph holds no quantisers")
    return problems


def _weight(node: onnx.NodeProto, scale: np.ndarray, zero: np.ndarray | None, value: np.ndarray) -> list[str]:  # type: ignore[type-arg]
    if value.dtype == np.int32:
        return [f"'{node.name}' dequantises an int32 bias, which TensorRT rejects; leave biases float"]
    problems = []
    if value.dtype != np.int8 or (zero is not None and (zero.dtype != np.int8 or zero.any())):
        problems.append(f"'{node.name}' dequantises {value.dtype} weights; expected int8, symmetric, zero point 0")
    if value.ndim == 4 and (scale.shape != (value.shape[0],) or attribute(node, "axis", 1) != 0):
        problems.append(
            f"'{node.name}' has {scale.size} scale(s); expected one a channel ({value.shape[0]}) along axis 0"
        )
    if value.dtype == np.int8 and (value == -128).any():
        problems.append(f"'{node.name}' holds the weight -128; expected -127 to 127")
    return problems


def _activation(node: onnx.NodeProto, scale: np.ndarray, zero: np.ndarray | None, scheme: Scheme | None) -> list[str]:  # type: ignore[type-arg]
    problems = []
    if scale.size != 1:
        problems.append(f"'{node.name}' has {scale.size} scales; expected one for the whole activation")
    if scheme is not None:
        kind = zero.dtype if zero is not None else np.dtype(np.uint8)  # without a zero point the type is uint8
        problems += scheme.lint(node.name, kind, int(zero.ravel()[0]) if zero is not None and zero.size else 0)
    return problems
