"""The contract of a quantisation scheme, and what several schemes ask of a graph.

In all schemes weights are S8 per output channel, symmetric (of 7 bits, where asked), and biases stay float: TensorRT
rejects quantised ones, and onnxruntime quantises them itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol

import numpy as np
import onnx

from rdd_deploy.export.onnx.graph import consumers, initializers
from rdd_deploy.export.quantization.ranges import Range

GATES = {"Sigmoid", "HardSigmoid"}
"""Operators whose output scales features, in squeeze-and-excitation and in LR-ASPP."""


class Scheme(Protocol):
    """Which activations are quantised for a target, to what, and what it accepts.

    Attributes:
        name: as in ``SCHEMES``.
    """

    name: str

    def tensors(self, model: onnx.ModelProto, convolutions: Mapping[str, onnx.NodeProto]) -> dict[str, set[str]]:
        """The activations to quantise.

        Args:
            model: a float graph.
            convolutions: those that compute in INT8, by layer.

        Returns:
            Tensor name -> first outputs of the nodes that read it quantised.
        """

    def activation_scale(self, limits: Range) -> tuple[np.float32, np.int8 | np.uint8]:
        """Scale and zero point of an activation with this range; the zero point's type is the activation's."""

    def prepare(self, model: onnx.ModelProto, tensors: Mapping[str, set[str]], ranges: Mapping[str, Range]) -> None:
        """Bring a float graph into the shape that the target computes fastest, in place, before Q/DQ goes in.

        Args:
            tensors: what will be quantised, as ``tensors`` returned it.
            ranges: of each activation.
        """

    def lint(self, name: str, kind: np.dtype[np.generic], zero: int) -> Iterator[str]:
        """What the target rejects, or computes otherwise, about one quantised activation.

        Args:
            name: of the Quantize or Dequantize node.
            kind: integer type of the activation.
            zero: its zero point.
        """


def made_by(name: str, makers: Mapping[str, onnx.NodeProto], inside: set[int]) -> bool:
    """Whether a tensor comes straight from one of the nodes whose ``id`` is in ``inside``."""
    return name in makers and id(makers[name]) in inside


def is_gate(name: str, makers: Mapping[str, onnx.NodeProto], inside: set[int]) -> bool:
    """Whether a tensor is the output of a gate behind one of the nodes in ``inside``."""
    return name in makers and makers[name].op_type in GATES and made_by(makers[name].input[0], makers, inside)


def unclip(model: onnx.ModelProto, tensors: Mapping[str, set[str]], ranges: Mapping[str, Range]) -> None:
    """Clip(0, b) whose every reader takes the quantised tensor becomes Relu, which fuses into the convolution before
    it, in place.

    The result is the same to the bit as long as the range's top isn't above b.
    """
    constants, readers = initializers(model), consumers(model)
    for node in model.graph.node:
        name = node.output[0]
        if node.op_type != "Clip" or name not in tensors or len(node.input) < 3:
            continue
        low, high = (float(constants[source].item()) if source in constants else np.nan for source in node.input[1:3])
        everyone = {reader.output[0] for reader in readers[name]} <= tensors[name]
        if low == 0 and everyone and ranges[name][1] <= high:
            node.op_type = "Relu"
            node.input[:] = node.input[:1]
