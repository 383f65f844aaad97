"""The backends that bundles are exported for: one table."""

from __future__ import annotations

from typing import NamedTuple


class Target(NamedTuple):
    """What exporting for a backend needs.

    Attributes:
        module: the backend's Python module.
        extra: of rdd-deploy, which installs it.
        precisions: in which it is exported.
        scheme: how it is quantised where the profile doesn't say (a name in ``SCHEMES``).
        flag: of the command line that stands for it; empty: only profiles name it.
        default: precision that the flag alone means.
    """

    module: str
    extra: str
    precisions: tuple[str, ...]
    scheme: str
    flag: str = ""
    default: str = "fp32"


TARGETS = {
    "onnxruntime": Target("onnxruntime", "cpu", ("fp32", "int8"), "onnxruntime", "onnx"),
    "openvino": Target("openvino", "openvino", ("fp32", "bf16", "int8"), "openvino", "openvino"),
    "tensorrt": Target("tensorrt", "gpu", ("fp32", "fp16", "int8"), "tensorrt", "trt", "fp16"),
    "tensorrt-rtx": Target("tensorrt_rtx", "rtx", ("fp32", "fp16", "int8"), "tensorrt"),
}
