"""What a segmenter says of frames, and the maps inside it that have names: the words that networks and losses share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

STAGES = ("stage1", "stage2", "stage3", "stage4", "stage5")
MAPS = ("logits", "head", "auxiliary", *STAGES)
"""Names of the maps that a segmenter can hand out beside its output: the small logits, what the last classifier reads, the auxiliary head's
small logits, the encoder's feature maps (the coarsest is stage5)."""


class Output(NamedTuple):
    """What a segmenter says of frames.

    Attributes:
        primary: logits float (N, C, H, W). auxiliary: likewise; None for a network without that head.
        features: those of ``MAPS`` that were asked for, float (N, D, h, w), each at its own stride.
    """

    primary: Tensor
    auxiliary: Tensor | None
    features: Mapping[str, Tensor] = {}


def resized(x: Tensor, size: Sequence[int] | torch.Size) -> Tensor:
    """Bilinear resize of (N, C, h, w) to (height, width), half-pixel aligned; no work where the size is
    right already.
    """
    return (
        x if tuple(x.shape[-2:]) == tuple(size) else F.interpolate(x, tuple(size), mode="bilinear", align_corners=False)
    )
