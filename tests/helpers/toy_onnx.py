"""Small ONNX segmenters of the toy pictures' colours, in the forms that exporters write."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from toys import COLOURS


def colours(
    path: Path,
    *,
    size: tuple[int, int] | None = None,
    batch: int | str = "n",
    layout: str = "nchw",
    says: str = "",
    bgr: bool = False,
    tail: str = "logits",
    kind: int = TensorProto.FLOAT,
    names: str = "",
    stride: int = 4,
    full: bool = True,
    sharpness: float = 20.0,
) -> Path:
    """Logits −sharpness · |pixel − colour|² of each colour, of means over ``stride`` pixels, at full size as YOLO's
    exporter writes them.

    Args:
        layout: of what it takes. says: the layout of what it says; default: the same. tail: what it says: logits,
            softmax, sigmoid, argmax (N, H, W) or mask (N, 1, H, W).
    """
    means = np.array(COLOURS, np.float32) / 255
    means = means[:, ::-1] if bgr else means
    weights = 2 * sharpness * means[:, :, None, None]
    weights = weights / 255 if kind == TensorProto.UINT8 else weights
    biases = -sharpness * (means**2).sum(1)
    constants = {
        "w": weights.astype(np.float32),
        "b": biases.astype(np.float32),
        "up": np.array([1, 1, stride, stride], np.float32),
        "one": np.array([1], np.int64),
    }
    nodes, last = [], "images"

    def add(operator: str, *inputs: str, **attributes: Any) -> None:
        nonlocal last
        made = f"t{len(nodes)}"
        nodes.append(helper.make_node(operator, list(inputs), [made], **attributes))
        last = made

    if kind != TensorProto.FLOAT:
        add("Cast", last, to=TensorProto.FLOAT)
    if layout == "nhwc":
        add("Transpose", last, perm=[0, 3, 1, 2])
    add("AveragePool", last, kernel_shape=[stride, stride], strides=[stride, stride])
    add("Conv", last, "w", "b")
    if full:
        add("Resize", last, "", "up", mode="linear", coordinate_transformation_mode="half_pixel")
    if tail == "softmax":
        add("Softmax", last, axis=1)
    if tail == "sigmoid":
        add("Sigmoid", last)
    if (says or layout) == "nhwc":
        add("Transpose", last, perm=[0, 2, 3, 1])
    if tail in ("argmax", "mask"):
        add("ArgMax", last, axis=1, keepdims=int(tail == "mask"))
        if tail == "mask":
            add("Cast", last, to=TensorProto.FLOAT)
    nodes.append(helper.make_node("Identity", [last], ["output0"]))
    height, width = size or ("h", "w")
    shape = [batch, 3, height, width] if layout == "nchw" else [batch, height, width, 3]
    rank = {"argmax": 3}.get(tail, 4)
    graph = helper.make_graph(
        nodes,
        "toy",
        [helper.make_tensor_value_info("images", kind, shape)],
        [
            helper.make_tensor_value_info(
                "output0", TensorProto.INT64 if tail == "argmax" else TensorProto.FLOAT, ["n", *"abc"][:rank]
            )
        ],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    if names:
        helper.set_model_props(model, {"names": names, "task": "semantic", "stride": "32", "author": "Ultralytics"})
    onnx.save(model, str(path))
    return path
