"""What the losses on named maps share: both networks' maps at one size, void made inert, unit vectors, pools over valid
pixels.

A map has its own stride: the teacher's is resized to the student's, labels are taken at the centre of each of its
pixels.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from rdd_deploy.data.base import IGNORE
from rdd_deploy.losses import Void as Void
from rdd_deploy.outputs import Output, resized


class MapPair(NamedTuple):
    """One map of both networks, without autocast's precision; on void pixels both are 0 and get no gradient."""

    student: Tensor
    """float32 (N, D, h, w)"""
    teacher: Tensor
    """float32 (N, E, h, w), without gradient; E may differ from D."""
    labels: Tensor
    """int64 (N, h, w); void is ``IGNORE``."""
    valid: Tensor
    """bool (N, h, w): not void, and the teacher says something there"""


def map_pair(student: Output, teacher: Output, name: str, target: Tensor, void: Void = "skip") -> MapPair:
    """The map ``name`` of both networks at the size of the student's.

    Args:
        target: int (N, H, W) at the size of the crops.

    Raises:
        ValueError: one of them hands out no such map, or their batches differ.
    """
    for role, output in (("student", student), ("teacher", teacher)):
        if name not in output.features:
            raise ValueError(f"the {role}'s output has no map {name!r}; it has {', '.join(output.features) or 'none'}")
    own, other = student.features[name], teacher.features[name].detach()
    if not len(own) == len(other) == len(target):
        raise ValueError(f"batches differ: student {len(own)}, teacher {len(other)}, target {len(target)}")
    size = (own.shape[-2], own.shape[-1])
    labels = labels_at(target, size)
    with torch.autocast(own.device.type, enabled=False):
        if void == "keep":
            return MapPair(own.float(), resized(other.float(), size), labels, torch.ones_like(labels, dtype=torch.bool))
        other, known = _teacher_at(other.float(), target, size)
        valid = (labels != IGNORE) & known
        kept = valid[:, None]
        return MapPair(torch.where(kept, own.float(), 0), torch.where(kept, other, 0), labels, valid)


def same_classes(pair: MapPair, what: str) -> MapPair:
    """The pair as it is. Raises ValueError where the networks' maps have different numbers of channels."""
    if pair.student.shape[1] != pair.teacher.shape[1]:
        raise ValueError(
            f"{what} compares the networks class by class: the student has {pair.student.shape[1]}, the teacher"
            f" {pair.teacher.shape[1]}"
        )
    return pair


def labels_at(target: Tensor, size: tuple[int, int]) -> Tensor:
    """Labels (N, H, W) at ``size`` (height, width): those at the centre of each cell, int64."""
    rows, columns = (
        centres(given, wanted, target.device) for wanted, given in zip(size, target.shape[-2:], strict=True)
    )
    return target[:, rows][:, :, columns].long()


def centres(given: int, wanted: int, device: torch.device) -> Tensor:
    """Index (wanted,) of the pixel, of ``given`` in a row, at the centre of each of ``wanted`` cells; of two, the later
    one.
    """
    return (2 * torch.arange(wanted, device=device) + 1) * given // (2 * wanted)


def _teacher_at(other: Tensor, target: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """The teacher's map (N, E, h, w) at ``size``, and bool (N, *size), False where it is finite nowhere around."""
    if tuple(other.shape[-2:]) == size:
        return other, torch.ones((len(other), *size), dtype=torch.bool, device=other.device)
    # NaN on a void pixel would reach its neighbours: there, and only there, the others' values are interpolated among
    # themselves.
    broken = (labels_at(target, (other.shape[-2], other.shape[-1])) == IGNORE)[:, None] & ~other.isfinite().all(
        1, keepdim=True
    )
    small = resized(torch.where(broken, 0, other), size)
    share = resized((~broken).float(), size)
    return small / torch.where(share > 0, share, 1), share[:, 0] > 0


def unit(vectors: Tensor, dim: int) -> Tensor:
    """Vectors along ``dim`` scaled to length 1; a zero vector stays one and gets no gradient."""
    largest = vectors.detach().abs().amax(dim, keepdim=True)
    vectors = vectors / torch.where(largest > 0, largest, 1)  # or squares would overflow, or vanish
    square = vectors.square().sum(dim, keepdim=True)
    return vectors * torch.where(square > 0, torch.where(square > 0, square, 1).rsqrt(), 0)


def max_pooled(values: Tensor, valid: Tensor, window: int) -> tuple[Tensor, Tensor]:
    """Largest valid value of each window.

    Args:
        values: float (N, D, h, w). valid: bool (N, h, w).
        window: side in pixels; the last windows may be smaller (ceil).

    Returns:
        (N, D, h', w'), 0 where a window has no valid pixel, and bool (N, h', w'), whether it has one.
    """
    some = F.max_pool2d(valid[:, None].float(), window, ceil_mode=True)[:, 0] > 0
    largest = F.max_pool2d(values.masked_fill(~valid[:, None], -torch.inf), window, ceil_mode=True)
    return torch.where(some[:, None], largest, 0), some


def mean_pooled(values: Tensor, valid: Tensor, window: int) -> tuple[Tensor, Tensor]:
    """Mean valid value of each window; shapes as ``max_pooled``."""
    sums = F.avg_pool2d(torch.where(valid[:, None], values, 0), window, ceil_mode=True, count_include_pad=False)
    share = F.avg_pool2d(valid[:, None].float(), window, ceil_mode=True, count_include_pad=False)
    return sums / torch.where(share > 0, share, 1), share[:, 0] > 0


def pixel_log_softmax(values: Tensor, valid: Tensor) -> Tensor:
    """Log-softmax of each channel over the valid pixels of its image.

    Args:
        values: float (N, D, h, w), finite on void pixels. valid: bool (N, h, w).

    Returns:
        (N, D, h·w), 0 on void pixels, which get no gradient.
    """
    kept = valid.flatten(1)[:, None]
    # NaN of an image without valid pixels stays between the two masks, forward and backward.
    return torch.where(kept, F.log_softmax(values.flatten(2).masked_fill(~kept, -torch.inf), 2), 0)
