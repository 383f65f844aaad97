"""Range table + float graph -> Q/DQ graph, by the target's scheme."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from rdd_deploy.errors import DataError
from rdd_deploy.export.onnx.graph import initializers
from rdd_deploy.export.profile import Placement
from rdd_deploy.export.quantization.placement import QdqPlacement, layer_of, place_qdq
from rdd_deploy.export.quantization.ranges import RangeTable, largest_integer, quantised_weight
from rdd_deploy.export.quantization.schemes.base import Scheme


def qdq_from_onnx(
    model: onnx.ModelProto,
    table: RangeTable,
    scheme: Scheme,
    placement: Placement,
    float_layers: Sequence[str] = (),
    biases: Mapping[str, NDArray[np.float32]] | None = None,
) -> onnx.ModelProto:
    """A quantised copy of a float graph.

    Args:
        model: the plain float export.
        placement: what the profile keeps in float.
        float_layers: further convolutions that stay float.
        biases: corrected biases by layer, (O,).

    Raises:
        DataError: the table holds no range for a tensor that must be quantised.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    plan = place_qdq(copy, scheme, placement, float_layers)
    missing = [name for name in plan.tensors if name not in table.ranges]
    if missing:
        raise DataError(
            f"the range table has no range of '{missing[0]}', which is quantised; calibrate again (remove the table)"
        )
    scheme.prepare(copy, plan.tensors, table.ranges)
    _Inserter(copy, plan, table, scheme, biases or {}).run()
    return copy


class _Inserter:
    def __init__(
        self,
        model: onnx.ModelProto,
        plan: QdqPlacement,
        table: RangeTable,
        scheme: Scheme,
        biases: Mapping[str, NDArray[np.float32]],
    ) -> None:
        self.model, self.plan, self.table, self.scheme, self.biases = model, plan, table, scheme, biases
        self.constants = initializers(model)
        self.added: list[onnx.TensorProto] = []
        self.before: dict[int, list[onnx.NodeProto]] = {}
        self.after: dict[str, list[onnx.NodeProto]] = {}

    def run(self) -> None:
        for name, readers in self.plan.tensors.items():
            self._pair(name, readers)
        for layer, node in self.plan.convolutions.items():
            self._weight(layer, node)
            if layer in self.biases:
                self._bias(layer, node, self.biases[layer])
        self._rebuild()

    def _pair(self, name: str, readers: set[str]) -> None:
        """Quantize and Dequantize after ``name``; the given readers read the result."""
        scale, zero = self.scheme.activation_scale(self.table.ranges[name])
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
        rounded, scales = quantised_weight(weight, self.plan.weight_bits)
        names = [
            self._constant(f"{layer}.weight/int8", rounded),
            self._constant(f"{layer}.weight/scale", scales),
            self._constant(f"{layer}.weight/zero", np.zeros(len(scales), np.int8)),
        ]
        back = f"{layer}.weight/DequantizeLinear"
        self.before.setdefault(id(node), []).append(
            helper.make_node("DequantizeLinear", names, [back], name=back, axis=0)
        )
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


def weight_bits(model: onnx.ModelProto) -> int:
    """Of the INT8 weights of a Q/DQ graph: 7 where none is beyond ±63, else 8."""
    largest = (
        int(np.abs(value.astype(np.int16)).max(initial=0))
        for name, value in initializers(model).items()
        if name.endswith("/int8")
    )
    return 7 if max(largest, default=0) <= largest_integer(7) else 8


def quantised_layers(model: onnx.ModelProto) -> list[str]:
    """Convolutions of a Q/DQ graph that read INT8 weights."""
    suffix = "/DequantizeLinear"
    return [
        layer_of(node).removesuffix(f".weight{suffix}")
        for node in model.graph.node
        if node.op_type == "Conv" and node.input[1].endswith(suffix)
    ]
