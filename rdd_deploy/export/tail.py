"""The last upsampling and argmax, in the form that the target computes fastest. Their share grows as the network shrinks.

The labels are the same in both forms: bilinear upsampling is a linear map, row by row and column by column.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from rdd_deploy.export.graph import consumers, initializers, producers

TAIL = "tail"
"""Prefix of the names of what the matmul form inserts."""
SOURCE_ROWS = {"onnxruntime": 2}
"""At least as many rows of the small map go into a block, 4 where nothing is said: two or three more are needed around them, so that few are
waste; but onnxruntime multiplies narrow matrices twice as fast (0.05 against 0.08 to 0.13 ms at 240x320, 2026-11-23)."""


class _Tail(NamedTuple):
    """The nodes after the logits, and the sizes (N, C, H, W) that they are brought to."""

    resize: onnx.NodeProto
    argmax: onnx.NodeProto
    sizes: tuple[int, int, int, int]


def with_tail(model: onnx.ModelProto, form: str, backend: str) -> onnx.ModelProto:
    """A copy of a graph with its tail in a form: resize (as exported) or matmul. A graph without that tail is returned as it is."""
    if form == "resize" or _tail(model) is None:
        return model
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    found = _tail(changed)
    assert found is not None
    _as_products(changed, found, SOURCE_ROWS.get(backend, 4))
    return changed


def _as_products(model: onnx.ModelProto, tail: _Tail, source_rows: int) -> None:
    """The upsampling as two matrix products: columns of the small map first, then rows, block by block.

    OpenVINO computes them several times as fast as its Interpolate, and then argmax, too, whose input it no longer has to turn; onnxruntime
    takes half the time of its Resize. A block of rows needs only the few source rows around it, so that the work grows with the frame's area
    and not faster.
    """
    shapes = {value.name: value.type.tensor_type.shape for value in onnx.shape_inference.infer_shapes(model).graph.value_info}
    h, w = (side.dim_value for side in shapes[tail.resize.input[0]].dim[2:])
    sources, rows = row_blocks(h, tail.sizes[2], source_rows)
    constants = {
        "columns": np.ascontiguousarray(bilinear_matrix(w, tail.sizes[3]).T),
        "sources": sources,
        "rows": rows,
        "sizes": np.array(tail.sizes, np.int64),
    }
    model.graph.initializer.extend(numpy_helper.from_array(value, f"{TAIL}/{key}") for key, value in constants.items())
    steps: tuple[tuple[str, list[str], dict[str, int]], ...] = (
        ("MatMul", [tail.resize.input[0], f"{TAIL}/columns"], {}),  # (N, C, h, W)
        ("Gather", [f"{TAIL}/MatMul", f"{TAIL}/sources"], {"axis": 2}),  # (N, C, blocks, source rows, W)
        ("MatMul", [f"{TAIL}/rows", f"{TAIL}/Gather"], {}),  # (N, C, blocks, rows, W)
        ("Reshape", [f"{TAIL}/MatMul.1", f"{TAIL}/sizes"], {}),  # (N, C, H, W)
    )
    position = _position(model, tail.resize)
    model.graph.node.remove(tail.resize)
    for step, (kind, inputs, attributes) in enumerate(steps):
        name = f"{TAIL}/{kind}" + (".1" if step == 2 else "")
        output = name if step < 3 else tail.resize.output[0]
        model.graph.node.insert(position + step, helper.make_node(kind, inputs, [output], name=name, **attributes))


def bilinear_matrix(small: int, large: int) -> NDArray[np.float32]:
    """The matrix (large, small) that resizes one axis bilinearly, pixel centres at half integers, edges repeated (ONNX Resize, half_pixel)."""
    centres = np.clip((np.arange(large) + 0.5) * small / large - 0.5, 0, small - 1)
    low = np.floor(centres).astype(int)
    high, share = np.minimum(low + 1, small - 1), (centres - low).astype(np.float32)
    matrix = np.zeros((large, small), np.float32)
    np.add.at(matrix, (np.arange(large), low), 1 - share)
    np.add.at(matrix, (np.arange(large), high), share)
    return matrix


def row_blocks(small: int, large: int, source_rows: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """One axis of a bilinear resize in equal blocks of its output, each of at least ``source_rows`` of its input.

    Returns:
        Which source rows each needs, (blocks, k), and how, (blocks, rows, k).
    """
    matrix = bilinear_matrix(small, large)
    rows = next(rows for rows in range(1, large + 1) if (large % rows == 0 and rows >= source_rows * large / small) or rows == large)
    blocks = matrix.reshape(large // rows, rows, small)
    used = blocks.max(axis=1) > 0  # (blocks, small)
    first, last = used.argmax(1), small - 1 - used[:, ::-1].argmax(1)
    k = int((last - first).max()) + 1
    sources = np.minimum(first, small - k)[:, None] + np.arange(k)
    return sources.astype(np.int64), np.take_along_axis(blocks, sources[:, None, :], axis=2)


def _tail(model: onnx.ModelProto) -> _Tail | None:
    makers, readers, constants = producers(model), consumers(model), initializers(model)
    argmax = next((node for node in model.graph.node if node.op_type == "ArgMax"), None)
    resize = makers.get(argmax.input[0]) if argmax is not None else None
    if argmax is None or resize is None or resize.op_type != "Resize" or len(resize.input) < 4 or len(readers[resize.output[0]]) != 1:
        return None
    sizes = constants.get(resize.input[3])
    if sizes is None:
        return None
    n, c, h, w = (int(side) for side in sizes)
    return _Tail(resize, argmax, (n, c, h, w))


def _position(model: onnx.ModelProto, node: onnx.NodeProto) -> int:
    return next(i for i, one in enumerate(model.graph.node) if one.name == node.name)
