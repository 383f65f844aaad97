"""Relative Difficulty Distillation: per-pixel weights of the task loss from the teacher's and the student's difficulty.

Liang, Sun, Du, Chen, Huang, "Relative Difficulty Distillation for Semantic Segmentation", Science China Information
Sciences 67(9):192105, 2024, https://arxiv.org/abs/2407.03719.

Everything is computed in float32, also under autocast, and no step sorts all pixels. Under several processes counts,
means and ranks are those of the whole batch, so every process has to call these functions, in the same order.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rdd_deploy.data.base import IGNORE
from rdd_deploy.losses.fused import blocks, pixel_terms, true_log_probability
from rdd_deploy.losses.kd import void_inert
from rdd_deploy.losses.processes import mean_count, safe
from rdd_deploy.losses.ranks import hard_pixels, hardest_of_each, ohem_pixels

Rule = Literal["xor", "and", "or", "lead", "student"]
Divergence = Literal["main_aux", "aux_main"]


def teacher_full_evaluated(
    primary_logits: Tensor, auxiliary_logits: Tensor, *, divergence: Divergence = "main_aux"
) -> Tensor:
    """Stage 1 (TFE): exp(−KL(main ‖ aux)) of the teacher's two classifiers (paper, Eq. 6-7).

    Args:
        primary_logits: float (N, C, H, W), the teacher's stage-5 classifier.
        auxiliary_logits: float (N, C, H, W), its stage-4 classifier.
        divergence: ``main_aux``, the paper's direction, or ``aux_main``.

    Returns:
        float32 weight (N, H, W) in (0, 1]; 1 where the two agree (easy).
    """
    first, second = (
        (primary_logits, auxiliary_logits) if divergence == "main_aux" else (auxiliary_logits, primary_logits)
    )
    with torch.no_grad(), torch.autocast(primary_logits.device.type, enabled=False):
        weight = primary_logits.new_empty(primary_logits[:, 0].shape, dtype=torch.float32)
        for part in blocks(primary_logits):
            log_p, log_q = F.log_softmax(first[part].float(), 1), F.log_softmax(second[part].float(), 1)
            kl = (log_p.exp() * (log_p - log_q)).sum(1)  # (n, h, W)
            # The weight lies in (0, 1]: rounding can take KL a hair below 0, and exp underflows to 0 beyond 87.
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
    min_kept_per_class: float = 0,
    ignore_index: int = IGNORE,
) -> Tensor:
    """Stage 2 (TSE): the pixels that one network finds hard and the other doesn't (paper, Eq. 9).

    A pixel is hard for a network where the probability of its true class is at most that network's threshold: the
    larger of ``threshold`` and the min_kept-th smallest true-class probability of the batch (as in OHEM).

    Args:
        student_logits, teacher_logits: float (N, C, H, W), at the target's size.
        target: int (N, H, W), class ids and ``ignore_index``.
        threshold: t in (0, 1).
        min_kept: least number of hard pixels per network: a share of the batch's pixels (float, 0 to 1) or a count
            (int); the batch is that of all processes together.
        rule: ``xor``, the paper's formula; ``and``, ``or``; ``lead``: hard for the student and not for the teacher,
            what the paper's text describes; ``student``: hard for the student, whatever the teacher says (OHEM).
        min_kept_per_class: of each class that is there, so many of the pixels that are hardest for the student count
            whatever the rule says: a share of the class's pixels (float, 0 to 1) or a count (int).

    Returns:
        bool mask (N, H, W); False on void pixels, and everywhere where no pixel qualifies.

    Raises:
        ValueError: sizes differ, or the rule or min_kept isn't one of those above.
    """
    pixels = (len(student_logits), *student_logits.shape[-2:])
    if student_logits.shape != teacher_logits.shape or pixels != tuple(target.shape):
        raise ValueError(
            f"student logits {tuple(student_logits.shape)}, teacher logits {tuple(teacher_logits.shape)} and target"
            f" {tuple(target.shape)} must be (N, C, H, W), (N, C, H, W) and (N, H, W) of one size; resize the logits to"
            " the target first"
        )
    with torch.no_grad(), torch.autocast(student_logits.device.type, enabled=False):
        valid = target != ignore_index
        index = torch.where(valid, target, 0).long()[:, None]
        student = _true_probability(student_logits, index)
        hard = [hard_pixels(student, valid, threshold, min_kept)]
        if rule != "student":
            hard.append(hard_pixels(_true_probability(teacher_logits, index), valid, threshold, min_kept))
        mask = _combined(hard[0], hard[-1], rule)
        if min_kept_per_class:
            mask = mask | hardest_of_each(student, valid, target, student_logits.shape[1], min_kept_per_class)
        return mask


def _true_probability(logits: Tensor, index: Tensor) -> Tensor:
    """softmax(logits) at the index's class, float32 (N, H, W); by log-softmax, which is exact where logits are large."""
    probability = logits.new_empty(index[:, 0].shape, dtype=torch.float32)
    for part in blocks(logits):
        maps = part[0], part[2]
        probability[maps] = F.log_softmax(logits[part].float(), 1).gather(1, index[:, 0][maps][:, None])[:, 0].exp()
    return probability


def _combined(hard_s: Tensor, hard_t: Tensor, rule: Rule) -> Tensor:
    """The rule on bool maps (N, H, W): what is hard for the student, and for the teacher."""
    if rule == "student":
        return hard_s
    if rule == "xor":
        return hard_s ^ hard_t
    if rule == "and":
        return hard_s & hard_t
    if rule == "or":
        return hard_s | hard_t
    if rule == "lead":
        return hard_s & ~hard_t
    raise ValueError(f"rule is {rule!r}; expected 'xor', 'and', 'or', 'lead' or 'student'")


class DistillationTerms(NamedTuple):
    """The named terms of the loss and what the pictures show."""

    total: Tensor
    """Scalar with gradient: weighted task + λ · KD (+ ce_weight · plain CE)."""
    terms: dict[str, Tensor]
    """Detached scalars by name: ``task`` (weighted), ``kd``, ``ce`` (plain, as the student alone would have it), ``kept`` (share)."""
    weight: Tensor
    """float32 (N, H, W) in [0, 1], the weight of each pixel's task loss, without that of its class."""
    parts: dict[str, Tensor]
    """Weighted scalars with gradient that add up to ``total``: ``task`` (with the auxiliary head's), ``kd`` and ``ce`` where they have a weight."""


class _WeightedMean(NamedTuple):
    """share · Σ factor · loss / divisor; a divisor of 0 gives 0."""

    weight: Tensor
    """float (N, H, W) in [0, 1], 0 on void."""
    factor: Tensor
    """The weight times that of the pixel's class."""
    divisor: Tensor
    share: float

    def mean(self, loss: Tensor) -> Tensor:
        """The scalar for per-pixel losses (N, H, W) that are finite everywhere."""
        return self.share * (self.factor * loss).sum() / safe(self.divisor)


class _Pixels(NamedTuple):
    """What every task loss of a batch weighs its pixels by."""

    valid: Tensor
    """bool (N, H, W)"""
    number: Tensor
    """Valid pixels, as ``mean_count``."""
    agreement: Tensor | None
    """Stage 1: float (N, H, W), how much the teacher's classifiers agree; None where the stage isn't on."""
    hard_t: Tensor | None
    """Stage 2: bool (N, H, W), hard for the teacher; None where the stage isn't on or the rule doesn't ask."""
    class_weight: Tensor | None
    """float (N, H, W), the weight of the pixel's class, 0 on void; None where all classes weigh the same."""
    target: Tensor
    """int (N, H, W)"""
    classes: int


class RelativeDifficultyLoss(nn.Module):
    """weight ⊙ L_task + λ · L_kd with the weight of the current stage; all terms come from one pass over the logits.

    Stage 1 (TFE) weighs with ``teacher_full_evaluated`` and averages over valid pixels (Eq. 8); stage 2 (TSE) averages
    over the pixels that ``teacher_student_evaluated`` keeps. An auxiliary head of the student has stage 1's weights,
    too, but in stage 2 a mask of its own: its probabilities against the teacher's main ones.

    ``transition='linear'`` blends both losses after ``tfe_fraction`` p instead of switching: stage 1 has the share (1 −
    progress) / (1 − p), stage 2 the rest.

    Args:
        tfe_fraction: share of the iterations in stage 1 alone, 0 to 1 (0: TSE only, 1: TFE only).
        transition: ``hard`` or ``linear``.
        divergence, threshold, min_kept, rule, min_kept_per_class: see the two functions.
        reduction: ``kept``: stage 2 is the mean over kept pixels (paper); ``all``: their sum over all valid pixels.
        class_weight: float (C,), in stage 2; None: all weigh the same (paper). Means divide by the weights' sum.
        balanced: ``class_weight`` holds in stage 1 and in plain KD's task loss, too.
        ohem: plain KD's task loss is OHEM's, with at least so many pixels of each class (``ohem_pixels``); None: plain.
        ce_weight: plain cross-entropy added beside (0: paper).
        kd_weight: λ. temperature: T of the KD term.
        weighted: False leaves the task loss plain: this is then ordinary KD.
        ignore_index: void label.

    Shape:
        - student, teacher, teacher_auxiliary: logits (N, C, H, W) at the target's size; target: int (N, H, W).
        - teacher_auxiliary may be None in stage 2, and where ``agreement``, float (N, H, W), is stage 1's ready weight.
        - taught: bool (N, H, W), the KD term's pixels where these aren't the target's own (frames without labels).
    """

    class_weight: Tensor | None

    def __init__(
        self,
        *,
        tfe_fraction: float = 0.1,
        transition: Literal["hard", "linear"] = "hard",
        divergence: Divergence = "main_aux",
        threshold: float = 0.7,
        min_kept: float = 0.05,
        rule: Rule = "xor",
        min_kept_per_class: float = 0,
        reduction: Literal["kept", "all"] = "kept",
        class_weight: Tensor | None = None,
        balanced: bool = False,
        ohem: float | None = None,
        ce_weight: float = 0.0,
        kd_weight: float = 1.0,
        temperature: float = 1.0,
        weighted: bool = True,
        ignore_index: int = IGNORE,
    ) -> None:
        super().__init__()
        self.tfe_fraction, self.transition, self.divergence = tfe_fraction, transition, divergence
        self.threshold, self.min_kept, self.rule, self.reduction = threshold, min_kept, rule, reduction
        self.min_kept_per_class = min_kept_per_class
        self.ce_weight, self.kd_weight, self.temperature = ce_weight, kd_weight, temperature
        self.weighted, self.ignore_index, self.balanced, self.ohem = weighted, ignore_index, balanced, ohem
        self.register_buffer("class_weight", class_weight, persistent=False)  # counted again when resumed

    def stage(self, progress: float) -> str:
        """``tfe``, ``tse``, ``tfe+tse`` or ``kd`` at a progress in [0, 1)."""
        if not self.weighted:
            return "kd"
        if progress < self.tfe_fraction:
            return "tfe"
        return "tfe+tse" if self.transition == "linear" and self.tfe_fraction > 0 else "tse"

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
        taught: Tensor | None = None,
    ) -> DistillationTerms:
        with torch.autocast(student.device.type, enabled=False):
            valid = target != self.ignore_index
            pixel = pixel_terms(student.float(), teacher.detach().float(), target, valid, self.temperature, taught)
            stage = self.stage(progress)
            if "tfe" not in stage:
                agreement = None
            elif agreement is None:
                agreement = self._agreement(teacher, teacher_auxiliary)
            pixels = self._pixels(stage, target, valid, agreement, pixel.teacher_true, student.shape[1])
            task, weight = self._task(pixel.ce, pixels, progress)
            number = pixels.number if taught is None else mean_count(taught.sum())
            kd = self.temperature**2 * (pixel.kl.sum() / safe(number))
            plain = pixel.ce.sum() / safe(pixels.number)
            terms = {"task": task, "kd": kd, "ce": plain, "kept": weight.sum() / safe(pixels.number)}
            if student_auxiliary is not None:
                log_p = F.log_softmax(void_inert(student_auxiliary, valid).float(), 1)
                second, _ = self._task(-true_log_probability(log_p, target, self.ignore_index), pixels, progress)
                task = task + auxiliary_weight * second
            weighted = {"kd": (self.kd_weight, kd), "ce": (self.ce_weight, plain)}
            parts = {"task": task} | {name: factor * value for name, (factor, value) in weighted.items() if factor}
            total = sum(parts.values(), torch.zeros_like(task))
            return DistillationTerms(total, {name: value.detach() for name, value in terms.items()}, weight, parts)

    def _agreement(self, teacher: Tensor, auxiliary: Tensor | None) -> Tensor:
        """Stage 1's weight (N, H, W)."""
        if auxiliary is None:
            raise ValueError(
                "stage 1 (TFE) weighs by the teacher's auxiliary classifier, but this teacher has none; use"
                " tfe_fraction=0"
            )
        return teacher_full_evaluated(teacher, auxiliary, divergence=self.divergence)

    def _pixels(
        self, stage: str, target: Tensor, valid: Tensor, agreement: Tensor | None, teacher_true: Tensor, classes: int
    ) -> _Pixels:
        hard_t = class_weight = None
        if "tse" in stage and self.rule != "student":
            hard_t = hard_pixels(teacher_true, valid, self.threshold, self.min_kept)
        if self.class_weight is not None and ("tse" in stage or self.balanced):
            class_weight = torch.where(valid, self.class_weight[torch.where(valid, target, 0).long()], 0)
        return _Pixels(valid, mean_count(valid.sum()), agreement, hard_t, class_weight, target, classes)

    def _task(self, ce: Tensor, pixels: _Pixels, progress: float) -> tuple[Tensor, Tensor]:
        """The weighted mean of a head's cross-entropy (N, H, W), and the pixels' weights (N, H, W)."""
        parts = self._parts(ce.detach(), pixels, progress)
        task = sum((part.mean(ce) for part in parts), ce.new_zeros(()))
        return task, sum((part.share * part.weight for part in parts), torch.zeros_like(ce.detach()))

    def _parts(self, ce: Tensor, pixels: _Pixels, progress: float) -> list[_WeightedMean]:
        """The weighted means that make up the task loss at this progress: one, or two while stages are blended."""
        valid, stage = pixels.valid, self.stage(progress)
        everywhere = pixels.class_weight if self.balanced else None
        divisor = pixels.number if everywhere is None else mean_count(everywhere.sum())
        if stage == "kd":
            kept, count = valid, divisor
            if self.ohem is not None:
                kept = ohem_pixels((-ce).exp(), valid, pixels.target, pixels.classes, self.ohem)
                count = mean_count(kept.sum())
            return [_WeightedMean(kept.float(), kept.float() if everywhere is None else everywhere, count, 1.0)]
        first = (1 - progress) / (1 - self.tfe_fraction) if stage == "tfe+tse" else 1.0
        parts = []
        if pixels.agreement is not None:
            weight = torch.where(valid, pixels.agreement, 0)
            parts.append(_WeightedMean(weight, weight if everywhere is None else weight * everywhere, divisor, first))
        if "tse" in stage:
            true = (-ce).exp()
            hard_s = hard_pixels(true, valid, self.threshold, self.min_kept)
            mask = _combined(hard_s, hard_s if pixels.hard_t is None else pixels.hard_t, self.rule)
            if self.min_kept_per_class:
                mask = mask | hardest_of_each(true, valid, pixels.target, pixels.classes, self.min_kept_per_class)
            weight = factor = mask.float()
            divisor = mean_count(mask.sum()) if self.reduction == "kept" else pixels.number
            if pixels.class_weight is not None:
                factor = weight * pixels.class_weight
                divisor = mean_count((factor if self.reduction == "kept" else pixels.class_weight).sum())
            parts.append(_WeightedMean(weight, factor, divisor, 1 - first if stage == "tfe+tse" else 1.0))
        return parts
