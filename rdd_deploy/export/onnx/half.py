"""Float graph -> the same graph in half precision, by onnxruntime's converter: TensorRT 11 takes precision from the
graph alone.
"""

from __future__ import annotations

import contextlib
import io
from typing import Any

import onnx

from rdd_deploy.errors import missing_package
from rdd_deploy.export.onnx.graph import opset, tidy_names

HALF_SCALES = 19
"""The first operator set in which scales may be float16."""


def half_from_onnx(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose floats are float16. Frames (0 to 255) and their mean are exact in it; what overflows is found by the
    gate.

    In a graph with Q/DQ their scales become float16, too, so that integer layers hand on half precision.
    """
    try:
        from onnxruntime.transformers import float16
    except ImportError as error:
        raise missing_package("onnxruntime", "cpu", "the conversion to half precision") from error
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    if opset(copy) < HALF_SCALES and any(node.op_type == "QuantizeLinear" for node in copy.graph.node):
        copy = onnx.version_converter.convert_version(copy, HALF_SCALES)
    with contextlib.redirect_stdout(io.StringIO()):
        half: Any = float16.convert_float_to_float16(copy, disable_shape_infer=False)
    tidy_names(half)
    return half  # type: ignore[no-any-return]
