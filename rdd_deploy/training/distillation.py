"""Distil a student by a recipe: the paper's algorithm from data to a finished run folder."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import torch

from rdd_deploy import console
from rdd_deploy.data.loader import Batch
from rdd_deploy.errors import RecipeError
from rdd_deploy.losses import LOSSES
from rdd_deploy.losses.config import Distillation
from rdd_deploy.losses.rdd import RelativeDifficultyLoss
from rdd_deploy.models.build import build
from rdd_deploy.models.segmenter import Output, Segmenter
from rdd_deploy.recipe import Recipe
from rdd_deploy.training import session, visualize
from rdd_deploy.training.data import TrainingData
from rdd_deploy.training.fabric import make_fabric, seed_everything
from rdd_deploy.training.loop import fit
from rdd_deploy.training.run_folder import RUNS, RunFolder
from rdd_deploy.training.session import check_early, metadata_of, open_run, sizes, summary
from rdd_deploy.training.state import Loss, Method
from rdd_deploy.training.teacher import (
    NamedTeacher,
    Teacher,
    _load_teacher,
    _measure_teacher,
    _named_teacher,
    _teacher,
    _teacher_checkpoint,
    _usable,
)


def distill_recipe(
    recipe: Recipe, source: Path, runs: Path = RUNS, resume: bool = False, name: str | None = None, data: TrainingData | None = None
) -> RunFolder:
    """Distil ``recipe.student`` from ``recipe.teacher``.

    Args:
        source: the recipe's file; its teacher recipe is looked for beside it.
        runs: folder of runs. name: of this run; default: the recipe's.
        data: already opened and checked.

    Returns:
        The finished run's folder.
    """
    loss, named = _checked(recipe, source, RunFolder(runs / (name or recipe.name)), resume)
    assert recipe.student is not None
    fabric = make_fabric(recipe.train)
    fabric.launch()
    data = data or TrainingData(recipe)
    seed_everything(recipe.train.seed)
    # Before the teacher: its training may take hours, and the student's weights may be missing.
    student, weights_source = build(recipe.student, len(data.validation.label_space), "student", sizes(recipe))
    with torch.random.fork_rng():  # a teacher that is trained first doesn't change what the student draws
        checkpoint = _teacher_checkpoint(recipe, named, runs, resume, data, fabric)
        teacher = _teacher(recipe, named._replace(checkpoint=checkpoint), data, fabric)
    with open_run(recipe, name or recipe.name, runs, resume) as folder:
        console.info(f"distilling by {recipe.distillation.method} on {fabric.device} in {fabric._precision.precision} -> {folder.path}")
        measured = _measure_teacher(recipe, teacher, data, fabric)
        method = Method(_objective(recipe, loss, teacher), loss.stage, _painter(recipe, loss, teacher, data))
        metadata = metadata_of(recipe, data, weights_source) | {"teacher_sha256": teacher.sha256}
        result = fit(recipe, student, data.frames, data.validation, method, folder, folder.student, metadata, fabric, resume)
        if fabric.is_global_zero:
            folder.finish(summary(recipe, data, student, result | {"teacher": measured}, "distill", weights_source))
    return folder


def _checked(recipe: Recipe, source: Path, folder: RunFolder, resume: bool) -> tuple[RelativeDifficultyLoss, NamedTeacher]:
    """The recipe's loss and teacher, after everything of it was checked that needs neither data nor weights."""
    if recipe.student is None or recipe.teacher is None:
        raise RecipeError(
            f"{source} names no {'student' if recipe.student is None else 'teacher'}; distil needs both (train a lone network with rdd_deploy.train)"
        )
    loss = _loss(recipe.distillation)
    check_early(recipe, folder, resume)
    named = _named_teacher(recipe, source, folder.path.parent)
    _usable(named)
    return loss, named


def _loss(config: Distillation) -> RelativeDifficultyLoss:
    full, relative = config.teacher_full, config.teacher_student
    return RelativeDifficultyLoss(
        stage_share=config.stage_share, hand_over=config.hand_over, divergence=full.divergence, threshold=relative.threshold,
        min_kept=relative.min_kept, rule=relative.rule, reduction=relative.reduction, task_weight=config.task_weight,
        kd_weight=config.kd_weight, temperature=config.temperature, weighted=config.method == "rdd",
    )  # fmt: skip


def _objective(recipe: Recipe, loss: RelativeDifficultyLoss, teacher: Teacher) -> Any:
    losses = recipe.distillation.losses
    names = _columns([extra.name for extra in losses])
    extras = [(name, extra.weight, LOSSES[extra.name].load()(**extra.options)) for name, extra in zip(names, losses, strict=True)]
    auxiliary_weight = recipe.train.auxiliary_weight

    def objective(output: Output, batch: Batch, progress: float) -> Loss:
        taught = teacher.outputs(batch, "tfe" in loss.stage(progress))
        result = loss(output.primary, taught.primary, taught.auxiliary, batch.labels, progress, output.auxiliary, auxiliary_weight)
        total, terms = result.total, dict(result.terms)
        for name, weight, extra in extras:
            value = extra(output.primary, taught.primary, batch.labels)
            total, terms[name] = total + weight * value, value.detach()
        return Loss(total, terms)

    return objective


def _columns(names: list[str]) -> list[str]:
    """A name in the log for each extra loss: its own, unless the built-in KD term or one before it has that already."""
    columns: list[str] = []
    for name in names:
        candidates = itertools.chain((name, f"extra_{name}"), (f"extra_{name}_{number}" for number in itertools.count(2)))
        columns.append(next(one for one in candidates if one not in ("kd", *columns)))
    return columns


def _painter(recipe: Recipe, loss: RelativeDifficultyLoss, teacher: Teacher, data: TrainingData) -> Any:
    """Pictures of two validation frames: frame, truth, student, teacher, the weight of each pixel in both stages."""
    split, size = data.validation, recipe.data.size
    indices = (0, len(split) // 2)

    def paint(path: Path, student: Segmenter) -> None:
        rows = [visualize.distillation_row(split, index, size, student, teacher.segmenter, teacher.views, loss) for index in indices]
        visualize.write_rows(path, rows, size)

    return paint


def dry_run(recipe: Recipe, source: Path, folder: RunFolder, resume: bool) -> None:
    def check_teacher(data: TrainingData | None) -> None:
        named = _named_teacher(recipe, source, folder.path.parent)
        assert recipe.teacher is not None
        if _usable(named):
            if data:
                _load_teacher(recipe, named.checkpoint, data)
        elif named.recipe is not None and named.recipe.network is not None:
            build(
                named.recipe.network, len(data.validation.label_space) if data else 2, "teacher, to be trained first", sizes(named.recipe)
            )

    session.dry_run(recipe, folder, resume, check_teacher)
