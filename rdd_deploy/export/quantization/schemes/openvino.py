"""Scheme for OpenVINO: U8 without zero point where an activation is never negative, S8 elsewhere.

OpenVINO propagates the integers itself, and fuses hard-swish and gates into convolutions where no Q/DQ pair stands
between.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import onnx

from rdd_deploy.export.onnx.graph import producers
from rdd_deploy.export.quantization.ranges import Range, affine_scale, symmetric_scale
from rdd_deploy.export.quantization.schemes.base import made_by, unclip


class OpenVinoScheme:
    """Quantises inputs of INT8 convolutions, and both inputs of a residual Add behind one: one of the two alone is
    slower than neither.
    """

    name = "openvino"

    def tensors(self, model: onnx.ModelProto, convolutions: Mapping[str, onnx.NodeProto]) -> dict[str, set[str]]:
        makers, inside = producers(model), {id(node) for node in convolutions.values()}
        tensors: dict[str, set[str]] = {}
        for node in convolutions.values():
            tensors.setdefault(node.input[0], set()).add(node.output[0])
        for node in model.graph.node:
            residual = node.op_type == "Add" and all(name in makers for name in node.input)
            if residual and any(made_by(name, makers, inside) for name in node.input):
                for name in node.input:
                    tensors.setdefault(name, set()).add(node.output[0])
        return tensors

    def activation_scale(self, limits: Range) -> tuple[np.float32, np.int8 | np.uint8]:
        if limits[0] >= 0:
            scale, zero = affine_scale(limits)
            return np.float32(scale), np.uint8(zero)
        return np.float32(symmetric_scale(limits)), np.int8(0)

    def prepare(self, model: onnx.ModelProto, tensors: Mapping[str, set[str]], ranges: Mapping[str, Range]) -> None:
        unclip(model, tensors, ranges)

    def lint(self, name: str, kind: np.dtype[np.generic], zero: int) -> Iterator[str]:
        if kind == np.uint8 and zero:
            yield f"'{name}' has the zero point {zero}; this scheme has U8 with zero point 0, or S8"
