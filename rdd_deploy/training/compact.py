"""What a teacher says of each pixel in a few bytes: its likeliest classes with their log-probabilities, and the mean of all others.

Planes of uint8, one value a pixel each:

- the indices of the ``kept`` likeliest classes, the likeliest first; two to a plane where 4 bits hold them;
- log-probabilities of the second to the last of them, as distances from the likeliest one's;
- that of the mean probability of all other classes, likewise: what is left is spread evenly over them.

The likeliest one's own follows, since all of them add up to 1. A distance d becomes round(255 · √(d / RANGE)): probable classes are told
finely, improbable ones coarsely.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

RANGE = 25.0
"""Largest distance of two log-probabilities that is told: exp(-25) is 1e-11."""
_UNIT = RANGE / 255**2


def kept_classes(classes: int) -> int:
    """How many of a pixel's classes are kept by default: a number of them at which what is left over matters little."""
    return min(classes, 4 if classes <= 16 else 6 if classes <= 64 else 12)


class Compact(NamedTuple):
    """Log-probabilities of ``classes`` classes as planes of uint8 that hold the ``kept`` likeliest."""

    classes: int
    kept: int

    @property
    def _packed(self) -> bool:
        return self.classes <= 16

    @property
    def planes(self) -> int:
        """Bytes a pixel."""
        return self.kept + (math.ceil(self.kept / 2) if self._packed else self.kept)

    def encoded(self, logits: Tensor) -> Tensor:
        """uint8 (N, planes, h, w) of float logits (N, C, h, w).

        Raises:
            ValueError: logits of which no probabilities follow: NaN, or positive infinity.
        """
        log_p = F.log_softmax(logits.float(), 1)
        if log_p.isnan().any():
            raise ValueError("they hold NaN or infinity")
        values, indices = log_p.topk(self.kept, 1)  # sorted
        others = log_p.scatter(1, indices, -torch.inf).logsumexp(1, keepdim=True) - math.log(max(1, self.classes - self.kept))
        distances = values[:, :1] - torch.cat((values[:, 1:], others), 1)
        codes = (255 * (distances / RANGE).clamp(0, 1).sqrt()).round().to(torch.uint8)
        indices = indices.to(torch.uint8)
        if self._packed:
            indices = F.pad(indices, (0, 0, 0, 0, 0, self.kept % 2))
            indices = indices[:, ::2] | indices[:, 1::2] << 4
        return torch.cat((indices, codes), 1)

    def decoded(self, planes: Tensor) -> Tensor:
        """float32 log-probabilities (N, C, h, w), of which those beyond the kept classes are equal, of uint8 (N, planes, h, w)."""
        indices, codes = planes[:, : -self.kept], planes[:, -self.kept :]
        if self._packed:
            indices = torch.stack((indices & 15, indices >> 4), 2).flatten(1, 2)[:, : self.kept]
        # A little below the likeliest class, also where the distance was rounded to 0: which one that is stays as it was.
        below = codes.float().square_().add_(0.125).mul_(-_UNIT)
        total = below.exp()
        total[:, -1] *= self.classes - self.kept
        log_total = total.sum(1, keepdim=True).log1p_()
        result: Tensor = (below[:, -1:] - log_total).expand(-1, self.classes, -1, -1).contiguous()
        kept = torch.cat((torch.zeros_like(log_total), below[:, :-1]), 1).sub_(log_total)
        return result.scatter_(1, indices.long(), kept)


def encoded_weight(weight: Tensor) -> Tensor:
    """uint8 of weights in (0, 1]; never 0, since a weight isn't."""
    return (255 * weight).round().clamp(1, 255).to(torch.uint8)


def decoded_weight(codes: Tensor) -> Tensor:
    """float32 weights in (0, 1]."""
    return codes.float() / 255
