"""One float graph from a run's weights: ``frame: uint8[1,H,W,3]`` BGR in, ``labels: uint8[1,H,W]`` out.

Everything that could drift between training and the edge is inside: colour order, normalisation, upsampling, argmax.
The cast comes first and the transpose after it, because TensorRT takes uint8 only straight into a Cast.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import re
import warnings
from collections.abc import Iterator

import onnx
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rdd_deploy.errors import RddError
from rdd_deploy.export.onnx.graph import INPUT, OUTPUT, tidy
from rdd_deploy.models.merge import merge, merge_checked
from rdd_deploy.models.segmenter import Segmenter

OPSET = 18
"""The oldest that the dynamo exporter writes natively; HardSwish is one operator in it, and TensorRT and OpenVINO know it all."""
SMALLEST = 32
TRIAL = (64, 96)
"""Frame size at which an encoder is looked at."""
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


class _Mean(nn.Module):
    """Global average as one ReduceMean; the pooling module would become three operators."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3), keepdim=True)


class Deployed(nn.Module):
    """A segmenter as it is deployed: branches that an encoder trains with are merged into one convolution each.

    Scaling by the standard deviation and the colour order are folded into the first convolution, so that one
    subtraction is left of the preprocessing. (The mean can't be folded: the convolution pads with zeros after it.)
    Where an encoder begins with anything else, or with a convolution that makes its weights again (NFNet), both stay as
    they are; ``stem`` is None then.

    Shape:
        - Input: uint8 (N, H, W, 3), BGR.
        - Output: uint8 (N, H, W), class ids.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, segmenter: Segmenter) -> None:
        super().__init__()
        segmenter = copy.deepcopy(segmenter).eval().cpu()
        merge_checked(segmenter)
        self.merged = segmenter.merged
        self.stem = _stem(segmenter)
        if self.stem is not None:
            with torch.no_grad():
                weight = segmenter.get_parameter(self.stem)
                weight.copy_(_folded(weight, segmenter.std))
        self.encoder, self.head, self.frame_sizes = segmenter.encoder, segmenter.head, segmenter.frame_sizes
        self.register_buffer("mean", segmenter.mean.flip(1), persistent=False)
        self.register_buffer("std", segmenter.std, persistent=False)
        _replace_pooling(self)

    def forward(self, frame: Tensor) -> Tensor:
        x = frame.float().permute(0, 3, 1, 2) - self.mean  # (N, 3, H, W)
        if self.stem is None:
            x = x.flip(1) / self.std
        logits = self.head(self.frame_sizes.features(self.encoder, x))  # (N, C, h, w)
        size = (frame.shape[1], frame.shape[2])
        logits = F.interpolate(logits, size, mode="bilinear", align_corners=False)  # (N, C, H, W)
        return logits.argmax(1).to(torch.uint8)  # (N, H, W)

    def unfolded(self, segmenter: Segmenter) -> Segmenter:
        """A copy of the segmenter that this was made from, with this network's weights; merged where this is."""
        copied = copy.deepcopy(segmenter)
        if self.merged and not copied.merged:
            merge(copied)
        copied.load_state_dict(self.state_dict(), strict=False)
        if self.stem is not None:
            with torch.no_grad():
                weight = copied.get_parameter(self.stem)
                weight.copy_(weight.flip(1) * copied.std)
        return copied


def _folded(weight: Tensor, std: Tensor) -> Tensor:
    """A stem's weight (O, 3, h, w) for BGR frames that aren't divided by their standard deviation."""
    return (weight / std).flip(1)


def _stem(segmenter: Segmenter) -> str | None:
    """Name of the first layer's weight where it is a convolution over the colours that normalisation can be folded
    into, else None.
    """
    seen: list[nn.Module] = []
    leaves = [
        module for module in segmenter.encoder.modules() if next(module.parameters(recurse=False), None) is not None
    ]
    hooks = [module.register_forward_pre_hook(lambda module, _: seen.append(module)) for module in leaves]
    try:
        with torch.inference_mode():
            segmenter.logits_at_stride(torch.zeros(1, 3, *TRIAL, dtype=torch.uint8))
    finally:
        for hook in hooks:
            hook.remove()
    first = seen[0] if seen else None
    if not isinstance(first, nn.Conv2d) or first.in_channels != 3 or first.groups != 1:
        return None
    x = torch.rand(1, 3, *TRIAL, generator=torch.Generator().manual_seed(0)) - 0.5
    with torch.no_grad():
        expected, weight = first(x), first.weight.clone()
        try:
            first.weight.copy_(_folded(weight, segmenter.std))
            same = torch.allclose(
                first((x * segmenter.std).flip(1)), expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max())
            )
        finally:
            first.weight.copy_(weight)
    return next(f"{name}.weight" for name, module in segmenter.named_modules() if module is first) if same else None


def _replace_pooling(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, nn.AdaptiveAvgPool2d) and child.output_size in (1, (1, 1)):
            setattr(module, name, _Mean())
        else:
            _replace_pooling(child)


def onnx_from_segmenter(segmenter: Segmenter, size: tuple[int, int]) -> onnx.ModelProto:
    """Export at a static (height, width). BatchNorm is folded into the convolutions; tensors are named after their
    layers.

    Raises:
        RddError: the size is too small, or the network can't be traced.
    """
    if min(size) < SMALLEST:
        raise RddError(f"the export size is {size[0]}x{size[1]}; expected at least {SMALLEST}x{SMALLEST}")
    deployed = Deployed(segmenter).eval()
    example = torch.zeros(1, *size, 3, dtype=torch.uint8)
    try:
        with _quiet():
            program = torch.onnx.export(
                deployed,
                (example,),
                input_names=[INPUT],
                output_names=[OUTPUT],
                opset_version=OPSET,
                dynamo=True,
                verbose=False,
            )
    except Exception as error:  # the exporter wraps whatever went wrong
        raise RddError(
            f"torch can't export encoder '{segmenter.network.encoder}' with head '{segmenter.network.head}' at"
            f" {size[0]}x{size[1]}: {_reason(error)}; choose another encoder"
        ) from error
    assert program is not None
    model: onnx.ModelProto = program.model_proto
    tidy(model)
    model.producer_name = "rdd_deploy"
    return model


def _reason(error: BaseException) -> str:
    """The first line of what went wrong first, without the exporter's wrapping and colours."""
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    lines = _COLOURS.sub("", str(error)).strip().splitlines()
    return lines[0] if lines else type(error).__name__


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter's advice is for its developers; its errors are raised."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
