"""Run an ONNX graph on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx

from rdd_deploy.data.base import Labels
from rdd_deploy.errors import BundleError
from rdd_deploy.export.compare import Infer
from rdd_deploy.export.onnx.graph import INPUT, OUTPUT
from rdd_deploy.runtime.backends.onnxruntime import EXACT_INT8


def infer_onnx(model: onnx.ModelProto) -> Infer:
    """A graph in onnxruntime on the CPU, with the deployed contract."""
    run = run_onnx(model, [OUTPUT])
    return lambda network_input: np.asarray(run(network_input)[0], np.uint8)


def _half_scales(model: onnx.ModelProto) -> bool:
    scales = {node.input[1] for node in model.graph.node if node.op_type == "QuantizeLinear"}
    return any(one.name in scales and one.data_type == onnx.TensorProto.FLOAT16 for one in model.graph.initializer)


def run_onnx(model: onnx.ModelProto, names: list[str]) -> Callable[[Labels], list[Any]]:
    """A function from network input to the named tensors of a graph, by onnxruntime on the CPU. BundleError where it
    can't be loaded or run.
    """
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    settings.add_session_config_entry(*EXACT_INT8)
    if _half_scales(model):  # onnxruntime 1.32's optimiser computes other labels; without it they are right
        settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), settings, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises a class of its own per failure, without a common base
        raise _broken(error) from error

    def run(network_input: Labels) -> list[Any]:
        try:
            return list(session.run(names, {INPUT: network_input}))
        except Exception as error:
            raise _broken(error) from error

    return run


def _broken(error: Exception) -> BundleError:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return BundleError(f"onnxruntime can't run the graph: {reason}; export the bundle again")
