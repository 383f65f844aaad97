"""Decode heads: feature maps in, logits at some stride out. Sizes are matched to each other, never multiplied by a
factor.

A new head is a class here, or in a file of its own, and a line in ``rdd_deploy.models.HEADS``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from segmentation_models_pytorch.decoders.deeplabv3.decoder import DeepLabV3Decoder, DeepLabV3PlusDecoder
from segmentation_models_pytorch.decoders.pspnet.decoder import PSPDecoder
from torch import Tensor, nn

from rdd_deploy.outputs import resized


class FeatureInfo:
    """What a head may know of its encoder: channels and stride of each feature map, finest first."""

    def __init__(self, channels: Sequence[int], strides: Sequence[int]) -> None:
        self.channels, self.strides = list(channels), list(strides)

    def at_most(self, stride: int) -> int:
        """Index of the coarsest feature map whose stride is at most ``stride``."""
        return max(i for i, s in enumerate(self.strides) if s <= stride or i == 0)


class Head(nn.Module):
    """A decode head in two steps, so that what its last classifier reads can be distilled, too.

    Shape: feature maps (N, C_i, h_i, w_i), finest first -> ``embed``: (N, D, h, w) -> ``logits``: (N, classes, h', w').
    """

    def embed(self, features: Sequence[Tensor]) -> Tensor:
        """The map that the last classifier reads, before a dropout of its own."""
        raise NotImplementedError

    def logits(self, embedded: Tensor, features: Sequence[Tensor]) -> Tensor:
        """Logits of what ``embed`` gave for the same features."""
        raise NotImplementedError

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        return self.logits(self.embed(features), features)

    @property
    def bias(self) -> Tensor:
        """Float (classes,): what is added to it is added to every pixel's logits."""
        return self.get_parameter("classify.bias")


class LRASPP(Head):
    """Lite reduced ASPP (Howard et al., "Searching for MobileNetV3", ICCV 2019, Fig. 10).

    A gated projection of the last features plus a 1x1 classifier on stride-8 features.
    """

    def __init__(self, shape: FeatureInfo, channels: int, classes: int, dropout: float) -> None:
        super().__init__()
        # Where dilation brings the last features to stride 8, the detail still comes from an earlier stage.
        self.low = min(shape.at_most(8), len(shape.strides) - 2)
        self.project = nn.Sequential(
            nn.Conv2d(shape.channels[-1], channels, 1, bias=False), nn.BatchNorm2d(channels), nn.ReLU(inplace=True)
        )
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(shape.channels[-1], channels, 1, bias=False), nn.Sigmoid()
        )
        self.dropout = nn.Dropout2d(dropout)
        self.classify_low = nn.Conv2d(shape.channels[self.low], classes, 1)
        self.classify_high = nn.Conv2d(channels, classes, 1)

    @property
    def bias(self) -> Tensor:
        assert self.classify_low.bias is not None
        return self.classify_low.bias

    def embed(self, features: Sequence[Tensor]) -> Tensor:
        return self.project(features[-1]) * self.gate(features[-1])  # type: ignore[no-any-return]

    def logits(self, embedded: Tensor, features: Sequence[Tensor]) -> Tensor:
        low = features[self.low]
        # A 1x1 convolution and a bilinear resize commute: classify first, resize C instead of `channels` maps.
        return resized(self.classify_high(self.dropout(embedded)), low.shape[-2:]) + self.classify_low(low)  # type: ignore[no-any-return]


class DeepLabV3(Head):
    """ASPP on the last features (Chen et al., 2017), from segmentation-models-pytorch."""

    def __init__(self, shape: FeatureInfo, channels: int, classes: int, dropout: float) -> None:
        super().__init__()
        self.decoder = DeepLabV3Decoder(
            shape.channels[-1], channels, (12, 24, 36), aspp_separable=False, aspp_dropout=dropout
        )
        self.classify = nn.Conv2d(channels, classes, 1)

    def embed(self, features: Sequence[Tensor]) -> Tensor:
        return self.decoder(list(features))  # type: ignore[no-any-return]

    def logits(self, embedded: Tensor, features: Sequence[Tensor]) -> Tensor:
        return self.classify(embedded)  # type: ignore[no-any-return]


class DeepLabV3Plus(Head):
    """Separable ASPP joined with stride-4 features (Chen et al., ECCV 2018); modules from segmentation-models-pytorch.

    Its own forward multiplies sizes by four, which fails for frames such as 360x480; here the features decide the size.
    """

    def __init__(self, shape: FeatureInfo, channels: int, classes: int, dropout: float) -> None:
        super().__init__()
        self.low = shape.at_most(4)
        encoder_channels = [0, 0, shape.channels[self.low], 0, 0, shape.channels[-1]]
        self.decoder = DeepLabV3PlusDecoder(
            encoder_channels, 5, channels, (12, 24, 36), 16, aspp_separable=True, aspp_dropout=dropout
        )
        del self.decoder.up
        self.classify = nn.Conv2d(channels, classes, 1)

    def embed(self, features: Sequence[Tensor]) -> Tensor:
        low = self.decoder.block1(features[self.low])
        high = resized(self.decoder.aspp(features[-1]), low.shape[-2:])
        return self.decoder.block2(torch.cat((high, low), 1))  # type: ignore[no-any-return]

    def logits(self, embedded: Tensor, features: Sequence[Tensor]) -> Tensor:
        return self.classify(embedded)  # type: ignore[no-any-return]


class PSPNet(Head):
    """Pyramid pooling of the last features (Zhao et al., CVPR 2017), from segmentation-models-pytorch."""

    def __init__(self, shape: FeatureInfo, channels: int, classes: int, dropout: float) -> None:
        super().__init__()
        # Pooling to 1x1 leaves BatchNorm one value a channel: a batch of one crop couldn't train there, so that cell
        # goes without.
        self.decoder = PSPDecoder([shape.channels[-1]], out_channels=channels, dropout=dropout)
        self.classify = nn.Conv2d(channels, classes, 1)

    def embed(self, features: Sequence[Tensor]) -> Tensor:
        return self.decoder([features[-1]])  # type: ignore[no-any-return]

    def logits(self, embedded: Tensor, features: Sequence[Tensor]) -> Tensor:
        return self.classify(embedded)  # type: ignore[no-any-return]


class FCN(nn.Module):
    """Auxiliary classifier: 3x3 convolution and 1x1 classifier (Long et al., CVPR 2015)."""

    def __init__(self, in_channels: int, classes: int, dropout: float) -> None:
        super().__init__()
        width = max(32, in_channels // 4)
        self.layers = nn.Sequential(
            nn.Conv2d(in_channels, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Dropout2d(dropout),
            nn.Conv2d(width, classes, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)  # type: ignore[no-any-return]
