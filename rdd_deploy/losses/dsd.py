"""Double similarity distillation (Feng, Sun, Diao, Li, Gao, "Double Similarity Distillation for Semantic Image
Segmentation", IEEE Transactions on Image Processing 30, 2021, pp. 5363-5376)."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rdd_deploy.losses import Void
from rdd_deploy.losses.checks import above_zero, count, void_rule
from rdd_deploy.losses.kd import masked_mean
from rdd_deploy.losses.maps import MapPair, map_pair, mean_pooled, same_classes, unit
from rdd_deploy.losses.relations import gram_distance
from rdd_deploy.outputs import Output, resized

LEAST = 1e-5
"""Distance of two maps of attention, both of unit length, up to which they are the same."""


class PixelSimilarity(nn.Module):
    """How attention moves from one map to a later one: Σ over pixels of the squared distance of the networks' residuals
    of attention.

    Of the maps ``auxiliary``, ``head`` and ``logits``, in this order: q_i = Σ_d f_id², brought to the size of the
    student's ``logits``, Q = q of unit length over an image's pixels; for each pair k < l of them R = Q_l − Q_k of unit
    length; the loss is Σ_i (R_s − R_t)², mean over images and pairs. Every valid pixel of the ``logits``' size counts,
    whatever its number; images without any don't.

    Args:
        void: ``skip``: void pixels have no attention, also where a map of another stride is resized. ``keep``: they
            have.
        student_channels, teacher_channels: map -> width; ``auxiliary`` is read where both have it.

    Shape: maps float (N, D, h, w), any widths and strides; target int (N, H, W) -> float32 scalar; 0 with a zero
    gradient where all is void. Without an auxiliary head one pair is left, that of ``head`` and ``logits``.

    Raises:
        ValueError: a map is missing, or ``void`` is neither of both.
    """

    needs: frozenset[str] = frozenset({"head", "logits"})
    wants: ClassVar[frozenset[str]] = frozenset({"auxiliary"})

    def __init__(
        self,
        void: Void = "skip",
        *,
        student_channels: Mapping[str, int] | None = None,
        teacher_channels: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__()
        self.void = void_rule(void)
        self.needs |= self.wants & set(student_channels or ()) & set(teacher_channels or ())

    def forward(self, student: Output, teacher: Output, target: Tensor) -> Tensor:
        names = [
            name
            for name in ("auxiliary", "head", "logits")
            if name in self.needs or name in {*student.features} & {*teacher.features}
        ]
        with torch.autocast(target.device.type, enabled=False):
            pairs = [map_pair(student, teacher, name, target, self.void) for name in names]
            attention = [
                (_attention(one.student, one, pairs[-1]), _attention(one.teacher, one, pairs[-1])) for one in pairs
            ]
            distance = torch.zeros(len(target), device=target.device)  # (N,)
            steps = list(itertools.combinations(attention, 2))
            for (own, other), (own_later, other_later) in steps:
                distance = distance + (_residual(own, own_later) - _residual(other, other_later)).square().sum(1)
            return masked_mean(distance / len(steps), pairs[-1].valid.flatten(1).any(1))


def _attention(features: Tensor, pair: MapPair, at: MapPair) -> Tensor:
    """Σ_d f² of unit length over the pixels of ``at``'s size, (N, P); where the strides differ it is interpolated among
    valid pixels.
    """
    energy = features.square().sum(1, keepdim=True)  # (N, 1, h, w), 0 on void
    size = tuple(at.valid.shape[-2:])
    if tuple(energy.shape[-2:]) != size:
        share = resized(pair.valid[:, None].float(), size)
        energy = torch.where(at.valid[:, None] & (share > 0), resized(energy, size) / share.clamp(min=1e-6), 0)
    return unit(energy.flatten(1), 1)


def _residual(earlier: Tensor, later: Tensor) -> Tensor:
    """How two maps of attention (N, P) differ, of unit length; 0 without gradient where that is no more than rounding
    makes of equal ones.
    """
    difference = later - earlier
    differs = difference.detach().norm(dim=1, keepdim=True) > LEAST
    return unit(torch.where(differs, difference, 0), 1)


class CategorySimilarity(nn.Module):
    """How alike the classes' maps are: G = φ φᵀ (C×C) with the rows φ_c over an image's pixels; ⟨(G_s − G_t)²⟩ over
    entries and images.

    Args:
        form: ``paper``: φ is the softmax over the classes at each pixel, then each row is scaled to unit length.
            ``benchmark``, as the methods' public comparison has it: φ_c is the softmax of class c over the pixels, and
            G about 1 / pixels.
        temperature: T > 0 of the softmax.
        window: logits are mean-pooled by it first; None: 1 (not at all) for ``paper``, 2 for ``benchmark``.
        void: ``skip``: void pixels are no part of a row, and images without others don't count. ``keep``: they are.

    Shape: ``logits`` maps float (N, C, h, w), the same C; target int (N, H, W) -> float32 scalar; 0 with a zero
    gradient where all is void.

    Raises:
        ValueError: the networks have different numbers of classes, the map is missing, or an option is none of those
            above.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"logits"})

    def __init__(
        self,
        form: Literal["paper", "benchmark"] = "paper",
        temperature: float = 4.0,
        window: int | None = None,
        void: Void = "skip",
    ) -> None:
        super().__init__()
        if form not in ("paper", "benchmark"):
            raise ValueError(f"form is {form!r}; expected 'paper' or 'benchmark'")
        self.form, self.temperature, self.void = form, above_zero("temperature", temperature), void_rule(void)
        self.window = {"paper": 1, "benchmark": 2}[form] if window is None else count("window", window)

    def forward(self, student: Output, teacher: Output, target: Tensor) -> Tensor:
        pair = same_classes(map_pair(student, teacher, "logits", target, self.void), "dsd_category")
        with torch.autocast(target.device.type, enabled=False):
            own, valid = mean_pooled(pair.student, pair.valid, self.window)
            other, _ = mean_pooled(pair.teacher, pair.valid, self.window)
            valid = valid.flatten(1)  # (N, P)
            distance = gram_distance(self._rows(own, valid), self._rows(other, valid))  # (N,)
            return masked_mean(distance / own.shape[1] ** 2, valid.any(1))

    def _rows(self, logits: Tensor, valid: Tensor) -> Tensor:
        """φ, (N, C, P)."""
        scaled, kept = logits.flatten(2) / self.temperature, valid[:, None]
        if self.form == "paper":
            return unit(torch.where(kept, scaled.softmax(1), 0), 2)
        # An image of void pixels alone keeps all of them: the softmax of nothing is NaN, and what it says doesn't
        # count.
        kept = kept | ~valid.any(1)[:, None, None]
        return F.softmax(scaled.masked_fill(~kept, -torch.inf), 2)
