"""Quantisation schemes: how Q/DQ goes into a graph, one small file a target.

A new one is a file here with a class that keeps the contract of ``base.Scheme``, and a line in ``SCHEMES``; profiles
can name it then.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rdd_deploy.export.quantization.schemes.base import Scheme

SCHEMES = {
    "tensorrt": "tensorrt:TensorRtScheme",
    "onnxruntime": "onnxruntime:OnnxRuntimeScheme",
    "openvino": "openvino:OpenVinoScheme",
}


def open_scheme(name: str) -> Scheme:
    """The scheme of a name in ``SCHEMES``."""
    module, _, kind = SCHEMES[name].partition(":")
    made: Scheme = getattr(import_module(f"{__name__}.{module}"), kind)()
    return made
