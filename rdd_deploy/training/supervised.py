"""Supervised training: a teacher, or the student alone as the baseline that distillation must beat."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from rdd_deploy import console
from rdd_deploy.data.loader import Batch
from rdd_deploy.drawing import coloured
from rdd_deploy.losses.task import TaskLoss, class_weights
from rdd_deploy.models.build import build
from rdd_deploy.models.predict import torch_predictor
from rdd_deploy.models.segmenter import Output, Segmenter
from rdd_deploy.recipe import Recipe
from rdd_deploy.training import visualize
from rdd_deploy.training.data import TrainingData
from rdd_deploy.training.fabric import make_fabric, seed_everything
from rdd_deploy.training.loop import fit
from rdd_deploy.training.run_folder import RUNS, RunFolder
from rdd_deploy.training.session import check_early, metadata_of, open_run, sizes, summary
from rdd_deploy.training.state import Loss, Method


def train_recipe(
    recipe: Recipe, runs: Path = RUNS, resume: bool = False, name: str | None = None, data: TrainingData | None = None
) -> RunFolder:
    """Train a recipe's network (a teacher recipe) or its student alone.

    Args:
        name: of the run; default: the recipe's, with ``_alone`` for a student, so that it doesn't take the distilled run's place.
        data: already opened and checked.

    Returns:
        The finished run's folder.
    """
    network = recipe.network or recipe.student
    assert network is not None
    role = "teacher" if recipe.network else "student"
    folder = folder_of(recipe, runs, name)
    check_early(recipe, folder, resume)
    fabric = make_fabric(recipe.train)
    fabric.launch()
    seed_everything(recipe.train.seed)
    data = data or TrainingData(recipe)
    segmenter, source = build(network, len(data.validation.label_space), role, sizes(recipe))
    with open_run(recipe, folder.path.name, runs, resume) as folder:
        console.info(f"training {role} alone on {fabric.device} in {fabric._precision.precision} -> {folder.path}")
        method = Method(_objective(recipe, data), lambda _: "train", _painter(recipe, data))
        metadata = metadata_of(recipe, data, source)
        weights = folder.teacher if recipe.network else folder.student
        result = fit(recipe, segmenter, data.frames, data.validation, method, folder, weights, metadata, fabric, resume)
        if fabric.is_global_zero:
            folder.finish(summary(recipe, data, segmenter, result, "train", source))
    return folder


def folder_of(recipe: Recipe, runs: Path, name: str | None) -> RunFolder:
    return RunFolder(runs / (name or (recipe.name if recipe.network else f"{recipe.name}_alone")))


def _objective(recipe: Recipe, data: TrainingData) -> Any:
    weight = class_weights(torch.from_numpy(data.train_facts.pixels)) if recipe.train.task_loss == "balanced" else None
    loss = TaskLoss(recipe.train.task_loss, weight)

    def objective(output: Output, batch: Batch, progress: float) -> Loss:
        task = loss.to(batch.labels.device)(output.primary, batch.labels)
        if output.auxiliary is None:
            return Loss(task, {"task": task.detach()})
        auxiliary = loss(output.auxiliary, batch.labels)
        return Loss(task + recipe.train.auxiliary_weight * auxiliary, {"task": task.detach(), "auxiliary": auxiliary.detach()})

    return objective


def _painter(recipe: Recipe, data: TrainingData) -> Any:
    def paint(path: Path, network: Segmenter) -> None:
        split, size = data.validation, recipe.data.size
        predict = torch_predictor(network, size, next(network.parameters()).device)
        rows = []
        for index in (0, len(split) // 2):
            frame = split.frame(index)
            predicted = predict([frame])[0]
            truth = split.labels(index)
            rows.append(
                [
                    ("frame", frame),
                    ("truth", coloured(truth, split.label_space)),
                    ("prediction", coloured(predicted, split.label_space)),
                ]
            )
        visualize.write_rows(path, rows, size)

    return paint
