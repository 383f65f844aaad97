"""The last upsampling and argmax, in the form that the target computes fastest.

The labels are the same in all forms: bilinear upsampling is a linear map, row by row and column by column.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from rdd_deploy.export.onnx.graph import consumers, initializers, producers

TAIL = "tail"
"""Prefix of the names of what the other forms insert."""
SOURCE_ROWS = {"onnxruntime": 2}
"""Rows of the small map that a block covers at least, by backend; 4 for the others.

Each block needs two or three more around them, so that large blocks waste less, but onnxruntime multiplies narrow matrices faster."""

CLASSES_AT_ONCE = 2
"""OpenVINO fuses element-wise nodes into one kernel as long as that has at most 10 inputs and outputs. Two classes need four rows of logits, the
weights, and the highest logit and its class before and after."""


class _Tail(NamedTuple):
    """The nodes after the logits, and the sizes (N, C, H, W) that they are brought to."""

    resize: onnx.NodeProto
    argmax: onnx.NodeProto
    cast: onnx.NodeProto
    sizes: tuple[int, int, int, int]


def with_postprocess(model: onnx.ModelProto, how: str, backend: str) -> onnx.ModelProto:
    """A copy of a graph with its upsampling and argmax in another form; a graph that doesn't end in them is returned as
    it is.

    Args:
        how: ``resize`` (as exported), ``matmul`` or ``running_argmax``. Where the last doesn't fit it is ``matmul``:
            several frames, one class, or a height that isn't a whole multiple of the logits'.
        backend: that runs the graph.
    """
    if how == "resize" or _tail(model) is None:
        return model
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    found = _tail(changed)
    assert found is not None
    h, w = _small(changed, found)
    n, classes, height, _ = found.sizes
    if how == "running_argmax" and n == 1 and classes > 1 and height % h == 0:
        _as_running_argmax(changed, found, h, w)
    else:
        _as_products(changed, found, h, w, SOURCE_ROWS.get(backend, 4))
    return changed


def _as_products(model: onnx.ModelProto, tail: _Tail, h: int, w: int, source_rows: int) -> None:
    """The upsampling as two matrix products: columns of the small map (h, w) first, then rows, block by block.

    Both backends compute them faster than their own resize. A block of rows needs only the few source rows around it,
    so that the work grows with the frame's area.
    """
    sources, rows = row_blocks(h, tail.sizes[2], source_rows)
    constants = {
        "columns": np.ascontiguousarray(bilinear_matrix(w, tail.sizes[3]).T),
        "sources": sources,
        "rows": rows,
        "sizes": np.array(tail.sizes, np.int64),
    }
    nodes = [
        _node("MatMul", [tail.resize.input[0], f"{TAIL}/columns"]),  # (N, C, h, W)
        _node("Gather", [f"{TAIL}/MatMul", f"{TAIL}/sources"], axis=2),  # (N, C, blocks, source rows, W)
        _node("MatMul", [f"{TAIL}/rows", f"{TAIL}/Gather"], f"{TAIL}/MatMul.1"),  # (N, C, blocks, rows, W)
        _node("Reshape", [f"{TAIL}/MatMul.1", f"{TAIL}/sizes"], tail.resize.output[0]),  # (N, C, H, W)
    ]
    _replace(model, [tail.resize], nodes, constants)


def _as_running_argmax(model: onnx.ModelProto, tail: _Tail, h: int, w: int) -> None:
    """The upsampling of columns as a matrix product; that of rows and the argmax class by class, keeping the highest
    logit and its class so far.

    The frame's rows between the centres of two rows of the small map (h, w) form a band: ``lower + weight * (upper -
    lower)``, the same weights in every band. Each class is interpolated and compared in registers, so that the logits
    of the whole frame never lie in memory. The half band too many above and below is cut off the labels.
    """
    _, classes, height, width = tail.sizes
    scale = height // h
    above = (scale + 1) // 2  # rows of the first band that lie above the frame
    weights = ((np.arange(scale) - above + 0.5) / scale + 0.5).astype(np.float32)
    constants: dict[str, NDArray[Any]] = {
        "columns": np.ascontiguousarray(bilinear_matrix(w, width).T),
        "edges": np.clip(np.arange(h + 2) - 1, 0, h - 1),
        "by_class": np.array([classes, h + 2, 1, width]),
        "all_but_last": np.array([h + 1, 1]),
        "all_but_first": np.array([1, h + 1]),
        "weights": weights.reshape(1, 1, scale, 1),
        "none": np.float32(0),
        "flat": np.array([h + 1, scale, width]),
        "rows": np.array([1, (h + 1) * scale, width]),
        "first": np.array([above]),
        "last": np.array([above + height]),
        "axis": np.array([1]),
        **{f"class.{c}": np.float32(c) for c in range(1, classes)},
    }
    _replace(model, [tail.resize, tail.argmax, tail.cast], list(_running(tail, classes)), constants)


def _running(tail: _Tail, classes: int) -> Iterator[onnx.NodeProto]:
    yield _node("Gather", [tail.resize.input[0], f"{TAIL}/edges"], axis=2)  # (1, C, h + 2, w): first and last row twice
    yield _node("MatMul", [f"{TAIL}/Gather", f"{TAIL}/columns"])  # (1, C, h + 2, W)
    yield _node("Reshape", [f"{TAIL}/MatMul", f"{TAIL}/by_class"])  # (C, h + 2, 1, W)
    yield _node(
        "Split", [f"{TAIL}/Reshape"], *[f"{TAIL}/Split.{c}" for c in range(classes)], axis=0, num_outputs=classes
    )
    highest, best = "", ""
    for c in range(classes):
        if c and c % CLASSES_AT_ONCE == 0 and c < classes - 1:
            # Another shape, the same numbers: without it OpenVINO tries to go on with a kernel that is full, and cuts
            # the next one in pieces.
            yield _node("Reshape", [highest, f"{TAIL}/flat"], f"{highest}/flat")
            yield _node("Reshape", [best, f"{TAIL}/flat"], f"{best}/flat")
            highest, best = f"{highest}/flat", f"{best}/flat"
        name = f"{TAIL}/{c}"
        yield _node("Split", [f"{TAIL}/Split.{c}", f"{TAIL}/all_but_last"], f"{name}/lower", f"{name}/bottom", axis=1)
        yield _node("Split", [f"{TAIL}/Split.{c}", f"{TAIL}/all_but_first"], f"{name}/top", f"{name}/upper", axis=1)
        yield _node("Sub", [f"{name}/upper", f"{name}/lower"], f"{name}/Sub")  # (1, h + 1, 1, W)
        yield _node("Mul", [f"{name}/Sub", f"{TAIL}/weights"], f"{name}/Mul")  # (1, h + 1, rows of a band, W)
        yield _node("Add", [f"{name}/Mul", f"{name}/lower"], f"{name}/Add")
        if c == 0:
            highest = f"{name}/Add"
            continue
        # Classes come in order, so that the latest that was higher is the highest of numbers, too; ties go to the
        # first, as with argmax.
        yield _node("Greater", [f"{name}/Add", highest], f"{name}/Greater")
        yield _node("Where", [f"{name}/Greater", f"{TAIL}/class.{c}", f"{TAIL}/none"], f"{name}/Where")
        if c > 1:
            yield _node("Max", [best, f"{name}/Where"], f"{name}/best")
        best = f"{name}/best" if c > 1 else f"{name}/Where"
        if c < classes - 1:
            yield _node("Max", [highest, f"{name}/Add"], f"{name}/highest")
            highest = f"{name}/highest"
    kind = next(one.i for one in tail.cast.attribute if one.name == "to")
    yield _node("Cast", [best], to=kind)
    yield _node("Reshape", [f"{TAIL}/Cast", f"{TAIL}/rows"], f"{TAIL}/bands")  # (1, H + rows of a band, W)
    cut = [f"{TAIL}/{name}" for name in ("bands", "first", "last", "axis")]
    yield _node("Slice", cut, tail.cast.output[0])


def bilinear_matrix(small: int, large: int) -> NDArray[np.float32]:
    """The matrix (large, small) that resizes one axis bilinearly, pixel centres at half integers, edges repeated (ONNX
    Resize, half_pixel).
    """
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
    rows = next(
        rows
        for rows in range(1, large + 1)
        if (large % rows == 0 and rows >= source_rows * large / small) or rows == large
    )
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
    if (
        argmax is None
        or resize is None
        or resize.op_type != "Resize"
        or len(resize.input) < 4
        or len(readers[resize.output[0]]) != 1
    ):
        return None
    casts, sizes = readers.get(argmax.output[0], []), constants.get(resize.input[3])
    if sizes is None or [node.op_type for node in casts] != ["Cast"]:
        return None
    n, c, h, w = (int(side) for side in sizes)
    return _Tail(resize, argmax, casts[0], (n, c, h, w))


def _small(model: onnx.ModelProto, tail: _Tail) -> tuple[int, int]:
    """Height and width of the logits."""
    shapes = {
        value.name: value.type.tensor_type.shape for value in onnx.shape_inference.infer_shapes(model).graph.value_info
    }
    h, w = (side.dim_value for side in shapes[tail.resize.input[0]].dim[2:])
    return h, w


def _node(kind: str, inputs: list[str], *outputs: str, **attributes: int) -> onnx.NodeProto:
    """A node of the tail, named after its first output, or where that isn't the tail's, or not said, after its kind."""
    outputs = outputs or (f"{TAIL}/{kind}",)
    name = outputs[0] if outputs[0].startswith(f"{TAIL}/") else f"{TAIL}/{kind}"
    return helper.make_node(kind, inputs, outputs, name=name, **attributes)


def _replace(
    model: onnx.ModelProto, old: list[onnx.NodeProto], new: list[onnx.NodeProto], constants: dict[str, NDArray[Any]]
) -> None:
    """Put new nodes into the place of old ones, whose constants go with them."""
    nodes = list(model.graph.node)
    position = min(nodes.index(node) for node in old)
    gone = {output for node in old for output in node.output}
    kept = [node for node in nodes if not gone & set(node.output)]
    read = {name for node in kept for name in node.input}
    freed = {name for node in old for name in node.input} - read
    _reset(model.graph.node, [*kept[:position], *new, *kept[position:]])
    _reset(model.graph.value_info, [value for value in model.graph.value_info if value.name not in gone])
    added = [numpy_helper.from_array(np.asarray(value), f"{TAIL}/{key}") for key, value in constants.items()]
    _reset(model.graph.initializer, [*(one for one in model.graph.initializer if one.name not in freed), *added])


def _reset(field: Any, values: list[Any]) -> None:
    """Other content for a repeated field."""
    del field[:]
    field.extend(values)
