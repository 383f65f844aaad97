"""What a teacher says of each pixel in a few bytes.

Log-probabilities are kept as distances d from the likeliest class's, as whole numbers round(most · √(d / RANGE)):
probable classes are told finely, improbable ones coarsely. Which class is the likeliest stays exactly as it was. The
likeliest one's own log-probability needs no room, since all probabilities add up to 1.
"""

from __future__ import annotations

import math
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

RANGE = 16.0
"""Largest distance of two log-probabilities that is told: exp(-16) is 1e-7."""
_NEAR = 1e-5
"""What the second likeliest class is put below the likeliest, where they are alike: which one is the likeliest stays as it was."""


class Form(Protocol):
    """How values (N, D, h, w) are kept in a file: as planes (N, planes, h, w).

    Attributes:
        dtype: of the file. windows: whether a crop reads its own part of a frame only; else the whole frame.
    """

    dtype: type[Any]
    windows: bool

    def encoded(self, values: Tensor) -> Tensor:
        """What is kept of values. Raises ValueError for values that can't be."""
        ...

    def decoded(self, planes: Tensor) -> Tensor:
        """The values of planes."""
        ...


class EveryClass:
    """All classes' log-probabilities, in ``bits`` each: 0 is the likeliest, all above are distances. For few classes.

    Shape: logits (N, classes, h, w) <-> uint8 (N, planes, h, w), float32 log-probabilities.
    """

    dtype: type[Any] = np.uint8
    windows = True

    def __init__(self, classes: int, bits: int) -> None:
        self.classes, self.bits, self.planes = classes, bits, math.ceil(bits * classes / 8)
        self.most = 2**bits - 1

    def encoded(self, values: Tensor) -> Tensor:
        log_p = _log_probabilities(values)
        at = values.argmax(1, keepdim=True)  # not of log_p, whose rounding makes nearly even classes even
        best = log_p.gather(1, at)
        codes = _coded(best - log_p, self.most).clamp_(min=1).scatter_(1, at, 0).to(torch.uint8)
        planes = codes.new_zeros(len(codes), self.planes, *codes.shape[2:])
        for index in range(self.classes):  # bit by bit, each class behind the one before
            plane, shift = divmod(self.bits * index, 8)
            planes[:, plane] |= codes[:, index] << shift
            if shift > 8 - self.bits:
                planes[:, plane + 1] |= codes[:, index] >> (8 - shift)
        return planes

    def decoded(self, planes: Tensor) -> Tensor:
        codes = planes.new_empty(len(planes), self.classes, *planes.shape[2:])
        for index in range(self.classes):  # faster than all at once: shifts by tensors aren't vectorised
            plane, shift = divmod(self.bits * index, 8)
            code = planes[:, plane] >> shift
            if shift > 8 - self.bits:
                code |= planes[:, plane + 1] << (8 - shift)
            torch.bitwise_and(code, self.most, out=codes[:, index])
        return F.log_softmax(codes.float().square_().mul_(-RANGE / self.most**2), 1)


class Likeliest:
    """The ``kept`` likeliest classes and their log-probabilities, and the mean of all others', which are taken for
    equal. For many classes.

    Planes: indices of the kept classes, the likeliest first; distances of the second to the last of them; that of the
    others' mean probability. Shapes as ``EveryClass``.
    """

    dtype: type[Any] = np.uint8
    windows = True

    def __init__(self, classes: int, kept: int) -> None:
        self.classes, self.kept, self.planes = classes, min(classes, kept), 2 * min(classes, kept)

    def encoded(self, values: Tensor) -> Tensor:
        log_p = _log_probabilities(values)
        indices = values.topk(self.kept, 1).indices  # sorted
        best = log_p.gather(1, indices)
        others = log_p.scatter(1, indices, -torch.inf).logsumexp(1, keepdim=True) - math.log(
            max(1, self.classes - self.kept)
        )
        codes = _coded(best[:, :1] - torch.cat((best[:, 1:], others), 1), 255)
        return torch.cat((indices.to(torch.uint8), codes.to(torch.uint8)), 1)

    def decoded(self, planes: Tensor) -> Tensor:
        indices, codes = planes[:, : self.kept], planes[:, self.kept :]
        below = codes.float().square_().mul_(-RANGE / 255**2).sub_(_NEAR)
        total = below.exp()
        total[:, -1] *= self.classes - self.kept
        log_total = total.sum(1, keepdim=True).log1p_()
        result: Tensor = (below[:, -1:] - log_total).expand(-1, self.classes, -1, -1).contiguous()
        kept = torch.cat((torch.zeros_like(log_total), below[:, :-1]), 1).sub_(log_total)
        return result.scatter_(1, indices.long(), kept)


def compact_form(classes: int) -> EveryClass | Likeliest:
    """The form for a number of classes: all of up to 32, in at most 20 bytes a pixel; the 12 likeliest of more, in 24.

    At the same number of bytes, all classes in 5 bits are nearer to the truth than the likeliest of them in 8 bits and
    their indices.
    """
    if classes <= 32:
        return EveryClass(classes, 8 if classes <= 8 else 5)
    return Likeliest(classes, 12)


def _log_probabilities(logits: Tensor) -> Tensor:
    log_p = F.log_softmax(logits.float(), 1)
    if log_p.isnan().any():
        raise ValueError("they hold NaN or infinity")
    return log_p


def _coded(distances: Tensor, most: int) -> Tensor:
    """Distances >= 0 as whole numbers from 0 to ``most``."""
    return (distances / RANGE).clamp_(0, 1).sqrt_().mul_(most).round_()


class Weights:
    """A weight in (0, 1] in one byte; never 0."""

    dtype: type[Any] = np.uint8
    windows = True

    def encoded(self, values: Tensor) -> Tensor:
        return (255 * values).round().clamp(1, 255).to(torch.uint8)

    def decoded(self, planes: Tensor) -> Tensor:
        return planes.float() / 255


class Halves:
    """float16, as they are."""

    dtype: type[Any] = np.float16
    windows = False

    def encoded(self, values: Tensor) -> Tensor:
        return values.clamp(-60000, 60000).half()

    def decoded(self, planes: Tensor) -> Tensor:
        return planes
