"""A model runs from the bytes that the manifest's hash is of, and from no others: none beside it, none swapped in
meanwhile.
"""

import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from toy_bundle import toy_bundle, truth

from rdd_deploy.errors import BundleError
from rdd_deploy.runtime import Segmenter, segmenter
from rdd_deploy.runtime.backends.openvino import shared_core
from rdd_deploy.runtime.onnx_file import has_external_data
from rdd_deploy.utils.files import sha256

FRAME = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
BACKENDS = ("onnxruntime", "openvino")


def relisted(folder: Path, *names: str, **fields: Any) -> Path:
    """The bundle with a manifest of these files."""
    path = folder / "manifest.json"
    path.write_text(
        json.dumps(json.loads(path.read_text()) | fields | {"files": {name: sha256(folder / name) for name in names}})
    )
    return folder


def bundle(folder: Path, backend: str) -> Path:
    pytest.importorskip(backend)
    return toy_bundle(folder, manifest={"backend": backend, "profile": f"{backend}-fp32"})


def external(tensor: TensorProto, location: str = "weights.bin") -> TensorProto:
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    return tensor


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("location", ["weights.bin", "../weights.bin", "/etc/hostname"])
def test_weights_in_another_file_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str, location: str
) -> None:
    """Listed or not, and wherever the present folder is: a model without a path looks there."""
    folder = bundle(tmp_path / "toy", backend)
    model = onnx.load(folder / "model.onnx")
    external(model.graph.initializer[0], location)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    for place in (folder, tmp_path):
        (place / "weights.bin").write_bytes(np.eye(3, dtype=np.float32).tobytes())
    monkeypatch.chdir(folder)
    with pytest.raises(BundleError, match=r"weights\.bin isn't named by the bundle's manifest\.json"):
        Segmenter.load(relisted(folder, "model.onnx"))
    with pytest.raises(
        BundleError, match=r"model\.onnx takes weights from another file, which no bundle's model may; export"
    ):
        Segmenter.load(relisted(folder, "model.onnx", "weights.bin"))


def tensor() -> TensorProto:
    return external(numpy_helper.from_array(np.ones(2, np.float32), "w"))


def constant(**value: Any) -> onnx.NodeProto:
    node = helper.make_node("Constant", [], ["c"])
    attribute = node.attribute.add(name="value")
    for key, one in value.items():
        field = getattr(attribute, key)
        (
            field.append(one)
            if isinstance(one, onnx.GraphProto | TensorProto) and hasattr(field, "append")
            else field.CopyFrom(one)
        )
    return node


def graph(*nodes: onnx.NodeProto, initializer: tuple[TensorProto, ...] = ()) -> onnx.GraphProto:
    return helper.make_graph(list(nodes), "g", [], [], list(initializer))


def sparse() -> onnx.SparseTensorProto:
    return onnx.SparseTensorProto(values=tensor())


def with_function() -> onnx.ModelProto:
    model = helper.make_model(graph())
    model.functions.add(name="f").node.append(constant(t=tensor()))
    return model


def with_training() -> onnx.ModelProto:
    model = helper.make_model(graph())
    model.training_info.add().initialization.CopyFrom(graph(initializer=(tensor(),)))
    return model


def with_sparse() -> onnx.ModelProto:
    model = helper.make_model(graph())
    model.graph.sparse_initializer.append(sparse())
    return model


PLACES: dict[str, Callable[[], onnx.ModelProto]] = {
    "initializer": lambda: helper.make_model(graph(initializer=(tensor(),))),
    "sparse initializer": with_sparse,
    "attribute": lambda: helper.make_model(graph(constant(t=tensor()))),
    "attribute's list": lambda: helper.make_model(graph(constant(tensors=tensor()))),
    "subgraph": lambda: helper.make_model(graph(constant(g=graph(constant(t=tensor()))))),
    "list of subgraphs": lambda: helper.make_model(graph(constant(graphs=graph(initializer=(tensor(),))))),
    "sparse attribute": lambda: helper.make_model(graph(constant(sparse_tensor=sparse()))),
    "function": with_function,
    "training": with_training,
}


@pytest.mark.parametrize("place", PLACES)
def test_external_data_is_found_wherever_a_tensor_may_be(place: str) -> None:
    assert has_external_data(PLACES[place]().SerializeToString())


def test_models_that_are_whole_pass(tmp_path: Path) -> None:
    content = (toy_bundle(tmp_path / "toy", work=2) / "model.onnx").read_bytes()
    assert not has_external_data(content)
    assert not has_external_data(b"")
    for cut in (1, 7, 40):
        with pytest.raises(ValueError, match=r"cut off|wire type|isn't"):
            has_external_data(content[:-cut])
    with pytest.raises(ValueError, match="onnxruntime's own format"):
        has_external_data(b"\x08\x00\x00\x00ORTM" + content)


@given(st.binary(max_size=200))
def test_rubbish_is_a_value_error_or_has_none(content: bytes) -> None:
    """It ends, and never with another error."""
    with suppress(ValueError):
        has_external_data(content)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_model_swapped_after_it_was_hashed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str) -> None:
    folder, other = bundle(tmp_path / "toy", backend), toy_bundle(tmp_path / "other", flip=True)
    real = segmenter.open_backend

    def swapped(*words: Any, **more: Any) -> Any:
        os.replace(other / "model.onnx", folder / "model.onnx")
        return real(*words, **more)

    monkeypatch.setattr(segmenter, "open_backend", swapped)
    with pytest.raises(BundleError, match=r"model\.onnx isn't the file that was exported"):
        Segmenter.load(folder)


@pytest.mark.parametrize("listed", [True, False])
def test_openvinos_own_format_takes_its_weights_from_the_listed_file_only(tmp_path: Path, listed: bool) -> None:
    openvino = pytest.importorskip("openvino")
    folder = bundle(tmp_path / "toy", "openvino")
    openvino.serialize(shared_core(openvino).read_model(str(folder / "model.onnx")), str(folder / "model.xml"))
    (folder / "model.onnx").unlink()
    weights = (folder / "model.bin").read_bytes()
    relisted(folder, "model.xml", *(["model.bin"] if listed else []), model="model.xml")
    if listed:
        with Segmenter.load(folder) as loaded:
            assert np.array_equal(loaded(FRAME), truth(FRAME))
        (folder / "model.bin").write_bytes(weights[::-1])
        with pytest.raises(BundleError, match=r"model\.bin isn't the file that was exported"):
            Segmenter.load(folder)
    else:
        with pytest.raises(BundleError, match=r"model\.bin isn't named by the bundle's manifest\.json"):
            Segmenter.load(folder)
