"""Range table + float graph -> Q/DQ graph. One inserter, three forms:

``trt``: S8 activations, symmetric, zero point 0; what TensorRT accepts.
``x86``: U8 activations with a free zero point, activations absorbed, convolutions' outputs quantised; onnxruntime's fast one.
``openvino``: inputs of convolutions and of residual sums, U8 without zero point where never negative, S8 elsewhere. OpenVINO propagates the
integers itself, and fuses hard-swish and gates into convolutions where no Q/DQ pair stands between.

In all, weights are S8 per output channel and biases stay float (TensorRT rejects quantised ones; onnxruntime quantises them itself).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from rdd_deploy.errors import DataError
from rdd_deploy.export.onnx.graph import attribute, consumers, initializers
from rdd_deploy.export.profile import Placement
from rdd_deploy.export.quantization.ranges import RangeTable, activation_scale, weight_scales
from rdd_deploy.export.quantization.schemes import QdqPlacement, layer_of, plan_of


def qdq_from_onnx(
    model: onnx.ModelProto,
    table: RangeTable,
    form: str,
    placement: Placement,
    float_layers: Sequence[str] = (),
    biases: Mapping[str, NDArray[np.float32]] | None = None,
) -> onnx.ModelProto:
    """Render a quantised copy of a float graph.

    Args:
        model: the plain float export.
        form: ``trt``, ``x86`` or ``openvino``.
        float_layers: convolutions that stay float beside the placement's.
        biases: corrected biases by layer, (O,).

    Raises:
        DataError: the table holds no range for a tensor that must be quantised.
    """
    rendered = onnx.ModelProto()
    rendered.CopyFrom(model)
    plan = plan_of(rendered, form, placement, float_layers)
    _Inserter(rendered, plan, table, form, biases or {}).run()
    return rendered


class _Inserter:
    def __init__(
        self, model: onnx.ModelProto, plan: QdqPlacement, table: RangeTable, form: str, biases: Mapping[str, NDArray[np.float32]]
    ) -> None:
        self.model, self.plan, self.table, self.form, self.biases = model, plan, table, form, biases
        self.constants = initializers(model)
        self.added: list[onnx.TensorProto] = []
        self.before: dict[int, list[onnx.NodeProto]] = {}
        self.after: dict[str, list[onnx.NodeProto]] = {}

    def run(self) -> None:
        if self.form == "x86":
            _pool_globally(self.model, self.plan)
            self.constants |= _mean_by_row(self.model)
        else:
            _unclip(self.model, self.plan, self.table)
        for name, readers in self.plan.tensors.items():
            self._pair(name, readers)
        for layer, node in self.plan.convolutions.items():
            self._weight(layer, node)
            if layer in self.biases:
                self._bias(layer, node, self.biases[layer])
        self._rebuild()

    def _pair(self, name: str, readers: set[str]) -> None:
        """Quantize and Dequantize after ``name``; the given readers read the result."""
        if name not in self.table.ranges:
            raise DataError(f"the range table has no range of '{name}', which is quantised; calibrate again (remove the table)")
        scale, zero = activation_scale(self.table.ranges[name], self.form)
        scale_name, zero_name = self._constant(f"{name}/scale", scale), self._constant(f"{name}/zero", zero)
        quantised, back = f"{name}/QuantizeLinear", f"{name}/DequantizeLinear"
        self.after[name] = [
            helper.make_node("QuantizeLinear", [name, scale_name, zero_name], [quantised], name=quantised),
            helper.make_node("DequantizeLinear", [quantised, scale_name, zero_name], [back], name=back),
        ]
        for node in self.model.graph.node:
            if node.output[0] in readers:
                node.input[:] = [back if source == name else source for source in node.input]

    def _weight(self, layer: str, node: onnx.NodeProto) -> None:
        weight = self.constants[node.input[1]].astype(np.float32)
        scales = weight_scales(weight)
        rounded = np.rint(weight / scales.reshape(-1, *[1] * (weight.ndim - 1))).clip(-127, 127).astype(np.int8)
        names = [
            self._constant(f"{layer}.weight/int8", rounded),
            self._constant(f"{layer}.weight/scale", scales),
            self._constant(f"{layer}.weight/zero", np.zeros(len(scales), np.int8)),
        ]
        back = f"{layer}.weight/DequantizeLinear"
        self.before.setdefault(id(node), []).append(helper.make_node("DequantizeLinear", names, [back], name=back, axis=0))
        node.input[1] = back

    def _bias(self, layer: str, node: onnx.NodeProto, values: NDArray[np.float32]) -> None:
        name = self._constant(f"{layer}.bias/corrected", values.astype(np.float32))
        node.input[:] = [*node.input[:2], name]

    def _constant(self, name: str, value: object) -> str:
        self.added.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def _rebuild(self) -> None:
        """Nodes in order with the new ones in place; constants that nothing reads any more are dropped."""
        nodes: list[onnx.NodeProto] = []
        for node in self.model.graph.node:
            nodes += [*self.before.get(id(node), []), node]
            for output in node.output:
                nodes += self.after.get(output, [])
        copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
        del self.model.graph.node[:]
        self.model.graph.node.extend(copies)
        used = {name for node in copies for name in node.input}
        kept = [one for one in self.model.graph.initializer if one.name in used] + self.added
        fresh = [onnx.TensorProto.FromString(one.SerializeToString()) for one in kept]
        del self.model.graph.initializer[:]
        self.model.graph.initializer.extend(fresh)


def _pool_globally(model: onnx.ModelProto, plan: QdqPlacement) -> None:
    """ReduceMean over height and width becomes GlobalAveragePool, which onnxruntime has in INT8; in place."""
    constants = initializers(model)
    for node in model.graph.node:
        if node.op_type != "ReduceMean" or len(node.input) < 2 or node.input[1] not in constants or not attribute(node, "keepdims", 1):
            continue
        axes = sorted(int(axis) % 4 for axis in constants[node.input[1]].ravel())
        if axes == [2, 3] and node.output[0] in plan.tensors:
            node.op_type = "GlobalAveragePool"
            node.input[:] = node.input[:1]
            del node.attribute[:]


def _mean_by_row(model: onnx.ModelProto) -> dict[str, NDArray[np.float32]]:
    """The frame's mean, (1, 3, 1, 1), becomes (1, 3, 1, width), in place; returns what changed.

    onnxruntime turns the frame's axes behind the subtraction, and subtracts three numbers, over and over, seven times as slowly as a row of them
    (0.34 instead of 0.05 ms of 3.9 at 240x320; one Zen 4 core each way, 2026-11-22).
    """
    width = model.graph.input[0].type.tensor_type.shape.dim[2].dim_value
    readers, changed = consumers(model), {}
    for tensor in model.graph.initializer:
        if list(tensor.dims) == [1, 3, 1, 1] and [reader.op_type for reader in readers.get(tensor.name, [])] == ["Sub"] and width:
            changed[tensor.name] = np.repeat(numpy_helper.to_array(tensor), width, axis=3)
            tensor.CopyFrom(numpy_helper.from_array(changed[tensor.name], tensor.name))
    return changed


def _unclip(model: onnx.ModelProto, plan: QdqPlacement, table: RangeTable) -> None:
    """Clip(0, b) whose every reader takes the quantised tensor becomes Relu, in place: S8 saturates at the top anyway.

    TensorRT fuses Relu into the convolution before it. The result is the same to the bit as long as the range's top isn't above b.
    """
    constants, readers = initializers(model), consumers(model)
    for node in model.graph.node:
        name = node.output[0]
        if node.op_type != "Clip" or name not in plan.tensors or len(node.input) < 3:
            continue
        low, high = (float(constants[source].item()) if source in constants else np.nan for source in node.input[1:3])
        everyone = {reader.output[0] for reader in readers[name]} <= plan.tensors[name]
        if low == 0 and everyone and table.ranges[name][1] <= high:
            node.op_type = "Relu"
            node.input[:] = node.input[:1]


def quantised_layers(model: onnx.ModelProto) -> list[str]:
    """Convolutions of a rendered graph that read INT8 weights."""
    suffix = "/DequantizeLinear"
    return [
        layer_of(node).removesuffix(f".weight{suffix}")
        for node in model.graph.node
        if node.op_type == "Conv" and node.input[1].endswith(suffix)
    ]
