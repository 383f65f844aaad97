"""Scheme for onnxruntime on x86 CPUs with VNNI: U8 activations with a free zero point, ReLU and Clip absorbed into the
ranges.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import onnx
from onnx import numpy_helper

from rdd_deploy.export.onnx.graph import INPUT, attribute, consumers, initializers, producers
from rdd_deploy.export.quantization.ranges import ACTIVATIONS, Range, affine_scale
from rdd_deploy.export.quantization.schemes.base import is_gate, made_by


class OnnxRuntimeScheme:
    """Quantises inputs and outputs of INT8 convolutions (behind their activation), and of Add, Mul and pooling between
    them.

    Every reader of such a tensor reads it quantised.
    """

    name = "onnxruntime"

    def tensors(self, model: onnx.ModelProto, convolutions: Mapping[str, onnx.NodeProto]) -> dict[str, set[str]]:
        readers, makers = consumers(model), producers(model)
        inside = {id(node) for node in convolutions.values()}
        names: dict[str, None] = {}
        for node in convolutions.values():
            names.setdefault(node.input[0])
            names.setdefault(_after_activation(node, readers))
        for node in model.graph.node:
            if node.op_type in {"Add", "Mul"} and all(
                name in names or is_gate(name, makers, inside) for name in node.input
            ):
                for name in (*node.input, _after_activation(node, readers)):
                    names.setdefault(name)
            elif node.op_type == "HardSwish" and made_by(node.input[0], makers, inside):
                names.setdefault(node.input[0])
        names.pop(INPUT, None)
        return {name: {reader.output[0] for reader in readers[name]} for name in names if name in readers}

    def activation_scale(self, limits: Range) -> tuple[np.float32, np.int8 | np.uint8]:
        scale, zero = affine_scale(limits)
        return np.float32(scale), np.uint8(zero)

    def prepare(self, model: onnx.ModelProto, tensors: Mapping[str, set[str]], ranges: Mapping[str, Range]) -> None:
        _pool_globally(model, tensors)
        _mean_by_row(model)

    def lint(self, name: str, kind: np.dtype[np.generic], zero: int) -> Iterator[str]:
        if kind != np.uint8:
            yield f"'{name}' is {kind}; onnxruntime's fast convolutions take uint8 activations"


def _after_activation(node: onnx.NodeProto, readers: dict[str, list[onnx.NodeProto]]) -> str:
    """The tensor that a convolution really delivers: behind its Relu or Clip, if nothing else reads what
    is before it.
    """
    after = readers.get(node.output[0], [])
    return str(after[0].output[0] if len(after) == 1 and after[0].op_type in ACTIVATIONS else node.output[0])


def _pool_globally(model: onnx.ModelProto, tensors: Mapping[str, set[str]]) -> None:
    """ReduceMean over height and width becomes GlobalAveragePool, which onnxruntime has in INT8; in place."""
    constants = initializers(model)
    for node in model.graph.node:
        if (
            node.op_type != "ReduceMean"
            or len(node.input) < 2
            or node.input[1] not in constants
            or not attribute(node, "keepdims", 1)
        ):
            continue
        axes = sorted(int(axis) % 4 for axis in constants[node.input[1]].ravel())
        if axes == [2, 3] and node.output[0] in tensors:
            node.op_type = "GlobalAveragePool"
            node.input[:] = node.input[:1]
            del node.attribute[:]


def _mean_by_row(model: onnx.ModelProto) -> None:
    """The frame's mean, (1, 3, 1, 1), becomes (1, 3, 1, width), in place.

    onnxruntime moves the transpose behind the subtraction, where repeating three numbers is slower than subtracting
    whole rows.
    """
    width = model.graph.input[0].type.tensor_type.shape.dim[2].dim_value
    readers = consumers(model)
    for tensor in model.graph.initializer:
        if (
            list(tensor.dims) == [1, 3, 1, 1]
            and [reader.op_type for reader in readers.get(tensor.name, [])] == ["Sub"]
            and width
        ):
            row = np.repeat(numpy_helper.to_array(tensor), width, axis=3)
            tensor.CopyFrom(numpy_helper.from_array(row, tensor.name))
