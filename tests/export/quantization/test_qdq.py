"""Q/DQ graphs of one table by every scheme, and the lint that keeps TensorRT from silently changing a graph."""

from collections import Counter
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper, numpy_helper
from toy_export import SIZE, mobilenet, taught

from rdd_deploy.errors import BundleError, DataError, RecipeError
from rdd_deploy.export.compare import compare, reference_from
from rdd_deploy.export.onnx import export as onnx_export
from rdd_deploy.export.onnx.graph import consumers, initializers
from rdd_deploy.export.onnx.lint import lint
from rdd_deploy.export.onnx.session import infer_onnx
from rdd_deploy.export.profile import Calibration, Placement
from rdd_deploy.export.quantization.bias_correction import corrected_biases
from rdd_deploy.export.quantization.calibrate import calibrated
from rdd_deploy.export.quantization.calibration_frames import from_train
from rdd_deploy.export.quantization.placement import classifiers, layer_of, multiply_adds, place_qdq
from rdd_deploy.export.quantization.qdq import qdq_from_onnx, quantised_layers, weight_bits
from rdd_deploy.export.quantization.ranges import NOTHING, RangeTable, affine_scale, quantised_weight, symmetric_scale
from rdd_deploy.export.quantization.schemes import SCHEMES, open_scheme
from rdd_deploy.export.quantization.schemes.base import Scheme
from rdd_deploy.export.trained_run import TrainedRun
from rdd_deploy.models import HEADS

EVERY_SCHEME = pytest.mark.parametrize("scheme", [open_scheme(name) for name in SCHEMES], ids=list(SCHEMES))
TENSORRT, ONNXRUNTIME, OPENVINO = open_scheme("tensorrt"), open_scheme("onnxruntime"), open_scheme("openvino")
finite = st.floats(-1e4, 1e4, allow_nan=False, width=32)


@pytest.fixture(scope="session")
def table(graph: onnx.ModelProto, source: TrainedRun, tmp_path_factory: pytest.TempPathFactory) -> RangeTable:
    frames = from_train(source.split("train"), [source.split("val")], 6, SIZE)
    return calibrated(graph, frames, Calibration(images=6), tmp_path_factory.mktemp("tables"))


@pytest.fixture(scope="session")
def relu6(tmp_path_factory: pytest.TempPathFactory) -> tuple[onnx.ModelProto, RangeTable]:
    """A network without hard-swish and squeeze-and-excitation, with made-up ranges."""
    network = mobilenet(activation="relu6", squeeze_excite=False)
    graph = onnx_export.onnx_from_segmenter(taught(network, steps=0), (64, 64))
    return graph, made_up(graph)


def made_up(graph: onnx.ModelProto) -> RangeTable:
    from rdd_deploy.export.quantization.ranges import tensors_to_calibrate

    clipped = {node.output[0] for node in graph.graph.node if node.op_type in ("Clip", "Relu")}
    return RangeTable(
        {"method": "made up"},
        {name: (0.0, 6.0) if name in clipped else (-4.0, 4.0) for name in tensors_to_calibrate(graph)},
    )


@EVERY_SCHEME
def test_every_scheme_keeps_accuracy(
    graph: onnx.ModelProto, table: RangeTable, source: TrainedRun, scheme: Scheme
) -> None:
    quantised = qdq_from_onnx(graph, table, scheme, Placement())
    onnx.checker.check_model(quantised, full_check=True)
    lint(quantised, scheme)
    reference = reference_from(source.infer(), source.split("val"), SIZE, "toy", "val")
    measured = compare(infer_onnx(quantised), reference)
    assert measured.agreement_pct > 90
    assert measured.drop_pct < 10


@EVERY_SCHEME
def test_weights_are_per_channel_and_biases_float(graph: onnx.ModelProto, table: RangeTable, scheme: Scheme) -> None:
    quantised = qdq_from_onnx(graph, table, scheme, Placement())
    constants = initializers(quantised)
    assert constants["encoder.conv_stem.weight/int8"].dtype == np.int8
    assert constants["encoder.conv_stem.weight/scale"].shape == (constants["encoder.conv_stem.weight/int8"].shape[0],)
    assert not [name for name, value in constants.items() if value.dtype == np.int32]
    assert {"head.classify_high", "head.classify_low", "head.gate.1"} & set(quantised_layers(quantised)) == set()
    layers = {layer_of(node) for node in graph.graph.node if node.op_type == "Conv"}
    assert len(quantised_layers(quantised)) == len(layers) - 3


def test_float_graph_is_left_alone(graph: onnx.ModelProto, table: RangeTable) -> None:
    before = graph.SerializeToString()
    qdq_from_onnx(graph, table, ONNXRUNTIME, Placement())
    qdq_from_onnx(graph, table, TENSORRT, Placement())
    assert graph.SerializeToString() == before


def test_onnxruntime_scheme_becomes_integer_convolutions(
    relu6: tuple[onnx.ModelProto, RangeTable], tmp_path: Path
) -> None:
    quantised = qdq_from_onnx(*relu6, ONNXRUNTIME, Placement())
    settings = onnxruntime.SessionOptions()
    settings.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    settings.log_severity_level = 3
    onnxruntime.InferenceSession(quantised.SerializeToString(), settings, providers=["CPUExecutionProvider"])
    found = Counter(node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node)
    assert found["QLinearConv"] == len(quantised_layers(quantised)) == 35
    assert found["Clip"] == 0  # absorbed by the quantiser's range
    assert found["QLinearAdd"] == 7


def test_onnxruntime_scheme_subtracts_the_mean_row_by_row(relu6: tuple[onnx.ModelProto, RangeTable]) -> None:
    """The same mean, in the shape that onnxruntime is fast with; the other schemes keep it."""
    graph, table = relu6
    before = initializers(graph)["mean"]
    assert before.shape == (1, 3, 1, 1)
    row = initializers(qdq_from_onnx(graph, table, ONNXRUNTIME, Placement()))["mean"]
    assert row.shape == (1, 3, 1, 64)
    assert np.all(row == before)
    assert initializers(qdq_from_onnx(graph, table, OPENVINO, Placement()))["mean"].shape == before.shape


def test_tensorrt_scheme_quantises_the_skip_and_keeps_the_fresh_input(
    relu6: tuple[onnx.ModelProto, RangeTable],
) -> None:
    quantised = qdq_from_onnx(*relu6, TENSORRT, Placement())
    adds = [node for node in quantised.graph.node if node.op_type == "Add" and node.output[0].startswith("encoder")]
    assert len(adds) == 7
    for node in adds:
        assert sorted(source.endswith("/DequantizeLinear") for source in node.input) == [False, True]
    # Relu, which TensorRT fuses; S8 saturates at 6.
    assert "Clip" not in {node.op_type for node in quantised.graph.node}


def test_openvino_scheme_quantises_inputs_of_convolutions_and_both_sides_of_residual_sums(
    graph: onnx.ModelProto, table: RangeTable, relu6: tuple[onnx.ModelProto, RangeTable]
) -> None:
    quantised = qdq_from_onnx(*relu6, OPENVINO, Placement())
    sums = [node for node in quantised.graph.node if node.op_type == "Add" and node.output[0].startswith("encoder")]
    assert len(sums) == 7
    assert all(source.endswith("/DequantizeLinear") for node in sums for source in node.input)
    quantised = qdq_from_onnx(graph, table, OPENVINO, Placement())
    readers, constants = consumers(quantised), initializers(quantised)
    kinds = set()
    for node in quantised.graph.node:
        if node.op_type == "QuantizeLinear":
            assert {reader.op_type for reader in readers[f"{node.input[0]}/DequantizeLinear"]} <= {"Conv", "Add"}
            zero = constants[node.input[2]]
            assert zero == 0
            assert (zero.dtype == np.uint8) == (table.ranges[node.input[0]][0] >= 0)
            kinds.add(zero.dtype.name)
    assert kinds == {"uint8", "int8"}


def test_float_layers_stay_float(graph: onnx.ModelProto, table: RangeTable) -> None:
    quantised = qdq_from_onnx(graph, table, ONNXRUNTIME, Placement(), ["encoder.conv_stem"])
    assert "encoder.conv_stem" not in quantised_layers(quantised)
    assert "encoder.conv_stem.weight" in initializers(quantised)
    with pytest.raises(
        RecipeError,
        match=r"placement.float_layers: no convolution encoder.stem in the graph; nearest are .*encoder.conv_stem",
    ):
        place_qdq(graph, ONNXRUNTIME, Placement(), ["encoder.stem"])


def test_placement_switches(graph: onnx.ModelProto) -> None:
    assert "head.classify_low" in place_qdq(graph, ONNXRUNTIME, Placement(classifier="int8")).convolutions
    assert "head.gate.1" in place_qdq(graph, TENSORRT, Placement(lraspp_gate="int8")).convolutions


@pytest.mark.parametrize(
    "head",
    [pytest.param(one, marks=() if one in ("lraspp_refine", "pspnet") else pytest.mark.slow) for one in HEADS],
)
def test_a_table_serves_every_scheme_and_placement_of_every_head(head: str) -> None:
    network = mobilenet(activation="relu6", squeeze_excite=False, head=head)
    graph = onnx_export.onnx_from_segmenter(taught(network, steps=0), (64, 64))
    said = {layer_of(node) for node in classifiers(graph)}
    assert said == {layer for layer in said if "classif" in layer}
    assert {
        layer_of(node) for node in graph.graph.node if node.op_type == "Conv" and "classif" in layer_of(node)
    } == said
    for scheme in (TENSORRT, ONNXRUNTIME, OPENVINO):
        for kept in ("float", "int8"):
            placement = Placement(classifier=kept, lraspp_gate=kept)
            assert quantised_layers(qdq_from_onnx(graph, made_up(graph), scheme, placement))
            assert said.isdisjoint(place_qdq(graph, scheme, placement).convolutions) == (kept == "float")


@pytest.mark.parametrize("encoder", ["edgenext_xx_small", pytest.param("fastvit_t8", marks=pytest.mark.slow)])
def test_a_table_serves_encoders_that_turn_their_maps(encoder: str) -> None:
    """EdgeNeXt's shortcuts come from transposed maps, which OpenVINO's scheme quantises where they are added."""
    graph = onnx_export.onnx_from_segmenter(taught({**mobilenet(), "encoder": encoder}, steps=0), (64, 64))
    table = made_up(graph)
    for scheme in (TENSORRT, ONNXRUNTIME, OPENVINO):
        assert quantised_layers(qdq_from_onnx(graph, table, scheme, Placement()))


def test_missing_range(graph: onnx.ModelProto, table: RangeTable) -> None:
    ranges = dict(table.ranges)
    del ranges["frame/Sub"]
    with pytest.raises(DataError, match="the range table has no range of 'frame/Sub'"):
        qdq_from_onnx(graph, RangeTable(table.key, ranges), TENSORRT, Placement())


def test_multiply_adds_by_hand(graph: onnx.ModelProto) -> None:
    weight = initializers(graph)["encoder.conv_stem.weight"]
    assert multiply_adds(graph)["encoder.conv_stem"] == weight.shape[0] * 3 * 9 * (SIZE[0] // 2) * (SIZE[1] // 2)


@pytest.mark.parametrize("bits", [7, 8])
def test_bias_correction_takes_the_mean_shift_out(
    graph: onnx.ModelProto, table: RangeTable, source: TrainedRun, bits: Literal[7, 8]
) -> None:
    frames, placement = from_train(source.split("train"), [], 6, SIZE), Placement(weight_bits=bits)
    biases = corrected_biases(graph, table, TENSORRT, placement, frames)
    assert set(biases) == set(place_qdq(graph, TENSORRT, placement).convolutions)

    def mean_of_stem(model: onnx.ModelProto) -> np.ndarray:
        shown = onnx.ModelProto()
        shown.CopyFrom(model)
        shown.graph.output.append(helper.make_tensor_value_info("encoder.conv_stem", onnx.TensorProto.FLOAT, None))
        session = onnxruntime.InferenceSession(shown.SerializeToString(), providers=["CPUExecutionProvider"])
        return np.mean(
            [
                session.run(["encoder.conv_stem"], {"frame": frames.network_input(i)})[0].mean((0, 2, 3))
                for i in range(6)
            ],
            0,
        )

    expected = mean_of_stem(graph)
    plain = mean_of_stem(qdq_from_onnx(graph, table, TENSORRT, placement))
    corrected = mean_of_stem(qdq_from_onnx(graph, table, TENSORRT, placement, biases=biases))
    assert np.abs(corrected - expected).max() < 0.1 * np.abs(plain - expected).max() + 1e-5


@given(finite, finite)
def test_affine_scale(first: float, second: float) -> None:
    low, high = sorted((first, second))
    scale, zero = affine_scale((low, high))
    assert scale > 0
    assert 0 <= zero <= 255
    least, most = scale * (0 - zero), scale * (255 - zero)
    tolerance = scale * 0.51 + 1e-6
    assert least <= min(low, 0) + tolerance
    assert most >= max(high, 0) - tolerance
    if low >= 0 and high > NOTHING:
        assert zero == 0
        assert np.float32(255) * np.float32(scale) <= np.float32(high)  # a Clip at `high` is redundant then


@given(finite, finite)
def test_symmetric_scale(first: float, second: float) -> None:
    low, high = sorted((first, second))
    scale = symmetric_scale((low, high))
    assert scale > 0
    assert 127 * scale >= max(abs(low), abs(high)) * (1 - 1e-6)


@given(st.integers(1, 5), st.integers(1, 9), st.floats(1e-3, 1e3), st.sampled_from([7, 8]))
def test_quantised_weights(channels: int, size: int, factor: float, bits: int) -> None:
    weight = (np.random.default_rng(0).normal(size=(channels, size, 1, 1)) * factor).astype(np.float32)
    weight[0] = 0
    integers, scales = quantised_weight(weight, bits)
    assert scales[0] == 1
    assert integers.dtype == np.int8
    assert np.abs(integers[1:].astype(int)).max(initial=0) <= 2 ** (bits - 1) - 1
    error = np.abs(integers * scales.reshape(-1, 1, 1, 1) - weight)
    assert (error <= 0.5001 * scales.reshape(-1, 1, 1, 1)).all()


@pytest.mark.parametrize("bits", [7, 8])
def test_a_graph_tells_how_wide_its_weights_are(graph: onnx.ModelProto, table: RangeTable, bits: Literal[7, 8]) -> None:
    quantised = qdq_from_onnx(graph, table, OPENVINO, Placement(weight_bits=bits))
    assert weight_bits(quantised) == bits
    weights = [value for name, value in initializers(quantised).items() if name.endswith("/int8")]
    assert {int(np.abs(value.astype(int)).max()) for value in weights} == {2 ** (bits - 1) - 1}


def small(
    kind: type = np.int8, zero: int = 0, scales: int = 1, first: str = "Cast", bias: bool = False
) -> onnx.ModelProto:
    """A graph with one pair of quantisers, right by default."""
    nodes = [helper.make_node("Cast", ["frame"], ["image"], "cast", to=onnx.TensorProto.FLOAT)]
    if first != "Cast":
        nodes = [
            helper.make_node(first, ["frame"], ["turned"], "turned", perm=[0, 1, 2, 3]),
            helper.make_node("Cast", ["turned"], ["image"], "cast", to=onnx.TensorProto.FLOAT),
        ]
    nodes += [
        helper.make_node("QuantizeLinear", ["image", "scale", "zero"], ["q"], "quantise", axis=3),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["dq"], "dequantise", axis=3),
        helper.make_node("ReduceMax", ["dq", "axes"], ["most"], "most", keepdims=0),
        helper.make_node("Cast", ["most"], ["labels"], "out", to=onnx.TensorProto.UINT8),
    ]
    shape = () if scales == 1 else (scales,)
    constants = [
        numpy_helper.from_array(np.full(shape, 0.5, np.float32), "scale"),
        numpy_helper.from_array(np.full(shape, zero, kind), "zero"),
        numpy_helper.from_array(np.array([3], np.int64), "axes"),
    ]
    if bias:
        constants.append(numpy_helper.from_array(np.ones(3, np.int32), "bias"))
        nodes.insert(-2, helper.make_node("DequantizeLinear", ["bias", "scale"], ["float bias"], "bias"))
    frame = helper.make_tensor_value_info("frame", onnx.TensorProto.UINT8, [1, 8, 8, 3])
    labels = helper.make_tensor_value_info("labels", onnx.TensorProto.UINT8, [1, 8, 8])
    return helper.make_model(
        helper.make_graph(nodes, "small", [frame], [labels], constants), opset_imports=[helper.make_opsetid("", 18)]
    )


def test_lint_passes_what_is_right() -> None:
    lint(small(), TENSORRT)
    lint(small(np.uint8, 3), ONNXRUNTIME)


@pytest.mark.parametrize(
    ("graph", "scheme", "sentence"),
    [
        (
            small(np.uint8),
            TENSORRT,
            "'quantise' is uint8, which TensorRT silently turns into int8, so that values above 127 x scale clip",
        ),
        (small(zero=3), TENSORRT, "'quantise' has the zero point 3; TensorRT needs 0"),
        (small(scales=3), TENSORRT, "'quantise' has 3 scales; expected one for the whole activation"),
        (
            small(first="Transpose"),
            TENSORRT,
            "uint8 frame goes into Transpose 'turned'; TensorRT takes it only straight into a Cast",
        ),
        (small(bias=True), TENSORRT, "'bias' dequantises an int32 bias, which TensorRT rejects; leave biases float"),
        (small(), ONNXRUNTIME, "'quantise' is int8; onnxruntime's fast convolutions take uint8 activations"),
        (small(), None, "a float graph holds quantisers"),
    ],
)
def test_lint_refuses(graph: onnx.ModelProto, scheme: Scheme | None, sentence: str) -> None:
    with pytest.raises(BundleError) as caught:
        lint(graph, scheme)
    assert sentence in str(caught.value)
