"""A bundle whose network takes milliseconds to make and whose answer is known: the class is the channel that is
brightest.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from rdd_deploy.runtime import InputSpec, Manifest, Metrics, write_manifest
from rdd_deploy.utils.files import sha256

CLASSES = ("blue", "green", "red")
PALETTE = ((0, 0, 255), (0, 255, 0), (255, 0, 0))


def truth(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """What the toy network answers: argmax over the BGR channels, uint8 (H, W)."""
    return frame.argmax(-1).astype(np.uint8)


def toy_graph(
    path: Path, height: int, width: int, *, work: int = 0, offset: int = 0, flip: bool = False, scale: float = 1.0
) -> None:
    """Cast, transpose, 1×1 convolution (identity), argmax.

    Args:
        work: so many 3×3 convolutions of 16 channels beside it, to make it as slow as a real network.
        offset: added to every label (a model that breaks its promise).
        flip: the class is the darkest channel: a second opinion.
        scale: factor of the logits (NaN for a broken network).
    """
    identity = np.eye(3, dtype=np.float32).reshape(3, 3, 1, 1) * (-1 if flip else 1) * np.float32(scale)
    initializers = [
        numpy_helper.from_array(identity, "w"),
        numpy_helper.from_array(np.array(offset, np.uint8), "offset"),
    ]
    nodes = [
        helper.make_node("Cast", ["frame"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["float"], ["image"], perm=[0, 3, 1, 2]),
    ]
    last = "image"
    for index in range(work):
        shape = (16, 3 if index == 0 else 16, 3, 3)
        initializers.append(numpy_helper.from_array(np.zeros(shape, np.float32) + 1e-3, f"w{index}"))
        nodes.append(helper.make_node("Conv", [last, f"w{index}"], [f"c{index}"], pads=[1, 1, 1, 1]))
        last = f"c{index}"
    logits = "image"
    if work:
        initializers.append(numpy_helper.from_array(np.zeros((3, 16, 1, 1), np.float32), "none"))
        nodes += [
            helper.make_node("Conv", [last, "none"], ["zero"]),
            helper.make_node("Add", ["image", "zero"], ["sum"]),
        ]
        logits = "sum"
    nodes += [
        helper.make_node("Conv", [logits, "w"], ["logits"]),
        helper.make_node("ArgMax", ["logits"], ["best"], axis=1, keepdims=0),
        helper.make_node("Cast", ["best"], ["ids"], to=TensorProto.UINT8),
        helper.make_node("Add", ["ids", "offset"], ["labels"]),
    ]
    frame = helper.make_tensor_value_info("frame", TensorProto.UINT8, [1, height, width, 3])
    labels = helper.make_tensor_value_info("labels", TensorProto.UINT8, [1, height, width])
    graph = helper.make_graph(nodes, "toy", [frame], [labels], initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, path)


def toy_bundle(
    folder: Path, height: int = 48, width: int = 64, *, manifest: dict[str, Any] | None = None, **graph: Any
) -> Path:
    """Write a whole bundle; ``manifest`` overrides its fields, ``graph`` goes to ``toy_graph``. Returns the folder."""
    folder.mkdir(parents=True)
    toy_graph(folder / "model.onnx", height, width, **graph)
    fields: dict[str, Any] = {
        "name": folder.name,
        "classes": list(CLASSES),
        "palette": list(PALETTE),
        "input": InputSpec(height=height, width=width),
        "backend": "onnxruntime",
        "precision": "fp32",
        "profile": "onnxruntime-fp32",
        "model": "model.onnx",
        "files": {"model.onnx": sha256(folder / "model.onnx")},
        "opset": 18,
        "metrics": Metrics(
            data="toy",
            split="val",
            images=1,
            miou_pct=100.0,
            pixel_accuracy_pct=100.0,
            iou_pct=dict.fromkeys(CLASSES, 100.0),
        ),
        "provenance": {"run": "toy", "git_commit": None},
    }
    write_manifest(folder, Manifest.model_validate(fields | (manifest or {})))
    return folder
