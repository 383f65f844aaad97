"""Where quantisation goes: which convolutions compute in INT8, and which tensors get a Quantize/Dequantize pair, for every form."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

import onnx

from rdd_deploy.errors import RecipeError
from rdd_deploy.export.onnx.graph import INPUT, OUTPUT, consumers, initializers, producers
from rdd_deploy.export.profile import Placement
from rdd_deploy.export.quantization.ranges import ACTIVATIONS

GATES = {"Sigmoid", "HardSigmoid"}
DOWNSTREAM = {"Resize", "ArgMax", "Cast", "Add", "Transpose"}
"""What may stand between a classifier and the labels."""


@dataclass(frozen=True)
class QdqPlacement:
    """Attributes:
    convolutions: layer name -> node, those that compute in INT8.
    float_convolutions: the others.
    tensors: activation -> the outputs' names of the nodes that read it quantised.
    """

    convolutions: dict[str, onnx.NodeProto]
    float_convolutions: dict[str, onnx.NodeProto]
    tensors: dict[str, set[str]]


def layer_of(node: onnx.NodeProto) -> str:
    """A convolution's name: its weight's, without ``.weight``."""
    return str(node.input[1]).removesuffix(".weight")


def plan_of(model: onnx.ModelProto, form: str, placement: Placement, float_layers: Sequence[str] = ()) -> QdqPlacement:
    """Decide the placement for a form.

    Args:
        form: ``trt``, ``x86`` or ``openvino``.
        float_layers: convolutions that stay float, beside the placement's own.

    Raises:
        RecipeError: a named layer isn't in the graph.
    """
    layers = {layer_of(node): node for node in model.graph.node if node.op_type == "Conv"}
    wanted = {*placement.float_layers, *float_layers}
    check_layers(model, wanted, "placement.float_layers")
    if placement.classifier == "float":
        wanted |= {layer_of(node) for node in classifiers(model)}
    if placement.gate == "float":
        wanted |= {layer_of(node) for node in head_gates(model)}
    convolutions = {name: node for name, node in layers.items() if name not in wanted}
    tensors = TENSORS[form](model, convolutions)
    return QdqPlacement(convolutions, {name: node for name, node in layers.items() if name in wanted}, tensors)


def check_layers(model: onnx.ModelProto, names: Iterable[str], where: str) -> None:
    """RecipeError where a named convolution isn't in the graph; tells the ones that are called most alike."""
    layers = [layer_of(node) for node in model.graph.node if node.op_type == "Conv"]
    if unknown := sorted(set(names) - set(layers)):
        near = list(dict.fromkeys(name for one in unknown for name in get_close_matches(one, layers, 3, 0.0)))
        raise RecipeError(f"{where}: no convolution {', '.join(unknown)} in the graph; nearest are {', '.join(near)}")


def classifiers(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Convolutions whose outputs are logits: nothing but resizing, adding and argmax follows."""
    readers = consumers(model)

    def ends(name: str) -> bool:
        return all(node.op_type in DOWNSTREAM and (OUTPUT in node.output or ends(node.output[0])) for node in readers.get(name, [])) and (
            bool(readers.get(name))
        )

    return [node for node in model.graph.node if node.op_type == "Conv" and ends(node.output[0])]


def head_gates(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """The head's gate (LR-ASPP): pooled features, one convolution, a sigmoid. Squeeze-and-excitation has two convolutions."""
    makers, readers = producers(model), consumers(model)
    found = []
    for node in model.graph.node:
        before = makers.get(node.input[0])
        after = readers.get(node.output[0], [])
        if node.op_type == "Conv" and before is not None and before.op_type == "ReduceMean" and [n.op_type for n in after] == ["Sigmoid"]:
            found.append(node)
    return found


def _trt_tensors(model: onnx.ModelProto, convolutions: dict[str, onnx.NodeProto]) -> dict[str, set[str]]:
    """Inputs of INT8 convolutions, the skip input of a residual Add, inputs of HardSwish and of a gating Mul."""
    makers, readers = producers(model), consumers(model)
    inside = {id(node) for node in convolutions.values()}
    tensors: dict[str, set[str]] = {}
    for node in model.graph.node:
        if node.op_type == "Conv" and id(node) in inside:
            quantised = [node.input[0]]
        elif node.op_type == "Add" and (skip := _skip(node, makers, readers, inside)):
            quantised = [skip]
        elif node.op_type == "HardSwish" and _from(node.input[0], makers, inside):
            quantised = [node.input[0]]
        elif node.op_type == "Mul" and (gate := makers.get(_gate_input(node, makers))) is not None and _gated(gate, makers, inside):
            quantised = list(node.input)
        else:
            continue
        for name in quantised:
            tensors.setdefault(name, set()).add(node.output[0])
    for name, names in tensors.items():  # pooling reads the INT8 copy too, so that the producer needs to write no float one
        names |= {reader.output[0] for reader in readers[name] if reader.op_type == "ReduceMean"}
    return tensors


def _skip(
    node: onnx.NodeProto, makers: dict[str, onnx.NodeProto], readers: dict[str, list[onnx.NodeProto]], inside: set[int]
) -> str | None:
    """The input of a residual Add that isn't the fresh convolution's, which stays float so that convolution and Add fuse."""
    fresh = [name for name in node.input if _from(name, makers, inside) and len(readers[name]) == 1]
    if not fresh:
        return None
    other = [name for name in node.input if name != fresh[-1]]
    return other[0] if other and other[0] in makers else None


def _from(name: str, makers: dict[str, onnx.NodeProto], inside: set[int]) -> bool:
    return name in makers and id(makers[name]) in inside


def _gate_input(node: onnx.NodeProto, makers: dict[str, onnx.NodeProto]) -> str:
    return next((name for name in node.input if name in makers and makers[name].op_type in GATES), "")


def _gated(gate: onnx.NodeProto, makers: dict[str, onnx.NodeProto], inside: set[int]) -> bool:
    return _from(gate.input[0], makers, inside)


def _x86_tensors(model: onnx.ModelProto, convolutions: dict[str, onnx.NodeProto]) -> dict[str, set[str]]:
    """Inputs and outputs of INT8 convolutions (after their activation), and of Add, Mul and pooling between them; read by everyone."""
    readers, makers = consumers(model), producers(model)
    inside = {id(node) for node in convolutions.values()}
    names: dict[str, None] = {}
    for node in convolutions.values():
        names.setdefault(node.input[0])
        names.setdefault(after_activation(node, readers))
    for node in model.graph.node:
        if node.op_type in {"Add", "Mul"} and all(name in names or _is_gate(name, makers, inside) for name in node.input):
            for name in (*node.input, after_activation(node, readers)):
                names.setdefault(name)
        elif node.op_type == "HardSwish" and _from(node.input[0], makers, inside):
            names.setdefault(node.input[0])
    names.pop(INPUT, None)
    return {name: {reader.output[0] for reader in readers[name]} for name in names if name in readers}


def _openvino_tensors(model: onnx.ModelProto, convolutions: dict[str, onnx.NodeProto]) -> dict[str, set[str]]:
    """Inputs of INT8 convolutions, and both inputs of a residual Add behind one: quantising one of the two is slower than neither."""
    makers, inside = producers(model), {id(node) for node in convolutions.values()}
    tensors: dict[str, set[str]] = {}
    for node in convolutions.values():
        tensors.setdefault(node.input[0], set()).add(node.output[0])
    for node in model.graph.node:
        if node.op_type == "Add" and all(name in makers for name in node.input) and any(_from(name, makers, inside) for name in node.input):
            for name in node.input:
                tensors.setdefault(name, set()).add(node.output[0])
    return tensors


TENSORS = {"trt": _trt_tensors, "x86": _x86_tensors, "openvino": _openvino_tensors}


def _is_gate(name: str, makers: dict[str, onnx.NodeProto], inside: set[int]) -> bool:
    return name in makers and makers[name].op_type in GATES and _gated(makers[name], makers, inside)


def after_activation(node: onnx.NodeProto, readers: dict[str, list[onnx.NodeProto]]) -> str:
    """The tensor that a convolution really delivers: behind its Relu or Clip, if nothing else reads what is before it."""
    after = readers.get(node.output[0], [])
    return str(after[0].output[0] if len(after) == 1 and after[0].op_type in ACTIVATIONS else node.output[0])


def multiply_adds(model: onnx.ModelProto) -> dict[str, int]:
    """Multiply-adds per convolution, from the graph's static shapes."""
    inferred = onnx.shape_inference.infer_shapes(model)
    shapes = {info.name: [d.dim_value for d in info.type.tensor_type.shape.dim] for info in inferred.graph.value_info}
    weights = {name: value.shape for name, value in initializers(model).items()}
    found = {}
    for node in model.graph.node:
        if node.op_type == "Conv":
            (outputs, inputs, *kernel), (*_, height, width) = weights[node.input[1]], shapes[node.output[0]]
            count = outputs * inputs * height * width
            for side in kernel:
                count *= side
            found[layer_of(node)] = int(count)
    return found
