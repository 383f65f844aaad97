"""The Q/DQ graph in PyTorch: quantise-dequantise where that has its pairs, and gradients straight through them.

It is made from the same placement, ranges and tensor names as ``qdq_from_onnx`` uses, on the traced graph that becomes
the ONNX graph. BatchNorm, which the ONNX graph has folded, stays apart with frozen statistics: its factor scales whole
output channels, and symmetric per-channel rounding of a weight doesn't change with a factor of its channel.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, fx

from rdd_deploy.errors import RddError
from rdd_deploy.export.onnx.export import Deployed
from rdd_deploy.export.onnx.graph import INPUT, free_name
from rdd_deploy.export.quantization.placement import QdqPlacement
from rdd_deploy.export.quantization.ranges import NOTHING, Range, largest_integer
from rdd_deploy.export.quantization.schemes.base import Scheme

OPERATORS = {
    "conv2d": "Conv",
    "hardswish": "HardSwish",
    "hardsigmoid": "HardSigmoid",
    "sigmoid": "Sigmoid",
    "relu": "Relu",
    "relu6": "Clip",
    "hardtanh": "Clip",
    "clamp": "Clip",
    "add": "Add",
    "sub": "Sub",
    "mul": "Mul",
    "mean": "ReduceMean",
    "cat": "Concat",
    "max_pool2d": "MaxPool",
    "avg_pool2d": "AveragePool",
    "adaptive_avg_pool2d": "AveragePool",
    "upsample_bilinear2d": "Resize",
}
"""torch's operators and what they are called in the ONNX graph. All others (padding, dropout, casts) only hand a tensor on."""


def fake_quantised(
    deployed: Deployed,
    size: tuple[int, int],
    batch: int,
    plan: QdqPlacement,
    ranges: Mapping[str, Range],
    scheme: Scheme,
) -> fx.GraphModule:
    """The logits of a network as its Q/DQ graph computes them, with ``deployed``'s own parameters.

    Args:
        size: (height, width) of the frames. batch: how many at once.
        plan: what is quantised by the scheme.
        ranges: of each quantised tensor.

    Returns:
        A module, uint8 (batch, H, W, 3) BGR -> float logits (batch, C, H, W).

    Raises:
        RddError: a quantised tensor isn't found in PyTorch's graph.
    """
    example = torch.zeros(batch, *size, 3, dtype=torch.uint8)
    module = torch.export.export(deployed, (example,)).module()
    assert isinstance(module, fx.GraphModule)
    _logits_only(module.graph)
    _out_of_place(module.graph)
    names = _onnx_names(module.graph)
    for name, readers in plan.tensors.items():
        scale, zero = scheme.activation_scale(ranges[name])
        limits = np.iinfo(zero.dtype)
        _insert(module.graph, names, name, readers, (float(scale), int(zero), int(limits.min), int(limits.max)))
    layers = {name: node for node, name in names.items() if _kind(node) == "Conv"}
    for layer in plan.convolutions:
        weight = layers[layer].args[1]
        assert isinstance(weight, fx.Node)
        with module.graph.inserting_after(weight):
            layers[layer].replace_input_with(
                weight, module.graph.call_function(rounded_weight, (weight, plan.weight_bits))
            )
    module.graph.lint()
    module.recompile()
    return module


def rounded_weight(weight: Tensor, bits: int) -> Tensor:
    """A weight (O, I, h, w) rounded per output channel, as ``quantised_weight`` does; the gradient passes straight
    through.
    """
    largest, top = weight.detach().abs().amax((1, 2, 3)), largest_integer(bits)
    scales = torch.where(largest > NOTHING, largest / top, 1.0)
    return torch.fake_quantize_per_channel_affine(
        weight, scales, torch.zeros_like(scales, dtype=torch.int32), 0, -top, top
    )


def _kind(node: fx.Node) -> str:
    """A node's ONNX operator; empty for what only hands a tensor on."""
    return OPERATORS.get(_operator(node), "")


def _operator(node: fx.Node) -> str:
    return str(node.target).split(".")[1].removesuffix("_") if str(node.target).startswith("aten.") else ""


def _logits_only(graph: fx.Graph) -> None:
    """Cut the argmax off, and drop the tracer's checks of the input."""
    argmax = next(node for node in graph.nodes if _operator(node) == "argmax")
    output = next(node for node in graph.nodes if node.op == "output")
    output.args = ((argmax.args[0],),)
    for node in reversed(list(graph.nodes)):
        if not node.users and node.op in {"call_function", "call_module"}:
            graph.erase_node(node)


def _out_of_place(graph: fx.Graph) -> None:
    """An operator that overwrites its input would overwrite what a quantised copy's other readers need. Swish becomes
    its two ONNX nodes.
    """
    for node in list(graph.nodes):
        _, name, overload = (*str(node.target).split("."), "", "")[:3]
        if _operator(node) == "silu":
            with graph.inserting_before(node):
                gate = graph.call_function(torch.ops.aten.sigmoid.default, node.args)
                node.replace_all_uses_with(graph.call_function(torch.ops.aten.mul.Tensor, (node.args[0], gate)))
            graph.erase_node(node)
        elif _operator(node) and name.endswith("_"):
            node.target = getattr(getattr(torch.ops.aten, name.removesuffix("_")), overload)


def _onnx_names(graph: fx.Graph) -> dict[fx.Node, str]:
    """What ``graph.tidy`` calls the tensor of each node in the ONNX graph; BatchNorm and what hands a tensor on keep
    its name.
    """
    names: dict[fx.Node, str] = {}
    taken: set[str] = set()
    for node in graph.nodes:
        inputs = [names[one] for one in node.all_input_nodes if one in names]
        if node.op == "placeholder":
            names[node] = INPUT
        elif (kind := _kind(node)) == "Conv":
            names[node] = free_name(str(node.args[1].target).removesuffix(".weight"), taken)
        elif kind and inputs:
            names[node] = free_name(f"{inputs[0].split('/')[0]}/{kind}", taken)
        elif inputs:
            names[node] = inputs[0]
    return names


def _insert(
    graph: fx.Graph, names: Mapping[fx.Node, str], name: str, readers: set[str], step: tuple[float, int, int, int]
) -> None:
    """Quantise-dequantise a tensor for the readers that read it quantised."""
    made = next(
        (node for node, own in names.items() if own == name and (_kind(node) or node.op == "placeholder")), None
    )
    if made is None:
        raise RddError(
            f"PyTorch's graph has no tensor '{name}', which the ONNX graph quantises; leave 'qad' out of gate.fallbacks"
        )
    if len(made.users) == 1 and _operator(after := next(iter(made.users))) == "batch_norm":
        made = after  # the ONNX graph has it folded into the convolution before
    with graph.inserting_after(made):
        rounded = graph.call_function(torch.fake_quantize_per_tensor_affine, (made, *step))
    for user in list(made.users):
        reader = user
        while not _kind(reader) and reader.users:  # padding and dropout on the way
            reader = next(iter(reader.users))
        if user is not rounded and names.get(reader) in readers:
            user.replace_input_with(made, rounded)
