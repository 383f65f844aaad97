"""timm encoders with feature maps, and which input sizes they take."""

from __future__ import annotations

import math
from contextlib import suppress
from typing import Any, NamedTuple

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rdd_deploy.errors import RecipeError
from rdd_deploy.models.config import Network
from rdd_deploy.models.encoder_names import check_encoder
from rdd_deploy.outputs import resized
from rdd_deploy.utils import faults


class InputSizePolicy(NamedTuple):
    """Which frame sizes an encoder takes: multiples of a number, or just one; and whether its maps are (N, H, W, C), as
    window transformers'.
    """

    multiple: int = 1
    fixed: tuple[int, int] | None = None
    channels_last: bool = False

    def features(self, encoder: nn.Module, x: Tensor) -> list[Tensor]:
        """The maps of any frame, each (N, C, h, w): padded below and to the right, or resized, where the encoder
        doesn't take its size.
        """
        height, width = x.shape[-2:]
        if self.fixed:
            return self._maps(encoder, resized(x, self.fixed))
        below, right = -height % self.multiple, -width % self.multiple
        if not below and not right:
            return self._maps(encoder, x)
        maps = self._maps(encoder, F.pad(x, (0, right, 0, below)))
        return [
            m[
                ...,
                : math.ceil(m.shape[-2] * height / (height + below)),
                : math.ceil(m.shape[-1] * width / (width + right)),
            ]
            for m in maps
        ]

    def _maps(self, encoder: nn.Module, x: Tensor) -> list[Tensor]:
        maps: list[Tensor] = encoder(x)
        return [m.permute(0, 3, 1, 2) for m in maps] if self.channels_last else maps


PROBE_SIZES = ((73, 105), (361, 481))
"""Frame sizes that no stride divides: a few windows of attention, and many."""


def _fitting_encoder(network: Network) -> tuple[nn.Module, InputSizePolicy]:
    """The encoder as it takes the most frame sizes: all; else multiples of its stride (HRNet, DLA, HaloNet); else only
    its own (CaiT).
    """
    encoder = _encoder(network)
    last = _channels_last(encoder)
    if _accepts(encoder, *PROBE_SIZES):
        return encoder, InputSizePolicy(channels_last=last)
    with suppress(RecipeError):  # vision transformers take any size if they are told so before they are built
        dynamic = _encoder(network, dynamic_img_size=True, dynamic_img_pad=True)
        if _accepts(dynamic, *PROBE_SIZES):
            return dynamic, InputSizePolicy(channels_last=_channels_last(dynamic))
    stride = max(encoder.feature_info.reduction())  # type: ignore[operator, union-attr]
    for multiple in (stride, 2 * stride, 4 * stride, 8 * stride):
        if _accepts(encoder, *((high * multiple, wide * multiple) for high, wide in ((2, 1), (1, 3), (5, 7)))):
            return encoder, InputSizePolicy(multiple, channels_last=last)
    config: Any = encoder.pretrained_cfg
    return encoder, InputSizePolicy(fixed=tuple(config["input_size"][1:]), channels_last=last)


def _channels_last(encoder: nn.Module) -> bool:
    """Whether the encoder's maps are (N, H, W, C): Swin and other window transformers."""
    return getattr(encoder, "output_fmt", "NCHW") == "NHWC"


def _accepts(encoder: Any, *sizes: tuple[int, int]) -> bool:
    """Whether the encoder makes, of frames of these sizes, maps of as many channels as it says."""
    training = encoder.training
    axis = -1 if _channels_last(encoder) else 1
    try:
        with torch.no_grad():
            return all(
                [m.shape[axis] for m in encoder.eval()(torch.zeros(1, 3, *size))] == encoder.feature_info.channels()
                for size in sizes
            )
    except (RuntimeError, AssertionError, ValueError, IndexError, TypeError) as error:
        # The machine's fault (memory, threads), which says nothing of the encoder.
        if faults.as_error(error) is not None:
            raise
        return False
    finally:
        encoder.train(training)


def _encoder(network: Network, **more: Any) -> nn.Module:
    check_encoder(network.encoder)
    options: dict[str, Any] = {"features_only": True, "pretrained": False, **more}
    if network.output_stride != 32:
        options["output_stride"] = 16 if network.output_stride == "auto" else network.output_stride
    failures = (NotImplementedError, AssertionError, RuntimeError, AttributeError, ValueError, TypeError)
    try:
        return timm.create_model(network.encoder, **options)  # type: ignore[no-any-return]
    except failures as error:
        problem = error
    # Encoders refuse a stride in many ways, some by not knowing the word: what they do without it tells.
    if options.pop("output_stride", None):
        with suppress(*failures):
            encoder = timm.create_model(network.encoder, **options)
            if network.output_stride == "auto":
                return encoder  # type: ignore[no-any-return]
            raise RecipeError(
                f"encoder '{network.encoder}' can't run at output_stride {network.output_stride}; set"
                " student.output_stride=auto (in a teacher recipe network.output_stride=auto)"
            ) from problem
    reason = (str(problem).splitlines() or [type(problem).__name__])[0]
    raise RecipeError(
        f"timm gives no feature maps for encoder '{network.encoder}': {reason}; choose another"
    ) from problem
