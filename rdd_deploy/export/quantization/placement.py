"""Where quantisation goes: which convolutions compute in INT8, and which tensors get a Quantize/Dequantize pair."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

import onnx

from rdd_deploy.errors import RecipeError
from rdd_deploy.export.onnx.graph import OUTPUT, consumers, initializers, producers
from rdd_deploy.export.profile import Placement
from rdd_deploy.export.quantization.schemes.base import Scheme

DOWNSTREAM = {"Resize", "ArgMax", "Cast", "Add", "Transpose"}
"""What may stand between a classifier and the labels."""


@dataclass(frozen=True)
class QdqPlacement:
    """What is quantised in one graph by one scheme.

    Attributes:
        convolutions: layer name -> node, those that compute in INT8.
        float_convolutions: the others.
        tensors: activation -> first outputs of the nodes that read it quantised.
        weight_bits: of the convolutions' weights.
    """

    convolutions: dict[str, onnx.NodeProto]
    float_convolutions: dict[str, onnx.NodeProto]
    tensors: dict[str, set[str]]
    weight_bits: int = 8


def layer_of(node: onnx.NodeProto) -> str:
    """A convolution's name: its weight's, without ``.weight``."""
    return str(node.input[1]).removesuffix(".weight")


def place_qdq(
    model: onnx.ModelProto, scheme: Scheme, placement: Placement, float_layers: Sequence[str] = ()
) -> QdqPlacement:
    """Decide what is quantised in a float graph.

    Args:
        placement: what the profile keeps in float.
        float_layers: further convolutions that stay float.

    Raises:
        RecipeError: a named layer isn't in the graph.
    """
    layers = {layer_of(node): node for node in model.graph.node if node.op_type == "Conv"}
    wanted = {*placement.float_layers, *float_layers}
    check_layers(model, wanted, "placement.float_layers")
    if placement.classifier == "float":
        wanted |= {layer_of(node) for node in classifiers(model)}
    if placement.lraspp_gate == "float":
        wanted |= {layer_of(node) for node in lraspp_gates(model)}
    convolutions = {name: node for name, node in layers.items() if name not in wanted}
    float_convolutions = {name: node for name, node in layers.items() if name in wanted}
    return QdqPlacement(
        convolutions, float_convolutions, scheme.tensors(model, convolutions), 7 if placement.weight_bits == 7 else 8
    )


def check_layers(model: onnx.ModelProto, names: Iterable[str], where: str) -> None:
    """RecipeError where a named convolution isn't in the graph; lists the nearest names."""
    layers = [layer_of(node) for node in model.graph.node if node.op_type == "Conv"]
    if unknown := sorted(set(names) - set(layers)):
        near = list(dict.fromkeys(name for one in unknown for name in get_close_matches(one, layers, 3, 0.0)))
        raise RecipeError(f"{where}: no convolution {', '.join(unknown)} in the graph; nearest are {', '.join(near)}")


def classifiers(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Convolutions whose outputs are logits: only resizing, adding and argmax stand between them and the labels, though
    a head may read them beside that, to refine them.
    """
    readers = consumers(model)

    def ends(name: str) -> bool:
        return any(
            node.op_type in DOWNSTREAM and (OUTPUT in node.output or ends(node.output[0]))
            for node in readers.get(name, [])
        )

    return [node for node in model.graph.node if node.op_type == "Conv" and ends(node.output[0])]


def lraspp_gates(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """The head's gate (LR-ASPP): pooled features, one convolution, a sigmoid. Squeeze-and-excitation has two
    convolutions.
    """
    makers, readers = producers(model), consumers(model)
    found = []
    for node in model.graph.node:
        before = makers.get(node.input[0])
        after = readers.get(node.output[0], [])
        if (
            node.op_type == "Conv"
            and before is not None
            and before.op_type == "ReduceMean"
            and [n.op_type for n in after] == ["Sigmoid"]
        ):
            found.append(node)
    return found


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
