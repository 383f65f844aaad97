"""Decode heads that also read stride-4 features, for classes a few pixels wide. Each adds to LR-ASPP's logits, plain
classifiers of the encoder's own maps, so that a short schedule reaches rare classes. What ``LRASPPRefine`` and
``LRASPPFeaturePyramid`` add is zero at first, what ``LRASPPDetail`` adds is not: its second skip is a classifier like
LR-ASPP's own.

8 bits and small devices are slow at resizing wide maps: ``LRASPPDetail`` and ``LRASPPRefine`` resize logits only, the
pyramid two maps of its width, to strides 8 and 4.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rdd_deploy.models.heads import LRASPP, FeatureInfo
from rdd_deploy.outputs import resized


def separable(inside: int, outside: int) -> nn.Sequential:
    """3x3 depthwise and 1x1 convolution, each with BatchNorm and ReLU: (N, inside, h, w) -> (N, outside, h, w)."""
    return nn.Sequential(
        nn.Conv2d(inside, inside, 3, padding=1, groups=inside, bias=False), nn.BatchNorm2d(inside), nn.ReLU(inplace=True),
        nn.Conv2d(inside, outside, 1, bias=False), nn.BatchNorm2d(outside), nn.ReLU(inplace=True),
    )  # fmt: skip


def _from_zero(layer: nn.Conv2d) -> nn.Conv2d:
    """The classifier with weights of 0: at first the network is the one without it."""
    nn.init.zeros_(layer.weight)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer


class LRASPPDetail(LRASPP):
    """LR-ASPP with a second skip: a 1x1 classifier of the stride-4 features, added at stride 4."""

    def __init__(self, shape: FeatureInfo, channels: int, classes: int, dropout: float) -> None:
        super().__init__(shape, channels, classes, dropout)
        self.detail = shape.at_most(4)
        self.classify_detail = nn.Conv2d(shape.channels[self.detail], classes, 1)

    def logits(self, embedded: Tensor, features: Sequence[Tensor]) -> Tensor:
        detail = features[self.detail]
        return resized(super().logits(embedded, features), detail.shape[-2:]) + self.classify_detail(detail)  # type: ignore[no-any-return]


class LRASPPRefine(LRASPP):
    """LR-ASPP whose logits are refined at stride 4: two separable convolutions see them beside the stride-4 features.

    Args:
        width: of the refining layers.
    """

    def __init__(self, shape: FeatureInfo, channels: int, classes: int, dropout: float, width: int = 48) -> None:
        super().__init__(shape, channels, classes, dropout)
        self.detail = shape.at_most(4)
        self.refine = nn.Sequential(separable(shape.channels[self.detail] + classes, width), separable(width, width))
        self.classify_detail = _from_zero(nn.Conv2d(width, classes, 1))

    @property
    def bias(self) -> Tensor:
        """Of the last classifier: LR-ASPP's own bias is read by the refining layers, too."""
        assert self.classify_detail.bias is not None
        return self.classify_detail.bias

    def logits(self, embedded: Tensor, features: Sequence[Tensor]) -> Tensor:
        detail = features[self.detail]
        coarse = resized(super().logits(embedded, features), detail.shape[-2:])
        return coarse + self.classify_detail(self.refine(torch.cat((detail, coarse), 1)))  # type: ignore[no-any-return]


class LRASPPFeaturePyramid(LRASPP):
    """LR-ASPP with a light feature pyramid beside it (Lin et al., CVPR 2017): projections of the maps at strides 16, 8
    and 4 are added up from the coarsest on, with a separable convolution after each sum; the classifier of the finest
    one is added to LR-ASPP's.

    Args:
        width: of the pyramid.
    """

    def __init__(self, shape: FeatureInfo, channels: int, classes: int, dropout: float, width: int = 48) -> None:
        super().__init__(shape, channels, classes, dropout)
        self.detail = shape.at_most(4)
        self.top = nn.Conv2d(channels, width, 1)
        self.lateral_low = nn.Conv2d(shape.channels[self.low], width, 1)
        self.lateral_detail = nn.Conv2d(shape.channels[self.detail], width, 1)
        self.smooth_low, self.smooth_detail = separable(width, width), separable(width, width)
        self.classify_detail = _from_zero(nn.Conv2d(width, classes, 1))

    def logits(self, embedded: Tensor, features: Sequence[Tensor]) -> Tensor:
        low, detail = features[self.low], features[self.detail]
        x = self.smooth_low(resized(self.top(embedded), low.shape[-2:]) + self.lateral_low(low))
        x = self.smooth_detail(resized(x, detail.shape[-2:]) + self.lateral_detail(detail))
        return resized(super().logits(embedded, features), detail.shape[-2:]) + self.classify_detail(x)  # type: ignore[no-any-return]
