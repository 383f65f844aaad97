"""How long the demo's trainings take on this machine, from measured steps of each network."""

from __future__ import annotations

import time

import torch

from rdd_deploy.data.loader import Batch
from rdd_deploy.models.segmenter import Segmenter
from rdd_deploy.outputs import Output
from rdd_deploy.recipe import Recipe, StudentRecipe
from rdd_deploy.training.fabric import make_fabric
from rdd_deploy.training.state import Loss, Objective, TrainState

BESIDE = 1.2
"""Validation, pictures, checkpoints and the export, as a factor of the training itself."""


def seconds_to_come(student: StudentRecipe, teacher: Recipe, frames: int, classes: int) -> float:
    """Seconds for the teacher, the student alone, what the teacher says of every frame, and the distilled student."""
    taught, learnt = seconds_of_a_step(teacher, classes), seconds_of_a_step(student, classes)
    steps = max(1, frames // student.train.batch)
    assert student.teacher is not None
    crop, size = teacher.augment.crop, student.data.size
    views = (2 if student.teacher.flip else 1) * sum(scale**2 for scale in student.teacher.scales) * size[0] * size[1]
    looked = frames * views / (teacher.train.batch * crop[0] * crop[1]) / 3  # forward alone is a third of a step
    return BESIDE * (taught * (teacher.train.epochs * steps + looked) + learnt * 2 * student.train.epochs * steps)


class _MeanLogit(Objective):
    """Stands for any loss: the network's own step takes nearly all of the time."""

    def forward(self, output: Output, batch: Batch, progress: float) -> Loss:
        return Loss(output.primary.float().mean(), {})


def seconds_of_a_step(recipe: Recipe, classes: int) -> float:
    """The fastest of three training steps on blank crops, with the recipe's device and precision, after one that
    allocates; on a busy machine a single one may take ten times as long."""
    with torch.random.fork_rng():
        segmenter = Segmenter(recipe.trained, classes).train()
        train_state = TrainState(segmenter, _MeanLogit(), recipe.train, make_fabric(recipe.train))
        images = torch.zeros(
            recipe.train.batch, 3, *recipe.augment.crop, dtype=torch.uint8, device=train_state.fabric.device
        )
        none = torch.zeros(0, dtype=torch.int64)
        batch = Batch(images, none, none, none)
        seconds = []
        for _ in range(4):
            began = time.perf_counter()
            float(train_state.update(batch, 0.0)[0][0])  # waits for a GPU
            seconds.append(time.perf_counter() - began)
    return min(seconds[1:])


def in_words(seconds: float) -> str:
    """Minutes, rounded up to halves, since it is a forecast; hours and days where there are many."""
    halves = max(1, -int(-seconds // 30))
    if halves <= 240:
        return f"{halves / 2:g} min"
    hours, minutes = divmod(-int(-seconds // 60), 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours // 24} days {hours % 24} h"
