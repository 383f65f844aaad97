"""Supervised training: a teacher, or the student alone as the baseline that distillation must beat."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from rdd_deploy import console
from rdd_deploy.data.base import Frame
from rdd_deploy.data.loader import Batch
from rdd_deploy.drawing import coloured
from rdd_deploy.losses.region import region_loss
from rdd_deploy.losses.task import TaskLoss, class_weights
from rdd_deploy.models.build import build
from rdd_deploy.models.predict import torch_predictor
from rdd_deploy.models.segmenter import Segmenter
from rdd_deploy.outputs import Output
from rdd_deploy.preprocess import resize_frame, resize_labels
from rdd_deploy.recipe import Recipe, TeacherRecipe
from rdd_deploy.recipe_train import Train
from rdd_deploy.training import visualize
from rdd_deploy.training.data import TrainingData
from rdd_deploy.training.fabric import make_fabric, precision_of, seed_everything
from rdd_deploy.training.loop import fit
from rdd_deploy.training.peers import ending_together, launch
from rdd_deploy.training.run_folder import RunFolder
from rdd_deploy.training.session import as_launched, check_early, metadata_of, open_run, sizes, summary
from rdd_deploy.training.state import Loss, Method, Objective
from rdd_deploy.utils.places import RUNS


@ending_together()
def train_recipe(
    recipe: Recipe, runs: Path = RUNS, resume: bool = False, name: str | None = None, data: TrainingData | None = None
) -> RunFolder:
    """Train a recipe's network (a teacher recipe) or its student alone.

    Args:
        name: of the run; default: the recipe's, with ``_alone`` for a student, so that it doesn't take the distilled
            run's place.
        data: already opened and checked.

    Returns:
        The finished run's folder.
    """
    recipe = as_launched(recipe)
    is_teacher = isinstance(recipe, TeacherRecipe)
    role = "teacher" if is_teacher else "student"
    folder = folder_of(recipe, runs, name)
    check_early(recipe, folder, resume)
    fabric = make_fabric(recipe.train)
    launch(fabric)
    seed_everything(recipe.train.seed)
    if recipe.data.unlabelled:
        console.info(
            "data.unlabelled isn't used: without a teacher there is nothing to learn from frames without labels"
        )
    data = data or TrainingData(recipe, "leave")
    segmenter, source = build(recipe.trained, data.validation.label_space.classes, role, sizes(recipe))
    with open_run(recipe, folder.path.name, runs, resume) as folder:
        console.info(f"training {role} alone on {fabric.device} in {precision_of(fabric)} -> {folder.path}")
        objective = SupervisedObjective(recipe.train, torch.from_numpy(data.train_facts.pixels))
        method = Method(objective, lambda _: "train", _visualizer(recipe, data))
        metadata = metadata_of(recipe, data, source)
        weights = folder.teacher if is_teacher else folder.student
        result = fit(recipe, segmenter, data.frames, data.validation, method, folder, weights, metadata, fabric, resume)
        if fabric.is_global_zero:
            folder.finish(summary(recipe, data, segmenter, result, "train", source))
    return folder


def folder_of(recipe: Recipe, runs: Path, name: str | None) -> RunFolder:
    return RunFolder(runs / (name or (recipe.name if isinstance(recipe, TeacherRecipe) else f"{recipe.name}_alone")))


class SupervisedObjective(Objective):
    """The task loss of the network's output, and of its auxiliary head where it has one.

    Args:
        train: the recipe's section, for ``task_loss``, ``region_loss`` and ``auxiliary_weight``.
        pixels: int64 (C,), pixels of each class in the train split, for class weights.
    """

    def __init__(self, train: Train, pixels: Tensor) -> None:
        super().__init__()
        self.loss = TaskLoss(
            train.task_loss,
            class_weights(pixels) if train.task_loss == "balanced" else None,
            min_kept_per_class=train.min_kept_per_class,
        )
        self.auxiliary_weight = train.auxiliary_weight
        self.region, self.region_weight = region_loss(train.region_loss), train.region_weight

    def forward(self, output: Output, batch: Batch, progress: float) -> Loss:
        total = task = self.loss(output.primary, batch.labels)
        terms = {"task": task.detach()}
        if self.region is not None:
            region = self.region(output.primary, batch.labels)
            total, terms["region"] = total + self.region_weight * region, region.detach()
        if output.auxiliary is not None:
            auxiliary = self.loss(output.auxiliary, batch.labels)
            total, terms["auxiliary"] = total + self.auxiliary_weight * auxiliary, auxiliary.detach()
        return Loss(total, terms)


def _visualizer(recipe: Recipe, data: TrainingData) -> Callable[[Segmenter], Frame]:
    """Pictures of two validation frames: frame, truth, prediction."""
    split, size = data.validation, recipe.data.size

    def draw(network: Segmenter) -> Frame:
        predict = torch_predictor(network, size, next(network.parameters()).device)
        rows = []
        for index in (0, len(split) // 2):
            frame = split.frame(index)
            predicted = predict([frame])[0]
            labels = {"truth": split.labels(index), "prediction": predicted}
            cells = [
                visualize.Cell(title, coloured(resize_labels(one, size), split.label_space))
                for title, one in labels.items()
            ]
            rows.append([visualize.Cell("frame", resize_frame(frame, size)), *cells])
        return visualize.grid(rows, split.label_space)

    return draw
