"""Changes to a network before it is trained, and what has to be known for them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


def swap_activations(module: nn.Module) -> int:
    """Replace hard-swish and swish by ReLU6, in place; returns how many. Their long, shallow tails cost INT8 its
    resolution.
    """
    return _replace(
        module,
        lambda m: type(m).__name__ in {"Hardswish", "HardSwish", "HardSwishMe", "SiLU", "Swish", "SwishMe"},
        _relu6,
    )


def drop_squeeze_excite(module: nn.Module) -> int:
    """Replace squeeze-and-excitation blocks by the identity, in place; returns how many."""
    return _replace(
        module, lambda m: "SqueezeExcite" in type(m).__name__ or type(m).__name__ == "SEModule", lambda _: nn.Identity()
    )


class _StridedPointwise(nn.Conv2d):
    """A strided 1x1 convolution as an unstrided one of every second pixel: the same numbers."""

    def forward(self, x: Tensor) -> Tensor:
        down, right = self.stride
        return functional.conv2d(x[..., ::down, ::right], self.weight, self.bias)


def slice_strided_pointwise(module: nn.Module) -> int:
    """Compute strided 1x1 convolutions of fewer than 8 channels by slicing, in place; returns how many. Their names and
    weights stay.

    PyTorch 2.14's backward of them writes beyond its memory on CPUs in channels-last order; MobileOne, FastViT and
    RepVGG begin with one.
    """

    def wanted(m: nn.Module) -> bool:
        return (
            type(m) is nn.Conv2d
            and m.kernel_size == (1, 1)
            and m.stride != (1, 1)
            and m.padding == (0, 0)
            and m.in_channels < 8
        )

    found = [m for m in module.modules() if wanted(m) and isinstance(m, nn.Conv2d) and m.groups == 1]
    for one in found:
        one.__class__ = _StridedPointwise
    return len(found)


def _relu6(_: nn.Module) -> nn.Module:
    return nn.ReLU6(inplace=True)


def _replace(module: nn.Module, wanted, make) -> int:  # type: ignore[no-untyped-def]
    count = 0
    for name, child in module.named_children():
        if wanted(child):
            setattr(module, name, make(child))
            count += 1
        else:
            count += _replace(child, wanted, make)
    return count


def depthwise_in_float32(module: nn.Module) -> int:
    """Make depthwise convolutions leave CPU autocast, in place; returns how many.

    Their bf16 backward is slower than their float32 one on CPUs, while the other convolutions gain from bf16
    (docs/results.md, what RDD costs).
    """
    depthwise = [m for m in module.modules() if isinstance(m, nn.Conv2d) and m.groups == m.in_channels > 1]
    for convolution in depthwise:
        convolution.register_forward_pre_hook(_leave_autocast)
        convolution.register_forward_hook(_return_to_autocast)
    return len(depthwise)


def _leave_autocast(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    module._autocast_before = torch.is_autocast_enabled("cpu")  # type: ignore[assignment]
    torch.set_autocast_enabled("cpu", False)
    return tuple(x.float() for x in inputs)


def _return_to_autocast(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    torch.set_autocast_enabled("cpu", bool(module._autocast_before))
