"""Which layers cost accuracy in INT8: each is quantised alone and the network's mIoU is measured."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import onnx

from rdd_deploy.console import progress
from rdd_deploy.data.base import Labels, Split
from rdd_deploy.errors import BundleError
from rdd_deploy.evaluate import spread
from rdd_deploy.export.graph import INPUT, OUTPUT
from rdd_deploy.export.measure import Infer, compare, reference_from
from rdd_deploy.export.placement import multiply_adds, plan_of
from rdd_deploy.export.profile import Placement
from rdd_deploy.export.qdq_from_onnx import qdq_from_onnx
from rdd_deploy.export.ranges import RangeTable
from rdd_deploy.runtime.backends.onnxruntime import EXACT_INT8


class Sensitivity(NamedTuple):
    """One layer quantised alone; points of mIoU it costs, share of equal labels, share of the multiply-adds."""

    layer: str
    drop_pct: float
    agreement_pct: float
    macs_share: float


def rank_layers(
    model: onnx.ModelProto, table: RangeTable, form: str, placement: Placement, train: Split, size: tuple[int, int], count: int
) -> list[Sensitivity]:
    """Worst layer first, on ``count`` frames spread over the train split (val stays unseen: the choice must not be fitted to it)."""
    layers = list(plan_of(model, form, placement).convolutions)
    macs = multiply_adds(model)
    total = sum(macs.values())
    frames = spread(train, count)
    reference = reference_from(infer_onnx(model), frames, size, "train frames", "train")
    found = []
    with progress("rank layers", len(layers)) as bar:
        for layer in layers:
            others = [other for other in layers if other != layer]
            alone = qdq_from_onnx(model, table, form, placement, others)
            measured = compare(infer_onnx(alone), reference, layer)
            found.append(Sensitivity(layer, measured.drop_pct, measured.agreement_pct, macs[layer] / total))
            bar.advance()
    return sorted(found, key=lambda one: (-round(one.drop_pct, 2), one.agreement_pct))


def within_budget(ranked: list[Sensitivity], share: float) -> list[str]:
    """Layers from the worst on, as long as they hold at most ``share`` of the multiply-adds; one that is too big is passed over."""
    taken: list[str] = []
    used = 0.0
    for one in ranked:
        if used + one.macs_share <= share:
            taken.append(one.layer)
            used += one.macs_share
    return taken


def infer_onnx(model: onnx.ModelProto) -> Infer:
    """A graph in onnxruntime on the CPU, with the deployed contract."""
    run = run_onnx(model, [OUTPUT])
    return lambda blob: np.asarray(run(blob)[0], np.uint8)


def _half_scales(model: onnx.ModelProto) -> bool:
    scales = {node.input[1] for node in model.graph.node if node.op_type == "QuantizeLinear"}
    return any(one.name in scales and one.data_type == onnx.TensorProto.FLOAT16 for one in model.graph.initializer)


def run_onnx(model: onnx.ModelProto, names: list[str]) -> Callable[[Labels], list[Any]]:
    """A function from blob to the named tensors of a graph, by onnxruntime on the CPU. BundleError where it can't be loaded or run."""
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    settings.add_session_config_entry(*EXACT_INT8)
    if _half_scales(model):  # onnxruntime 1.32's optimiser makes other labels of such graphs; as they stand it computes them as they say
        settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), settings, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises a class of its own per failure, without a common base
        raise _broken(error) from error

    def run(blob: Labels) -> list[Any]:
        try:
            return list(session.run(names, {INPUT: blob}))
        except Exception as error:
            raise _broken(error) from error

    return run


def _broken(error: Exception) -> BundleError:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return BundleError(f"onnxruntime can't run the graph: {reason}; export the bundle again")
