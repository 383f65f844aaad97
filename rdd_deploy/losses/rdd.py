"""Relative Difficulty Distillation: per-pixel weights of the task loss from the teacher's and the student's difficulty.

Liang, Sun, Du, Chen, Huang, "Relative Difficulty Distillation for Semantic Segmentation", Science China Information Sciences
67(9):192105, 2024, https://arxiv.org/abs/2407.03719.

Everything is computed in float32, also under autocast, and no step sorts all pixels.
"""

from __future__ import annotations

import math
from numbers import Integral
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rdd_deploy.data.base import IGNORE
from rdd_deploy.losses.fused import blocks, pixel_terms
from rdd_deploy.losses.kd import masked_mean, void_inert

Rule = Literal["xor", "and", "or", "student"]
Divergence = Literal["main_aux", "aux_main"]


def teacher_full_evaluated(primary_logits: Tensor, auxiliary_logits: Tensor, *, divergence: Divergence = "main_aux") -> Tensor:
    """Stage 1 (TFE): exp(−KL(main ‖ aux)) of the teacher's two classifiers (paper, Eq. 6-7).

    Args:
        primary_logits: float (N, C, H, W), the teacher's stage-5 classifier.
        auxiliary_logits: float (N, C, H, W), its stage-4 classifier.
        divergence: ``main_aux``, the paper's direction, or ``aux_main``.

    Returns:
        float32 weight (N, H, W) in (0, 1]; 1 where the two agree (easy).
    """
    first, second = (primary_logits, auxiliary_logits) if divergence == "main_aux" else (auxiliary_logits, primary_logits)
    with torch.no_grad(), torch.autocast(primary_logits.device.type, enabled=False):
        weight = primary_logits.new_empty(primary_logits[:, 0].shape, dtype=torch.float32)
        for part in blocks(primary_logits):
            log_p, log_q = F.log_softmax(first[part].float(), 1), F.log_softmax(second[part].float(), 1)
            kl = (log_p.exp() * (log_p - log_q)).sum(1)  # (n, h, W)
            # Rounding can take KL a hair below 0, and exp underflows to 0 beyond 87; the weight is in (0, 1] by definition.
            weight[part[0], part[2]] = torch.exp(-kl.clamp(min=0, max=80))
        return weight


def teacher_student_evaluated(
    student_logits: Tensor,
    teacher_logits: Tensor,
    target: Tensor,
    *,
    threshold: float = 0.7,
    min_kept: float = 0.05,
    rule: Rule = "xor",
    ignore_index: int = IGNORE,
) -> Tensor:
    """Stage 2 (TSE): the pixels that one network finds hard and the other doesn't (paper, Eq. 9).

    A pixel is hard for a network where the probability of its true class is at most that network's threshold: the larger of
    ``threshold`` and the min_kept-th smallest true-class probability of the batch (as in OHEM).

    Args:
        student_logits: float (N, C, H, W), at the target's size.
        teacher_logits: float (N, C, H, W), at the target's size.
        target: int (N, H, W), class ids and ``ignore_index``.
        threshold: t in (0, 1).
        min_kept: least number of hard pixels per network: a share of the batch's pixels (float, 0 to 1) or a count (int).
        rule: ``xor``, the paper's; ``and``, ``or``; ``student``: hard for the student, whatever the teacher says (OHEM).

    Returns:
        bool mask (N, H, W); False on void pixels, and everywhere where no pixel qualifies.

    Raises:
        ValueError: sizes differ, or the rule or min_kept isn't one of those above.
    """
    if student_logits.shape != teacher_logits.shape or (len(student_logits), *student_logits.shape[-2:]) != tuple(target.shape):
        raise ValueError(
            f"student logits {tuple(student_logits.shape)}, teacher logits {tuple(teacher_logits.shape)} and target {tuple(target.shape)} "
            "must be (N, C, H, W), (N, C, H, W) and (N, H, W) of one size; resize the logits to the target first"
        )
    with torch.no_grad(), torch.autocast(student_logits.device.type, enabled=False):
        valid = target != ignore_index
        index = torch.where(valid, target, 0).long()[:, None]
        student, teacher = (_true_probability(logits, index) for logits in (student_logits, teacher_logits))
        return _relative(student, teacher, valid, threshold, min_kept, rule)


def _true_probability(logits: Tensor, index: Tensor) -> Tensor:
    """softmax(logits) at the index's class, float32 (N, H, W). By log-softmax, which stays exact where all logits are large."""
    probability = logits.new_empty(index[:, 0].shape, dtype=torch.float32)
    for part in blocks(logits):
        maps = part[0], part[2]
        probability[maps] = F.log_softmax(logits[part].float(), 1).gather(1, index[:, 0][maps][:, None])[:, 0].exp()
    return probability


def _relative(student: Tensor, teacher: Tensor, valid: Tensor, threshold: float, min_kept: float, rule: Rule) -> Tensor:
    """The rule on true-class probabilities (N, H, W)."""
    hard_s = hard_pixels(student, valid, threshold, min_kept)
    if rule == "student":
        return hard_s
    hard_t = hard_pixels(teacher, valid, threshold, min_kept)
    if rule == "xor":
        return hard_s ^ hard_t
    if rule == "and":
        return hard_s & hard_t
    if rule == "or":
        return hard_s | hard_t
    raise ValueError(f"rule is {rule!r}; expected 'xor', 'and', 'or' or 'student'")


def hard_pixels(probability: Tensor, valid: Tensor, threshold: float, min_kept: float) -> Tensor:
    """Valid pixels whose true-class probability is at most max(threshold, the min_kept-th smallest one).

    Args:
        probability: float (N, H, W) of the true class.
        valid: bool (N, H, W).
        threshold: t in (0, 1).
        min_kept: share of all pixels (float) or count (int).

    Returns:
        bool (N, H, W).
    """
    hard = (probability <= threshold) & valid
    count = kept_count(min_kept, valid.numel())
    if count == 0:
        return hard
    if probability.device.type == "cpu":  # no device to wait for: look whether the threshold suffices before selecting
        missing = count - int(hard.sum())
        if missing <= 0:
            return hard
        rest = probability[valid & ~hard]  # the pixels above the threshold, a plain vector
        if missing >= rest.numel():
            return valid.clone()
        return valid & (probability <= rest.kthvalue(missing).values)
    ranked = torch.where(valid, probability, torch.inf).flatten()
    smallest = ranked.topk(min(count, ranked.numel()), largest=False, sorted=False).values.max()
    return valid & (probability <= smallest.clamp(min=threshold))


def kept_count(min_kept: float, pixels: int) -> int:
    """The number of pixels that min_kept means: a float is a share of ``pixels``, rounded up; an int is a count.

    Raises:
        ValueError: negative, or a share above 1.
    """
    share = not isinstance(min_kept, Integral)  # NumPy's numbers too: int() would make a float32 share a count of 0
    if not min_kept >= 0 or (share and min_kept > 1):
        raise ValueError(f"min_kept is {min_kept}; expected a share from 0.0 to 1.0, or a whole number of pixels")
    return math.ceil(min_kept * pixels - 1e-6) if share else int(min_kept)


def true_log_probability(log_p: Tensor, target: Tensor, ignore_index: int = IGNORE) -> Tensor:
    """Log-probability (N, H, W) of each pixel's true class from (N, C, H, W); 0 on void pixels."""
    valid = target != ignore_index
    return torch.where(valid, log_p.gather(1, torch.where(valid, target, 0).long()[:, None])[:, 0], 0)


class DistillationTerms(NamedTuple):
    """The named terms of the loss and what the pictures show."""

    total: Tensor
    """Scalar with gradient: weighted task + λ · KD (+ ce_weight · plain CE)."""
    terms: dict[str, Tensor]
    """Detached scalars by name: ``task`` (weighted), ``kd``, ``ce`` (plain, as the student alone would have it), ``kept`` (share)."""
    weight: Tensor
    """float32 (N, H, W) in [0, 1], the weight of each pixel's task loss."""


class WeightedMean(NamedTuple):
    """share · Σ weight · loss / pixels; weight is float (N, H, W), 0 on void; no pixels give 0."""

    weight: Tensor
    pixels: Tensor
    share: float

    def mean(self, loss: Tensor) -> Tensor:
        """The scalar for per-pixel losses (N, H, W) that are finite everywhere."""
        return self.share * (self.weight * loss).sum() / self.pixels.clamp(min=1)


class RelativeDifficultyLoss(nn.Module):
    """weight ⊙ L_task + λ · L_kd with the weight of the current stage; all terms come from one pass over the logits.

    Stage 1 (TFE) weighs with ``teacher_full_evaluated`` and averages over valid pixels (Eq. 8); stage 2 (TSE) averages over the pixels
    that ``teacher_student_evaluated`` keeps. ``transition='linear'`` blends both losses by progress instead of switching.

    Args:
        tfe_fraction: share of the iterations in stage 1, 0 to 1 (0: TSE only, 1: TFE only).
        transition: ``hard`` or ``linear``.
        divergence, threshold, min_kept, rule: see the two functions.
        reduction: ``kept``: stage 2 is the mean over kept pixels (paper); ``all``: their sum over all valid pixels.
        ce_weight: plain cross-entropy added beside (0: paper).
        kd_weight: λ. temperature: T of the KD term.
        weighted: False leaves the task loss plain: this is then ordinary KD.
        ignore_index: void label.

    Shape:
        - student, teacher, teacher_auxiliary: logits (N, C, H, W) at the target's size; target: int (N, H, W).
        - teacher_auxiliary may be None in stage 2, and where ``agreement`` stands for it: the ready weight of stage 1, float (N, H, W).
    """

    def __init__(
        self,
        *,
        tfe_fraction: float = 0.1,
        transition: Literal["hard", "linear"] = "hard",
        divergence: Divergence = "main_aux",
        threshold: float = 0.7,
        min_kept: float = 0.05,
        rule: Rule = "xor",
        reduction: Literal["kept", "all"] = "kept",
        ce_weight: float = 0.0,
        kd_weight: float = 1.0,
        temperature: float = 1.0,
        weighted: bool = True,
        ignore_index: int = IGNORE,
    ) -> None:
        super().__init__()
        self.tfe_fraction, self.transition, self.divergence = tfe_fraction, transition, divergence
        self.threshold, self.min_kept, self.rule, self.reduction = threshold, min_kept, rule, reduction
        self.ce_weight, self.kd_weight, self.temperature = ce_weight, kd_weight, temperature
        self.weighted, self.ignore_index = weighted, ignore_index

    def stage(self, progress: float) -> str:
        """``tfe``, ``tse``, ``tfe+tse`` or ``kd`` at a progress in [0, 1)."""
        if not self.weighted:
            return "kd"
        if self.transition == "linear" and 0 < self.tfe_fraction < 1:
            return "tfe+tse"
        return "tfe" if progress < self.tfe_fraction else "tse"

    def forward(
        self,
        student: Tensor,
        teacher: Tensor,
        teacher_auxiliary: Tensor | None,
        target: Tensor,
        progress: float,
        student_auxiliary: Tensor | None = None,
        auxiliary_weight: float = 0.4,
        agreement: Tensor | None = None,
    ) -> DistillationTerms:
        with torch.autocast(student.device.type, enabled=False):
            valid = target != self.ignore_index
            pixel = pixel_terms(student.float(), teacher.detach().float(), target, valid, self.temperature)
            parts = self._parts(pixel.ce.detach(), pixel.teacher_true, teacher, teacher_auxiliary, valid, progress, agreement)
            task = sum((part.mean(pixel.ce) for part in parts), torch.zeros((), device=target.device))
            weight = sum((part.share * part.weight for part in parts), torch.zeros_like(pixel.teacher_true))
            kd = self.temperature**2 * masked_mean(pixel.kl, valid)
            plain = masked_mean(pixel.ce, valid)
            total = task + self.kd_weight * kd + self.ce_weight * plain
            if student_auxiliary is not None:  # the same weights, as the reference's students have it
                second = F.log_softmax(void_inert(student_auxiliary, valid).float(), 1)
                total = total + auxiliary_weight * sum(
                    part.mean(-true_log_probability(second, target, self.ignore_index)) for part in parts
                )
            kept = weight.sum() / valid.sum().clamp(min=1)
            terms = {"task": task.detach(), "kd": kd.detach(), "ce": plain.detach(), "kept": kept}
            return DistillationTerms(total, terms, weight)

    def _parts(
        self,
        ce: Tensor,
        teacher_true: Tensor,
        teacher: Tensor,
        auxiliary: Tensor | None,
        valid: Tensor,
        progress: float,
        agreement: Tensor | None,
    ) -> list[WeightedMean]:
        """The weighted means that make up the task loss at this progress: one, or two while stages are blended."""
        stage = self.stage(progress)
        pixels = valid.sum()
        if stage == "kd":
            return [WeightedMean(valid.float(), pixels, 1.0)]
        blends = stage == "tfe+tse"
        parts = []
        if "tfe" in stage:
            if agreement is None:
                if auxiliary is None:
                    raise ValueError(
                        "stage 1 (TFE) weighs by the teacher's auxiliary classifier, but this teacher has none; use tfe_fraction=0"
                    )
                agreement = teacher_full_evaluated(teacher, auxiliary, divergence=self.divergence)
            weight = torch.where(valid, agreement, 0)
            parts.append(WeightedMean(weight, pixels, 1 - progress if blends else 1.0))
        if "tse" in stage:
            mask = _relative((-ce).exp(), teacher_true, valid, self.threshold, self.min_kept, self.rule)
            parts.append(WeightedMean(mask.float(), mask.sum() if self.reduction == "kept" else pixels, progress if blends else 1.0))
        return parts
