"""Distil a student by a recipe: the paper's algorithm from data to a finished run folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import nn

from rdd_deploy import console
from rdd_deploy.data.base import Frame
from rdd_deploy.data.loader import Batch
from rdd_deploy.errors import RecipeError
from rdd_deploy.losses.rdd import RelativeDifficultyLoss
from rdd_deploy.losses.region import region_loss
from rdd_deploy.models.build import build
from rdd_deploy.models.segmenter import Segmenter
from rdd_deploy.models.teachers.base import TeacherModel
from rdd_deploy.preprocess import resize_frame
from rdd_deploy.recipe import StudentRecipe
from rdd_deploy.training import session, visualize
from rdd_deploy.training.data import TrainingData, share_without_labels
from rdd_deploy.training.fabric import make_fabric, precision_of, seed_everything
from rdd_deploy.training.loggers import check_installed
from rdd_deploy.training.loop import fit
from rdd_deploy.training.objective import (
    DistillationObjective,
    channels_read,
    extra_losses,
    maps_of,
    rdd_loss,
    tell_sizes,
)
from rdd_deploy.training.peers import ending_together, launch
from rdd_deploy.training.pseudo_labels import Confidence, PseudoLabels, check_names, thresholds_of
from rdd_deploy.training.run_folder import RunFolder
from rdd_deploy.training.session import as_launched, check_early, metadata_of, open_run, sizes, summary
from rdd_deploy.training.state import Method
from rdd_deploy.training.teacher import (
    NamedTeacher,
    Teacher,
    is_usable,
    load_teacher,
    named_teachers,
    open_teacher,
    teacher_checkpoint,
    with_cache,
)
from rdd_deploy.training.teacher_cache import CachedTeacher
from rdd_deploy.training.teacher_measuring import measure_teacher, warn_below_baseline
from rdd_deploy.utils import launchers
from rdd_deploy.utils.places import RUNS


@ending_together()
def distill_recipe(
    recipe: StudentRecipe,
    source: Path,
    runs: Path = RUNS,
    resume: bool = False,
    name: str | None = None,
    data: TrainingData | None = None,
) -> RunFolder:
    """Distil ``recipe.student`` from ``recipe.teacher``.

    Args:
        source: the recipe's file; its teacher recipe is looked for beside it.
        runs: folder of runs. name: of this run; default: the recipe's.
        data: already opened and checked.

    Returns:
        The finished run's folder.
    """
    recipe = as_launched(recipe)
    named = _networks(recipe, source, runs)
    _check_apart(runs / (name or recipe.name), named)
    check_early(recipe, RunFolder(runs / (name or recipe.name)), resume)
    run = RunFolder(runs / (name or recipe.name))
    fabric, data, student, weights_source, loss, losses, teacher, measured = _prepared(recipe, named, run, resume, data)
    with open_run(recipe, name or recipe.name, runs, resume) as folder:
        console.info(
            f"distilling by {recipe.distillation.method} on {fabric.device} in {precision_of(fabric)} -> {folder.path}"
        )
        tell_sizes(losses)
        pseudo, told = _pseudo_labels(recipe, teacher, data, fabric.device)
        region = (region_loss(recipe.train.region_loss), recipe.train.region_weight)
        objective = DistillationObjective(loss, teacher.outputs, losses, recipe.train.auxiliary_weight, pseudo, *region)
        beside = teacher.outputs.read if isinstance(teacher.outputs, CachedTeacher) else None
        method = Method(
            objective,
            loss.stage,
            _visualizer(recipe, loss, teacher, data, pseudo),
            beside,
            share_without_labels(recipe),
        )
        metadata = metadata_of(recipe, data, weights_source) | {"teacher_sha256": teacher.sha256}
        result = fit(
            recipe, student, data.frames, data.validation, method, folder, folder.student, metadata, fabric, resume
        )
        if fabric.is_global_zero:
            folder.finish(
                summary(recipe, data, student, result | {"teacher": measured} | told, "distill", weights_source)
            )
    return folder


@ending_together()
def fill_cache(recipe: StudentRecipe, source: Path, runs: Path = RUNS) -> None:
    """Only what comes before the training of a student: frames looked at, the teacher trained where it isn't there, its
    cache filled.

    Any number of processes may do that for one recipe at a time, on machines with a common file system; they share the
    work.

    Raises:
        RecipeError: the recipe's teacher has no cache.
    """
    recipe = as_launched(recipe)
    named = _networks(recipe, source, runs)
    if recipe.teacher is None or not recipe.teacher.cache:
        raise RecipeError("--cache-only fills the teacher's cache, but teacher.cache is false: set teacher.cache=true")
    # The run's folder isn't looked at: a student may be trained there meanwhile.
    launchers.check(recipe.train.devices, recipe.train.nodes)
    _prepared(recipe, named, RunFolder(runs / recipe.name), False, None)


class _Prepared(NamedTuple):
    """All that a distillation needs before its run's folder is opened."""

    fabric: Fabric
    data: TrainingData
    student: Segmenter
    weights_source: str
    loss: RelativeDifficultyLoss
    losses: list[tuple[str, float, nn.Module]]
    teacher: Teacher
    measured: dict[str, Any]
    """Of the teacher."""


def _prepared(
    recipe: StudentRecipe, named: list[NamedTeacher], run: RunFolder, resume: bool, data: TrainingData | None
) -> _Prepared:
    runs = run.path.parent
    fabric = make_fabric(recipe.train)
    launch(fabric)
    data = data or TrainingData(recipe)
    check_names(recipe.distillation.unlabelled, data.validation.label_space.classes)
    seed_everything(recipe.train.seed)
    # Before the teacher: its training may take hours, and the student's weights may be missing.
    student, weights_source = build(recipe.student, data.validation.label_space.classes, "student", sizes(recipe))
    loss = rdd_loss(recipe.distillation, torch.from_numpy(data.train_facts.pixels), recipe.train)
    with torch.random.fork_rng():  # a teacher that is trained first doesn't change what the student draws
        _check_networks(recipe, student, named)
        named = [one._replace(checkpoint=teacher_checkpoint(recipe, one, runs, resume, data, fabric)) for one in named]
        teacher = open_teacher(recipe, named, data, fabric, runs)
    losses = extra_losses(recipe.distillation, student, teacher.model, fabric.device)
    # Before its cache, which may take days: a wrong class map or preprocessing shows here.
    measured = measure_teacher(recipe, teacher, data, fabric)
    warn_below_baseline(recipe, measured, run, data)
    teacher = with_cache(recipe, teacher, data, maps_of(losses), fabric)
    return _Prepared(fabric, data, student, weights_source, loss, losses, teacher, measured)


MEASURED_ON = 256
"""Frames without labels, evenly spread, on which it is measured how sure the teacher is of each class."""


def _pseudo_labels(
    recipe: StudentRecipe, teacher: Teacher, data: TrainingData, device: torch.device
) -> tuple[PseudoLabels | None, dict[str, Any]]:
    """What makes labels of the teacher's on frames without any, and what a run's summary says of it; None where no such
    frames join.
    """
    if data.unlabelled is None:
        return None, {}
    config, classes, first = recipe.distillation.unlabelled, data.validation.label_space.classes, data.frames.labelled
    confidence, size = Confidence(len(classes)), recipe.data.size
    chosen = sorted(set(np.linspace(0, len(data.unlabelled) - 1, MEASURED_ON).round().astype(int).tolist()))
    for index in chosen:
        frame = data.unlabelled.frame(index)
        image = torch.from_numpy(resize_frame(frame, size)).permute(2, 0, 1)[None].to(device)
        window = torch.tensor([[0, 0, *frame.shape[:2], 0]], device=device)
        batch = Batch(
            image,
            torch.zeros((1, *size), dtype=torch.int64, device=device),
            window,
            torch.tensor([first + index], device=device),
        )
        confidence.add(teacher.outputs(batch, False).primary)
    thresholds = thresholds_of(config, classes, confidence)
    by_name = {name: round(float(value), 4) for name, value in zip(classes, thresholds, strict=True)}
    share = confidence.share_above(thresholds)
    console.info(
        f"unlabelled: the teacher is sure from {', '.join(f'{name} {value:.2f}' for name, value in by_name.items())}"
        f" on; so {100 * share:.0f} % of these frames' pixels have its label"
    )
    assert data.left_out is not None
    told = {
        "frames": len(data.unlabelled),
        "left_out": asdict(data.left_out),
        "share": config.share,
        "thresholds": by_name,
        "sure": share,
    }
    return PseudoLabels(thresholds, first), {"unlabelled": told}


def _networks(recipe: StudentRecipe, source: Path, runs: Path) -> list[NamedTeacher]:
    """The networks of the recipe's teacher; those that are there were looked at."""
    if recipe.teacher is None:
        raise RecipeError(f"{source} names no teacher; distil needs one (train a lone network with rdd_deploy.train)")
    named = named_teachers(recipe, source, runs)
    for one in named:
        is_usable(one)
    return named


def _check_apart(folder: Path, named: Sequence[NamedTeacher]) -> None:
    """Raise RecipeError where the student's run would move its own teacher's aside."""
    for one in named:
        own = {one.checkpoint.parent} | ({folder.parent / one.recipe.name} if one.recipe is not None else set())
        if not one.from_hub and folder.resolve() in {path.resolve() for path in own}:
            raise RecipeError(
                f"the student and its teacher would both be {folder}; give the student another name with --name, or"
                " name: in its recipe"
            )


def _check_networks(recipe: StudentRecipe, student: Segmenter, named: Sequence[NamedTeacher]) -> None:
    """Raise RecipeError where the student, or a teacher that its recipe describes and that is to be trained yet, lacks
    a map that a loss reads.
    """
    channels_read(recipe.distillation, "student", student)
    first = named[0]  # whose maps an ensemble's are
    if recipe.distillation.losses and first.recipe is not None and not is_usable(first):
        extra_losses(recipe.distillation, student, Segmenter(first.recipe.network, student.classes))


def _visualizer(
    recipe: StudentRecipe,
    loss: RelativeDifficultyLoss,
    teacher: Teacher,
    data: TrainingData,
    pseudo: PseudoLabels | None,
) -> Callable[[Segmenter], Frame]:
    """Pictures of two validation frames: frame, truth, student, teacher, the weight of each pixel in both stages. Below
    them, where there is one, a frame without labels: the teacher's labels where it is sure in place of the truth."""
    split, size = data.validation, recipe.data.size
    indices = (0, len(split) // 2)

    def draw(student: Segmenter) -> Frame:
        rows = [
            visualize.distillation_row(split, index, size, student, teacher.model, teacher.views, loss)
            for index in indices
        ]
        if data.unlabelled is not None:
            rows.append(
                visualize.distillation_row(
                    data.unlabelled, 0, size, student, teacher.model, teacher.views, loss, pseudo
                )
            )
        return visualize.grid(rows, split.label_space)

    return draw


def dry_run(recipe: StudentRecipe, source: Path, folder: RunFolder, resume: bool) -> None:
    def check_teacher(data: TrainingData | None, student: Segmenter | None) -> None:
        if student:
            channels_read(recipe.distillation, "student", student)
        if data:
            check_names(recipe.distillation.unlabelled, data.validation.label_space.classes)
        named = named_teachers(recipe, source, folder.path.parent)
        _check_apart(folder.path, named)
        teacher: TeacherModel | None = None
        if all(map(is_usable, named)):
            teacher = load_teacher(recipe, [one.checkpoint for one in named], data, tell=True).model if data else None
        for one in named:
            if one.recipe is not None and not is_usable(one):
                check_installed(one.recipe.train.loggers)
                classes = data.validation.label_space.classes if data else ("", "")
                made, _ = build(one.recipe.network, classes, "teacher, to be trained first", sizes(one.recipe))
                teacher = teacher or made
        if student and teacher and recipe.distillation.losses:
            tell_sizes(extra_losses(recipe.distillation, student, teacher))

    session.dry_run(recipe, folder, resume, check_teacher)
