"""Scheme for TensorRT: S8 activations, symmetric, zero point 0."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import onnx

from rdd_deploy.export.onnx.graph import consumers, producers
from rdd_deploy.export.quantization.ranges import Range, symmetric_scale
from rdd_deploy.export.quantization.schemes.base import GATES, is_gate, made_by, unclip


class TensorRtScheme:
    """Quantises inputs of INT8 convolutions, the skip input of a residual Add, inputs of HardSwish and
    of a gating Mul.
    """

    name = "tensorrt"

    def tensors(self, model: onnx.ModelProto, convolutions: Mapping[str, onnx.NodeProto]) -> dict[str, set[str]]:
        makers, readers = producers(model), consumers(model)
        inside = {id(node) for node in convolutions.values()}
        tensors: dict[str, set[str]] = {}
        for node in model.graph.node:
            if node.op_type == "Conv" and id(node) in inside:
                quantised = [node.input[0]]
            elif node.op_type == "Add" and (skip := _skip(node, makers, readers, inside)):
                quantised = [skip]
            elif node.op_type == "HardSwish" and made_by(node.input[0], makers, inside):
                quantised = [node.input[0]]
            elif node.op_type == "Mul" and is_gate(_gate_input(node, makers), makers, inside):
                quantised = list(node.input)
            else:
                continue
            for name in quantised:
                tensors.setdefault(name, set()).add(node.output[0])
        for (
            name,
            names,
        ) in tensors.items():  # pooling reads the INT8 copy too, so that the producer needs to write no float one
            names |= {reader.output[0] for reader in readers[name] if reader.op_type == "ReduceMean"}
        return tensors

    def activation_scale(self, limits: Range) -> tuple[np.float32, np.int8 | np.uint8]:
        return np.float32(symmetric_scale(limits)), np.int8(0)

    def prepare(self, model: onnx.ModelProto, tensors: Mapping[str, set[str]], ranges: Mapping[str, Range]) -> None:
        unclip(model, tensors, ranges)

    def lint(self, name: str, kind: np.dtype[np.generic], zero: int) -> Iterator[str]:
        if kind != np.int8:
            yield (
                f"'{name}' is {kind}, which TensorRT silently turns into int8, so that values above 127 x scale clip;"
                " expected int8"
            )
        if zero:
            yield f"'{name}' has the zero point {zero}; TensorRT needs 0"


def _skip(
    node: onnx.NodeProto, makers: dict[str, onnx.NodeProto], readers: dict[str, list[onnx.NodeProto]], inside: set[int]
) -> str | None:
    """The input of a residual Add that isn't the fresh convolution's, which stays float so that convolution and Add
    fuse.
    """
    fresh = [name for name in node.input if made_by(name, makers, inside) and len(readers[name]) == 1]
    if not fresh:
        return None
    other = [name for name in node.input if name != fresh[-1]]
    return other[0] if other and other[0] in makers else None


def _gate_input(node: onnx.NodeProto, makers: dict[str, onnx.NodeProto]) -> str:
    return next((name for name in node.input if name in makers and makers[name].op_type in GATES), "")
