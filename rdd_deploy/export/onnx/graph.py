"""Small steps on ONNX graphs that the float export and every Q/DQ graph share."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from rdd_deploy.errors import BundleError
from rdd_deploy.utils import files

INPUT, OUTPUT = "frame", "labels"


def load_graph(path: Path) -> onnx.ModelProto:
    """Read and check an ONNX file; BundleError if it isn't one."""
    try:
        model = onnx.load_model_from_string(path.read_bytes())
        onnx.checker.check_model(model)
    except OSError as error:
        raise BundleError(f"can't read {path}: {error.strerror or error}; export the bundle again") from error
    except Exception as error:  # protobuf's and the checker's errors have no common base
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise BundleError(f"{path} isn't a valid ONNX graph: {reason}; export the bundle again") from error
    return model


def save_graph(model: onnx.ModelProto, path: Path, says: Mapping[str, Any] | None = None) -> None:
    """Check and write an ONNX file, whole or not at all.

    Args:
        says: more metadata for the file; the model itself isn't changed.
    """
    onnx.checker.check_model(model, full_check=True)
    if says is not None:
        model, original = onnx.ModelProto(), model
        model.CopyFrom(original)
        set_metadata(model, says)
    files.write_bytes(path, model.SerializeToString())


def initializers(model: onnx.ModelProto) -> dict[str, NDArray[Any]]:
    """Constants by name."""
    return {one.name: numpy_helper.to_array(one) for one in model.graph.initializer}


def producers(model: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    """Tensor name -> the node that makes it."""
    return {name: node for node in model.graph.node for name in node.output if name}


def consumers(model: onnx.ModelProto) -> dict[str, list[onnx.NodeProto]]:
    """Tensor name -> the nodes that read it, in order."""
    found: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in dict.fromkeys(node.input):
            if name:
                found.setdefault(name, []).append(node)
    return found


def attribute(node: onnx.NodeProto, name: str, default: Any = None) -> Any:
    """A node's attribute as a Python value."""
    for one in node.attribute:
        if one.name == name:
            return onnx.helper.get_attribute_value(one)
    return default


def opset(model: onnx.ModelProto) -> int:
    """Version of the default operator set."""
    return next(int(one.version) for one in model.opset_import if one.domain in ("", "ai.onnx"))


def set_metadata(model: onnx.ModelProto, values: Mapping[str, Any]) -> None:
    """Write metadata that every ONNX viewer and onnxruntime's ``get_modelmeta`` shows; what isn't text is written as
    JSON.
    """
    kept = {one.key: one.value for one in model.metadata_props}
    kept |= {
        key: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False) for key, value in values.items()
    }
    onnx.helper.set_model_props(model, dict(sorted(kept.items())))


def tidy(model: onnx.ModelProto) -> None:
    """Name tensors after the layer that makes them, and drop the exporter's traces (they hold file paths), in place.

    A convolution's output is called like its weight without ``.weight``; what follows adds its operator:
    ``encoder.conv_stem/Relu``. So range tables and plans can be read, and stay valid when the exporter numbers its
    nodes in another way.
    """
    names: dict[str, str] = {}
    taken = {one.name for one in (*model.graph.input, *model.graph.output, *model.graph.initializer)}
    outputs = {one.name for one in model.graph.output}
    layer = ""
    for node in model.graph.node:
        weight = node.input[1] if node.op_type == "Conv" else ""
        layer = weight.removesuffix(".weight") if weight else _layer(node, names, layer)
        if weight and len(node.input) > 2 and f"{layer}.bias" not in taken:  # folding BatchNorm leaves another name
            names[node.input[2]] = free_name(f"{layer}.bias", taken)
        for index, output in enumerate(node.output):
            if not output or output in outputs:
                continue
            wanted = layer if weight else f"{layer}/{node.op_type}"
            names[output] = free_name(wanted if index == 0 else f"{wanted}.{index}", taken)
    for node in model.graph.node:
        for field in (node.input, node.output):
            field[:] = [names.get(name, name) for name in field]
        node.name = node.output[0]
        node.doc_string = ""
        del node.metadata_props[:]
    for constant in model.graph.initializer:
        constant.name = names.get(constant.name, constant.name)
    for value in (*model.graph.initializer, *model.graph.input, *model.graph.output):
        value.doc_string = ""
        del value.metadata_props[:]
    del model.graph.value_info[:]
    model.graph.doc_string = model.doc_string = ""
    del model.graph.metadata_props[:]


def tidy_names(model: onnx.ModelProto) -> None:
    """Drop stale shape annotations and name nodes that a converter left nameless, in place."""
    del model.graph.value_info[:]
    for node in model.graph.node:
        node.name = node.name or node.output[0]


def _layer(node: onnx.NodeProto, names: dict[str, str], before: str) -> str:
    """Layer of the latest of a node's inputs: the part before the slash."""
    known = [names[name].split("/")[0] for name in node.input if name in names]
    return known[0] if known else before or node.input[0]


def free_name(name: str, taken: set[str]) -> str:
    """The name, or with a number behind it where it is taken; it is taken from then on."""
    candidate, count = name, 1
    while candidate in taken:
        count += 1
        candidate = f"{name}.{count}"
    taken.add(candidate)
    return candidate


def weight_fingerprint(model: onnx.ModelProto) -> str:
    """SHA-256 over nodes and constants: graphs with the same one compute the same; metadata don't count."""
    import hashlib

    digest = hashlib.sha256()
    for node in model.graph.node:
        digest.update(node.SerializeToString(deterministic=True))
    for name, value in sorted(initializers(model).items()):
        digest.update(f"{name} {value.dtype} {value.shape}".encode())
        digest.update(np.ascontiguousarray(value).tobytes())
    for one in (*model.graph.input, *model.graph.output):
        digest.update(one.SerializeToString(deterministic=True))
    return digest.hexdigest()
