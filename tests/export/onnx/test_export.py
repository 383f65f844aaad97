"""The float graph: what it takes and gives, what is inside, and that it says what torch says."""

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import toys
from toy_export import SIZE, mobilenet, taught

from rdd_deploy.errors import GateError, RddError
from rdd_deploy.export.compare import Reference, compare, reference_from
from rdd_deploy.export.onnx import export as onnx_export
from rdd_deploy.export.onnx.export import Deployed, _reason
from rdd_deploy.export.onnx.graph import initializers, opset
from rdd_deploy.export.onnx.lint import lint
from rdd_deploy.export.onnx.session import infer_onnx
from rdd_deploy.export.pipeline import Options, check_agreement, export_profile
from rdd_deploy.export.profile import load_profile
from rdd_deploy.export.trained_run import TrainedRun
from rdd_deploy.models.segmenter import Segmenter
from rdd_deploy.runtime import Segmenter as Runtime
from rdd_deploy.runtime import read_manifest


def test_contract(graph: onnx.ModelProto) -> None:
    lint(graph, None)
    shapes = {
        one.name: [d.dim_value for d in one.type.tensor_type.shape.dim]
        for one in (*graph.graph.input, *graph.graph.output)
    }
    assert shapes == {"frame": [1, *SIZE, 3], "labels": [1, *SIZE]}
    assert opset(graph) >= 18


def test_preprocessing_is_one_subtraction_after_the_cast(graph: onnx.ModelProto) -> None:
    assert [node.op_type for node in graph.graph.node[:4]] == ["Cast", "Transpose", "Sub", "Conv"]


def test_operators_stay_whole(graph: onnx.ModelProto) -> None:
    found = Counter(node.op_type for node in graph.graph.node)
    assert found["HardSwish"] > 10
    assert not {"BatchNormalization", "Reshape", "Gather"} & set(found)
    assert found["Resize"] == 2


def test_tensors_are_named_after_layers(graph: onnx.ModelProto) -> None:
    names = {output for node in graph.graph.node for output in node.output}
    assert {"encoder.conv_stem", "encoder.conv_stem/HardSwish", "head.classify_high", "labels"} <= names
    assert "encoder.conv_stem.weight" in initializers(graph)


def test_no_path_of_this_machine_is_inside(graph: onnx.ModelProto) -> None:
    content = graph.SerializeToString()
    assert str(Path(__file__).parents[3]).encode() not in content
    assert b"site-packages" not in content


def test_same_labels_as_torch(graph: onnx.ModelProto, source: TrainedRun, segmenter: Segmenter) -> None:
    frames = source.split("val")
    reference = reference_from(source.infer(), frames, SIZE, "toy", "val")
    assert compare(infer_onnx(graph), reference).agreement_pct >= 99.99
    # The reference itself is the trained network on RGB frames, which the graph takes as BGR.
    with torch.inference_mode():
        straight = segmenter(torch.from_numpy(frames.frame(0)).permute(2, 0, 1)[None]).primary.argmax(1).numpy()
    assert (reference.labels[0] == straight[0]).all()
    assert reference.confusion.miou > 0.8


@pytest.mark.parametrize(
    "encoder",
    [
        "test_efficientnet",
        # NFNet's normalisation isn't folded.
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("test_nfnet", "dla46_c", "test_mambaout", "test_vit")
        ),
    ],
)
def test_other_encoders(encoder: str) -> None:
    torch.manual_seed(0)
    segmenter = Segmenter(load_network(encoder), 3).eval()
    exported = onnx_export.onnx_from_segmenter(segmenter, (40, 72))  # 40 is no multiple of 32
    frame = np.random.default_rng(0).integers(0, 256, (1, 40, 72, 3), np.uint8)
    with torch.inference_mode():
        expected = segmenter(torch.from_numpy(frame[..., ::-1].copy()).permute(0, 3, 1, 2)).primary.argmax(1).numpy()
    assert (infer_onnx(exported)(frame) == expected).mean() >= 0.999


def test_normalisation_is_folded_where_it_can_be() -> None:
    stems = {
        name: Deployed(Segmenter(load_network(name), 3).eval()).stem for name in ("mobilenetv3_small_050", "test_nfnet")
    }
    # Standardises its weights as it computes.
    assert stems == {
        "mobilenetv3_small_050": "encoder.conv_stem.weight",
        "test_nfnet": None,
    }


def test_why_torch_cannot_export_is_one_line() -> None:
    wrapped = RuntimeError("Failed to export the model")
    wrapped.__cause__ = ValueError("\x1b[96mthe root\x1b[0m of it\nand more")
    assert _reason(wrapped) == "the root of it"


def load_network(encoder: str):  # type: ignore[no-untyped-def]
    from rdd_deploy.models.config import Network

    return Network.model_validate(toys.network(encoder=encoder))


def test_bundle_carries_classes_and_provenance(source: TrainedRun, out: Path) -> None:
    target, comparison = export_profile(source, load_profile("onnxruntime-fp32"), out, Options())
    manifest = read_manifest(target)
    assert manifest.classes == toys.CLASSES
    assert manifest.metrics is not None
    assert manifest.metrics.miou_pct == comparison.confusion.summary()["miou_pct"]
    assert manifest.metrics.label_agreement_pct is not None
    assert manifest.metrics.label_agreement_pct >= 99.99
    assert manifest.provenance["weights_sha256"] == source.weights_sha256
    metadata = {one.key: one.value for one in onnx.load(target / "model.onnx").metadata_props}
    assert metadata["classes"] == '["left", "middle", "right"]'
    assert {"classes", "palette", "provenance"} <= set(metadata)
    frame, labels = toys.picture(1000, 50, 70)  # another size than the network's
    with Runtime.load(target) as runtime:
        predicted = runtime(np.ascontiguousarray(frame[..., ::-1]))
    assert predicted.shape == labels.shape
    assert (predicted == labels)[labels != 255].mean() > 0.8


@pytest.mark.slow
def test_size_override(light_source: TrainedRun, out: Path) -> None:
    from rdd_deploy.export.profile import changed

    profile = changed(load_profile("onnxruntime-fp32"), size=(48, 64))
    target, _ = export_profile(light_source, profile, out, Options(evaluate=False))
    manifest = read_manifest(target)
    assert (manifest.input.height, manifest.input.width) == (48, 64)
    assert manifest.metrics is None


def test_too_small_a_size(segmenter: Segmenter) -> None:
    with pytest.raises(RddError, match="the export size is 16x64; expected at least 32x32"):
        onnx_export.onnx_from_segmenter(segmenter, (16, 64))


def test_disagreement_is_an_error(source: TrainedRun) -> None:
    reference = reference_from(source.infer(), source.split("val"), SIZE, "toy", "val")
    wrong = Reference(
        "toy", "val", reference.split, SIZE, [1 - labels.clip(0, 1) for labels in reference.labels], reference.confusion
    )
    with pytest.raises(GateError, match=r"agree on .* % of the pixels of 3 toy frames, expected 99.99 %"):
        check_agreement(compare(source.infer(), wrong), "the graph")


@pytest.mark.slow
def test_activation_swap_leaves_no_hard_swish() -> None:
    segmenter = taught(mobilenet(activation="relu6", squeeze_excite=False), steps=0)
    found = {node.op_type for node in onnx_export.onnx_from_segmenter(segmenter, (64, 64)).graph.node}
    assert not {"HardSwish", "HardSigmoid"} & found
    assert "Clip" in found


def test_data_of_other_classes_is_refused(run: Path, data: Path) -> None:
    from dataclasses import replace

    from rdd_deploy.errors import WeightsError
    from rdd_deploy.export.trained_run import open_run

    source = open_run(run)
    other = replace(source, data=source.data.model_copy(update={"classes": ["a", "b", "c"]}))
    with pytest.raises(WeightsError, match="was trained on the classes left, middle, right, its data set has a, b, c"):
        other.split("val")
