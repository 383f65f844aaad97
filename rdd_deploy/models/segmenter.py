"""The segmenter: raw uint8 frames in, logits out. Normalisation lives inside, so no two users of it can normalise differently."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from rdd_deploy.models.config import Network
from rdd_deploy.models.encoder import _fitting_encoder
from rdd_deploy.models.heads import FCN, HEADS, FeatureInfo, resized
from rdd_deploy.models.surgery import drop_squeeze_excite, swap_activations


class Output(NamedTuple):
    """Logits float (N, C, H, W) at the frames' size; ``auxiliary`` is None for a network without that head."""

    primary: Tensor
    auxiliary: Tensor | None


class Segmenter(nn.Module):
    """timm encoder + decode head + optional auxiliary FCN head on the last but one feature map (stage 4).

    Args:
        network: the recipe's part. ``weights`` isn't loaded here: see ``rdd_deploy.models.weights``.
        classes: number of classes.

    Shape:
        - Input: uint8 (N, 3, H, W), RGB, any H and W (from 32).
        - Output: ``Output`` of float (N, classes, H, W).
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: Network, classes: int) -> None:
        super().__init__()
        self.network, self.classes = network, classes
        encoder: Any
        self.encoder, self.frame_sizes = encoder, _ = _fitting_encoder(network)
        if not network.squeeze_excite:
            drop_squeeze_excite(self.encoder)
        if network.activation == "relu6":
            swap_activations(self.encoder)
        shape = FeatureInfo(encoder.feature_info.channels(), encoder.feature_info.reduction())
        self.head = HEADS[network.head](shape, network.channels, classes, network.dropout)
        self.auxiliary = FCN(shape.channels[-2], classes, network.dropout) if network.auxiliary else None
        config = encoder.pretrained_cfg
        self.register_buffer("mean", 255 * torch.tensor(config["mean"]).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", 255 * torch.tensor(config["std"]).view(1, 3, 1, 1), persistent=False)

    def forward(self, frames: Tensor) -> Output:
        if frames.dtype != torch.uint8:
            raise TypeError(f"frames are {frames.dtype}; expected raw uint8 RGB (N, 3, H, W), normalisation happens inside")
        primary, auxiliary = self.small(frames)
        size = frames.shape[-2:]
        return Output(resized(primary.float(), size), None if auxiliary is None else resized(auxiliary.float(), size))

    def small(self, frames: Tensor) -> Output:
        """Logits at the heads' own resolution, before the upsampling: what a teacher cache stores."""
        x = (frames.float() - self.mean) / self.std  # (N, 3, H, W)
        features = self.frame_sizes.features(self.encoder, x.contiguous(memory_format=torch.channels_last))
        wanted = self.auxiliary is not None
        return Output(self.head(features), self.auxiliary(features[-2]) if wanted and self.auxiliary else None)
