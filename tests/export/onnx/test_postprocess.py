"""Every form of the tail says the same labels."""

from __future__ import annotations

import platform
from collections import Counter

import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from toy_export import SIZE

from rdd_deploy.export.compare import compare, reference_from
from rdd_deploy.export.onnx.graph import INPUT, OUTPUT
from rdd_deploy.export.onnx.postprocess import CLASSES_AT_ONCE, bilinear_matrix, row_blocks, with_postprocess
from rdd_deploy.export.onnx.session import infer_onnx
from rdd_deploy.export.trained_run import TrainedRun
from rdd_deploy.runtime.backends.openvino import shared_core

FORMS = [("matmul", "onnxruntime"), ("matmul", "openvino"), ("running_argmax", "openvino")]


@pytest.mark.parametrize(("form", "backend"), FORMS)
def test_a_networks_labels_stay(graph: onnx.ModelProto, source: TrainedRun, form: str, backend: str) -> None:
    turned = with_postprocess(graph, form, backend)
    onnx.checker.check_model(turned, full_check=True)
    reference = reference_from(infer_onnx(graph), source.split("val"), SIZE, "toy", "val")
    assert compare(infer_onnx(turned), reference).agreement_pct >= 99.99
    kinds = [Counter(node.op_type for node in one.graph.node) for one in (graph, turned)]
    assert kinds[1]["Resize"] == kinds[0]["Resize"] - 1
    assert kinds[1]["ArgMax"] == (1 if form == "matmul" else 0)


def test_as_exported_is_the_graph_itself(graph: onnx.ModelProto) -> None:
    assert with_postprocess(graph, "resize", "openvino") is graph


@settings(max_examples=25)
@given(
    small=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    scale=st.tuples(st.sampled_from([1, 2, 3, 4, 5, 8, 16, 32]), st.integers(1, 9)),
    more=st.sampled_from([(0, 0), (0, 1), (1, 0)]),
    classes=st.integers(1, 13),
    spread=st.sampled_from([1e-4, 3, 10]),
    seed=st.integers(0, 2**32 - 1),
)
def test_labels_are_torchs(
    small: tuple[int, int], scale: tuple[int, int], more: tuple[int, int], classes: int, spread: float, seed: int
) -> None:
    large = (small[0] * scale[0] + more[0], small[1] * scale[1] + more[1])
    logits = np.random.default_rng(seed).normal(0, spread, (1, classes, *small)).astype(np.float32)
    whole = torch.nn.functional.interpolate(
        torch.from_numpy(logits).double(), large, mode="bilinear", align_corners=False
    )
    expected = whole.argmax(1).numpy()
    lead = np.full_like(expected, np.inf, np.float64)
    if classes > 1:
        first, second = whole.topk(2, dim=1).values[0].numpy()
        lead = (first - second)[None]
    for form, backend in FORMS:
        labels = run(with_postprocess(tail_alone(classes, small, large), form, backend), backend, logits)
        assert labels.dtype == np.uint8
        assert labels.shape == expected.shape
        # Elsewhere rounding decides.
        assert (labels == expected)[lead > spread * 3e-5].all(), (
            form,
            backend,
        )


@pytest.mark.parametrize("far", [1e2, 1e4])
def test_a_class_far_below_the_others_changes_nothing(far: float) -> None:
    logits = np.random.default_rng(0).normal(0, 3, (1, 11, 15, 20)).astype(np.float32)
    logits[0, 4, :, 3:5] -= far
    plain = run(tail_alone(11, (15, 20), (120, 160)), "onnxruntime", logits)
    for form, backend in FORMS:
        labels = run(with_postprocess(tail_alone(11, (15, 20), (120, 160)), form, backend), backend, logits)
        assert (labels == plain).mean() > 0.99, (form, backend)


def test_ties_go_to_the_first_class() -> None:
    logits = np.zeros((1, 7, 3, 4), np.float32)
    logits[:, 3:] = 1
    labels = [
        run(with_postprocess(tail_alone(7, (3, 4), (24, 32)), form, backend), backend, logits)
        for form, backend in FORMS
    ]
    assert all((one == 3).all() for one in labels)


@pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64"), reason="other processors' kernels are fused by other rules"
)
def test_openvino_makes_one_kernel_of_each_two_classes() -> None:
    """What running_argmax is fast for; another release of OpenVINO may fuse otherwise, and then CLASSES_AT_ONCE should
    change.
    """
    model = with_postprocess(tail_alone(11, (30, 40), (240, 320)), "running_argmax", "openvino")
    compiled = shared_core(openvino).compile_model(
        shared_core(openvino).read_model(model.SerializeToString()), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    kinds = Counter(
        str(node.get_rt_info()["layerType"].astype(str)) for node in compiled.get_runtime_model().get_ordered_ops()
    )
    assert kinds["Subgraph"] == 11 // CLASSES_AT_ONCE
    assert not {"TopK", "Eltwise", "Select", "Convert"} & set(kinds)


@given(small=st.integers(1, 40), large=st.integers(1, 300), source_rows=st.integers(1, 6))
def test_bilinear_matrix_is_torchs_interpolation(small: int, large: int, source_rows: int) -> None:
    signal = torch.randn(1, 1, small, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = torch.nn.functional.interpolate(signal, (large, 1), mode="bilinear", align_corners=False)[
        0, 0, :, 0
    ].numpy()
    matrix = bilinear_matrix(small, large)
    np.testing.assert_allclose(matrix @ signal[0, 0, :, 0].numpy(), expected, atol=1e-5)
    sources, rows = row_blocks(small, large, source_rows)
    blocks = np.einsum("brk,bk->br", rows, signal[0, 0, :, 0].numpy()[sources])
    np.testing.assert_allclose(blocks.ravel(), expected, atol=1e-5)
    assert rows.shape[2] <= small
    assert sources.min() >= 0
    assert sources.max() < small


def tail_alone(classes: int, small: tuple[int, int], large: tuple[int, int]) -> onnx.ModelProto:
    """Logits in, labels out, as the float export ends."""
    nodes = [
        helper.make_node("Identity", [INPUT], ["logits"]),
        helper.make_node(
            "Resize", ["logits", "", "", "sizes"], ["large"], mode="linear", coordinate_transformation_mode="half_pixel"
        ),
        helper.make_node("ArgMax", ["large"], ["best"], axis=1, keepdims=0),
        helper.make_node("Cast", ["best"], [OUTPUT], to=TensorProto.UINT8),
    ]
    graph = helper.make_graph(
        nodes,
        "tail",
        [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, (1, classes, *small))],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.UINT8, (1, *large))],
        [numpy_helper.from_array(np.array([1, classes, *large]), "sizes")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def run(model: onnx.ModelProto, backend: str, logits: NDArray[np.float32]) -> NDArray[np.uint8]:
    onnx.checker.check_model(model, full_check=True)
    if backend == "onnxruntime":
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        return np.asarray(session.run(None, {INPUT: logits})[0])
    core = shared_core(openvino)
    request = core.compile_model(
        core.read_model(model.SerializeToString()), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    ).create_infer_request()
    request.infer([logits])
    return np.array(request.get_output_tensor().data)
