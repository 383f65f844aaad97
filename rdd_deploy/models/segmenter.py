"""The segmenter: raw uint8 frames in, logits out. Normalisation lives inside, so no two users of it can normalise
differently.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rdd_deploy.models import HEADS
from rdd_deploy.models.config import Network
from rdd_deploy.models.encoder import _fitting_encoder
from rdd_deploy.models.heads import FCN, FeatureInfo, Head
from rdd_deploy.models.surgery import drop_squeeze_excite, slice_strided_pointwise, swap_activations
from rdd_deploy.outputs import STAGES, Output, resized


class Segmenter(nn.Module):
    """timm encoder + decode head + optional auxiliary FCN head on the last but one feature map (stage 4).

    Args:
        network: the recipe's part. ``weights`` isn't loaded here: see ``rdd_deploy.models.pretrained``.
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
        self.merged = False  # whether the encoder's branches are one convolution each, as deployed
        slice_strided_pointwise(self.encoder)
        if not network.squeeze_excite:
            drop_squeeze_excite(self.encoder)
        if network.activation == "relu6":
            swap_activations(self.encoder)
        shape = FeatureInfo(encoder.feature_info.channels(), encoder.feature_info.reduction())
        self.head: Head = HEADS[network.head].load()(shape, network.channels, classes, network.dropout)
        self.auxiliary = FCN(shape.channels[-2], classes, network.dropout) if network.auxiliary else None
        config = encoder.pretrained_cfg
        self.register_buffer("mean", 255 * torch.tensor(config["mean"]).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", 255 * torch.tensor(config["std"]).view(1, 3, 1, 1), persistent=False)

    def forward(self, frames: Tensor, maps: Collection[str] = ()) -> Output:
        """Logits at the frames' size, and the named ``maps``."""
        return self.decoded(self.encoded(frames), frames.shape[-2:], maps)

    def encoded(self, frames: Tensor) -> list[Tensor]:
        """The encoder's maps of frames, finest first: what the heads read."""
        if frames.dtype != torch.uint8:
            raise TypeError(
                f"frames are {frames.dtype}; expected raw uint8 RGB (N, 3, H, W), normalisation happens inside"
            )
        return self._features(frames)

    def decoded(self, features: Sequence[Tensor], size: Sequence[int], maps: Collection[str] = ()) -> Output:
        """What the heads say of the encoder's maps: logits at ``size`` (height, width), and the named ``maps``."""
        small = self._small(features, maps)
        auxiliary = None if small.auxiliary is None else resized(small.auxiliary.float(), size)
        return Output(resized(small.primary.float(), size), auxiliary, small.features)

    def logits_at_stride(self, frames: Tensor, maps: Collection[str] = ()) -> Output:
        """Logits at the heads' own resolution, before the upsampling: what a teacher cache stores.

        Raises:
            ValueError: a map that this network doesn't have.
        """
        return self._small(self._features(frames), maps)

    def _features(self, frames: Tensor) -> list[Tensor]:
        x = (frames.float() - self.mean) / self.std  # (N, 3, H, W)
        return self.frame_sizes.features(self.encoder, x.contiguous(memory_format=torch.channels_last))

    def _small(self, features: Sequence[Tensor], maps: Collection[str]) -> Output:
        embedded = self.head.embed(features)
        primary = self.head.logits(embedded, features)
        auxiliary = self.auxiliary(features[-2]) if self.auxiliary is not None else None
        if not maps:
            return Output(primary, auxiliary)
        known = {"logits": primary, "head": embedded} | ({} if auxiliary is None else {"auxiliary": auxiliary})
        known |= dict(zip(reversed(STAGES), reversed(features), strict=False))
        if missing := sorted(set(maps) - set(known)):
            raise ValueError(f"the network has no map {', '.join(missing)}; expected some of {', '.join(known)}")
        return Output(primary, auxiliary, {name: known[name] for name in sorted(maps)})

    @property
    def has_auxiliary(self) -> bool:
        """Whether there is an auxiliary head."""
        return self.auxiliary is not None
