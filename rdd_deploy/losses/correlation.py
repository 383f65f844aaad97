"""Pearson's correlation of two networks' maps, over the channels of each pixel or over all pixels of the batch."""

from __future__ import annotations

import torch
from torch import Tensor

from rdd_deploy.losses.processes import safe, total

NOISE = 1e-6
"""Deviations up to this share of the values themselves are float32's rounding: what varies no more is constant."""


def channel_correlation(own: Tensor, other: Tensor, epsilon: float = 0.0) -> Tensor:
    """ρ of each pixel over the channels of ``own`` and ``other`` (N, C, h, w): (N, h, w); see ``_ratio``."""
    a, b = (values - values.mean(1, keepdim=True) for values in (own, other))
    squares = [values.square().sum(1) for values in (a, b, own, other)]
    return _ratio((a * b).sum(1), squares[0], squares[1], squares[2], squares[3], epsilon)


def batch_correlation(own: Tensor, other: Tensor, valid: Tensor, epsilon: float = 0.0) -> Tensor:
    """ρ of each channel over the batch's valid pixels, those of all processes; see ``_ratio``.

    Args:
        own: float32 (N, C, h, w), with gradient, which goes through means and deviations. other: likewise, without.
        valid: bool (N, h, w).

    Returns:
        (C,), alike in all processes.
    """
    kept = valid[:, None]
    own, other = torch.where(kept, own, 0), torch.where(kept, other, 0)
    with torch.no_grad():  # through the means there is no gradient: the deviations from them add up to 0
        counts = valid.sum().float().expand(own.shape[1])
        sums = total(torch.stack([own.sum((0, 2, 3)), other.sum((0, 2, 3)), counts]))
        pixels = sums[2]
        means = sums[:2] / safe(pixels)  # (2, C)
    a, b = (
        torch.where(kept, values - mean[:, None, None], 0) for values, mean in zip((own, other), means, strict=True)
    )
    product, own_square, other_square = total(
        torch.stack([(x * y).sum((0, 2, 3)) for x, y in ((a, b), (a, a), (b, b))])
    )
    sizes = pixels * means.square()
    return _ratio(product, own_square, other_square, sizes[0] + own_square, sizes[1] + other_square, epsilon)


def _ratio(product: Tensor, own: Tensor, other: Tensor, own_size: Tensor, other_size: Tensor, epsilon: float) -> Tensor:
    """Σab / (√Σa² · √Σb² + ε); 0 without gradient where one of the two is constant.

    Args:
        product, own, other: Σab, Σa², Σb² of the deviations from the mean.
        own_size, other_size: sums of the squared values themselves.
    """
    constant = (own <= NOISE**2 * own_size) | (other <= NOISE**2 * other_size)
    # The root of 0 has an infinite gradient.
    own, other = (torch.where(constant, 1, squares).sqrt() for squares in (own, other))
    return torch.where(constant, 0, product / (own * other + epsilon))
