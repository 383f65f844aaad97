"""What a distillation minimises: RDD's weighted loss with its KD term, and the losses beside it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from contextlib import suppress
from inspect import signature
from typing import Any

import torch
from torch import nn

from rdd_deploy import console
from rdd_deploy.data.loader import Batch
from rdd_deploy.errors import RecipeError
from rdd_deploy.losses import LOSSES
from rdd_deploy.losses.config import Distillation
from rdd_deploy.losses.rdd import RelativeDifficultyLoss
from rdd_deploy.losses.region import RegionLoss
from rdd_deploy.losses.task import class_weights
from rdd_deploy.models.build import map_channels
from rdd_deploy.models.segmenter import Segmenter
from rdd_deploy.models.teachers.base import TeacherModel
from rdd_deploy.outputs import Output
from rdd_deploy.recipe_train import Train
from rdd_deploy.training.pseudo_labels import PseudoLabels
from rdd_deploy.training.state import Loss, Objective
from rdd_deploy.training.teacher import TeacherOutput


def rdd_loss(
    config: Distillation, pixels: torch.Tensor | None = None, train: Train | None = None
) -> RelativeDifficultyLoss:
    """The recipe's RDD loss.

    Args:
        pixels: int64 (C,), of each class in the train split, for class weights. train: for ``task_loss``.
    """
    task_loss, tse = "ce" if train is None else train.task_loss, config.tse
    weighs = "balanced" in (task_loss, tse.class_weights)
    return RelativeDifficultyLoss(
        class_weight=class_weights(pixels) if weighs and pixels is not None else None, balanced=task_loss == "balanced",
        ohem=train.min_kept_per_class if train is not None and task_loss == "ohem" else None,
        tfe_fraction=config.tfe_fraction, transition=config.transition, divergence=config.tfe.divergence, threshold=tse.threshold,
        min_kept=tse.min_kept, min_kept_per_class=tse.min_kept_per_class, rule=tse.rule, reduction=tse.reduction,
        ce_weight=config.ce_weight, kd_weight=config.kd_weight, temperature=config.temperature, weighted=config.method == "rdd",
    )  # fmt: skip


BUILT_IN = ("task", "kd", "ce", "kept", "sure", "region")
"""Names of RDD's own terms in the log."""


class DistillationObjective(Objective):
    """RDD's weighted task loss with its KD term, and the losses beside it.

    Args:
        loss: weights and KD. teacher: says what the teacher does of a batch.
        losses: (name in the log, weight, loss of the table ``LOSSES``).
        auxiliary_weight: of the student's auxiliary head.
        pseudo: makes labels for frames without any; None where no such frames join.
        region, region_weight: a loss of whole regions beside them; None: there is none.
    """

    def __init__(
        self, loss: RelativeDifficultyLoss, teacher: TeacherOutput, losses: Sequence[tuple[str, float, nn.Module]], auxiliary_weight: float,
        pseudo: PseudoLabels | None = None, region: RegionLoss | None = None, region_weight: float = 1.0,
    ) -> None:  # fmt: skip
        super().__init__()
        self.region, self.region_weight = region, region_weight
        self.loss, self.teacher, self.auxiliary_weight, self.pseudo = loss, teacher, auxiliary_weight, pseudo
        self.names = [(name, weight) for name, weight, _ in losses]
        self.losses = nn.ModuleList(one for _, _, one in losses)
        self.maps = maps_of(losses)

    def forward(self, output: Output, batch: Batch, progress: float) -> Loss:
        sizes = {name: (one.shape[-2], one.shape[-1]) for name, one in output.features.items()}
        teacher_out = self.teacher(batch, "tfe" in self.loss.stage(progress), sizes)
        pasted = getattr(batch, "pasted", None)
        mask = None if pasted is None else pasted.mask
        targets = None if self.pseudo is None else self.pseudo(batch.labels, batch.indices, teacher_out.primary, mask)
        result = self.loss(
            output.primary, teacher_out.primary, teacher_out.auxiliary, batch.labels if targets is None else targets.task, progress,
            output.auxiliary, self.auxiliary_weight, teacher_out.agreement, None if targets is None else targets.taught,
        )  # fmt: skip
        total, terms, parts = result.total, dict(result.terms), dict(result.parts)
        if self.region is not None:
            region = self.region(output.primary, batch.labels if targets is None else targets.task)
            terms["region"], parts["region"] = region.detach(), self.region_weight * region
            total = total + parts["region"]
        said = Output(teacher_out.primary, teacher_out.auxiliary, teacher_out.features)
        for (name, weight), loss in zip(self.names, self.losses, strict=True):
            value = loss(output, said, batch.labels if targets is None else targets.everywhere)
            terms[name], parts[name] = value.detach(), weight * value
            total = total + parts[name]
        if targets is not None:
            terms["sure"] = targets.sure
        return Loss(total, terms, parts)


def extra_losses(
    config: Distillation, student: Segmenter, teacher: TeacherModel, device: torch.device | str = "cpu"
) -> list[tuple[str, float, nn.Module]]:
    """The recipe's losses beside RDD's own: (name in the log, weight, module). The student is on the CPU, the teacher
    on ``device``.

    Raises:
        RecipeError: one reads a map that the student or the teacher doesn't have.
    """
    kinds = [LOSSES[extra.name].load() for extra in config.losses]
    known: dict[str, Any] = {
        "classes": student.classes,
        "device": device,
        "student_channels": channels_read(config, "student", student),
        "teacher_channels": channels_read(config, "teacher", teacher, device),
    }
    made = []
    for name, extra, kind in zip(_columns([extra.name for extra in config.losses]), config.losses, kinds, strict=True):
        wanted = {key: value for key, value in known.items() if key in signature(kind).parameters}
        made.append((name, extra.weight, kind(**extra.options, **wanted)))
    return made


def tell_sizes(losses: Sequence[tuple[str, float, nn.Module]]) -> None:
    """Tell what a loss holds in memory beside the networks, where it is worth a line."""
    for name, _, loss in losses:
        if (size := sum(buffer.nbytes for buffer in loss.buffers())) >= 1e5:
            console.info(
                f"distillation.losses: {name} keeps {size / 1e6:.1f} MB in memory, and in the state that is saved"
            )


def maps_of(losses: Sequence[tuple[str, float, nn.Module]]) -> frozenset[str]:
    """The maps that losses read of both networks."""
    return frozenset(name for _, _, one in losses for name in one.needs)  # type: ignore[union-attr]


def channels_read(
    config: Distillation, role: str, network: TeacherModel, device: torch.device | str = "cpu"
) -> dict[str, int]:
    """Width of each map that the recipe's losses read, or would where both networks have it; RecipeError where the
    network lacks one.
    """
    kinds = [LOSSES[extra.name].load() for extra in config.losses]
    try:
        widths = map_channels(network, {name for kind in kinds for name in kind.needs}, device)
    except ValueError as error:
        raise RecipeError(f"distillation.losses: of the {role}, {error}; leave out the loss that reads it") from error
    for name in sorted({name for kind in kinds for name in getattr(kind, "wants", ())} - set(widths)):
        with suppress(ValueError):  # it has no such map, and the loss does without
            widths |= map_channels(network, {name}, device)
    return widths


def _columns(names: list[str]) -> list[str]:
    """A name in the log for each extra loss: its own, unless a built-in term or one before it has that already."""
    columns: list[str] = []
    for name in names:
        candidates = itertools.chain(
            (name, f"extra_{name}"), (f"extra_{name}_{number}" for number in itertools.count(2))
        )
        columns.append(next(one for one in candidates if one not in (*BUILT_IN, *columns)))
    return columns
