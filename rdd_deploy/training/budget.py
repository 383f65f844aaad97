"""As many epochs as fit ``train.budget``, from measured steps of the run itself."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from lightning_fabric import Fabric

from rdd_deploy import console
from rdd_deploy.data.base import Split, evenly_spaced
from rdd_deploy.data.sampler import ResumableBatchSampler
from rdd_deploy.errors import RecipeError
from rdd_deploy.metrics import evaluate_split
from rdd_deploy.models.predict import torch_predictor
from rdd_deploy.models.segmenter import Segmenter
from rdd_deploy.recipe import Recipe
from rdd_deploy.recipe_train import MOST_EPOCHS, crop_sizes, seconds_of
from rdd_deploy.schema import changed
from rdd_deploy.training.crops import TrainingCrops
from rdd_deploy.training.fabric import precision_of
from rdd_deploy.training.run_folder import RunFolder
from rdd_deploy.training.state import Method, Objective, TrainState

WARM, AT_A_TIME, MOST = 3, 4, 100
"""Steps before the clock starts, steps between two looks at it, and steps that are timed at most."""
LONG_ENOUGH, SHARE = 4.0, 0.05
"""Seconds of timed steps of a size, or that share of the budget where it is less."""
USED = 0.97
"""Of the time that is left: pictures, states and a busy machine have the rest."""


class Costs(NamedTuple):
    """What of a run takes time, in seconds."""

    step: float
    evaluation: float
    """Of the whole validation split."""
    steps: int
    """Of an epoch."""
    every: int
    """Epochs between evaluations."""

    def of(self, epochs: int) -> float:
        """Of a run of so many epochs; the last one is always measured."""
        return epochs * self.steps * self.step + -(-epochs // self.every) * self.evaluation

    def epochs_in(self, seconds: float) -> int:
        """The most epochs that fit, 0 where none does."""
        epochs = min(MOST_EPOCHS, int(max(0.0, seconds) / (self.steps * self.step + self.evaluation / self.every)))
        while epochs and self.of(epochs) > seconds:
            epochs -= 1
        return epochs


def within_budget(
    recipe: Recipe, segmenter: Segmenter, crops: TrainingCrops, validation: Split, method: Method, folder: RunFolder, fabric: Fabric, resumes: bool
) -> Recipe:  # fmt: skip
    """The recipe with as many epochs as fit its budget, also in the run's folder; as it is where it has none.

    What the run starts from stays as it was: the steps are those of a copy.

    Args:
        resumes: the run goes on, so that its folder says how many.

    Raises:
        RecipeError: not even one epoch fits.
    """
    budget = recipe.train.budget
    if budget is None:
        return recipe
    if resumes:
        return _with_epochs(recipe, folder.load_recipe().train.epochs)
    began = time.perf_counter()
    costs = _measured(recipe, segmenter, crops, validation, method, fabric)
    left = seconds_of(budget) - (time.perf_counter() - began)
    epochs = costs.epochs_in(USED * left)
    # The first process decides for all: the others' clocks say something else.
    epochs, costs = fabric.broadcast((epochs, costs))
    told = (
        f"{costs.steps} step{'s' if costs.steps > 1 else ''} of {costs.step:.3g} s an epoch, loading included, and"
        f" {costs.evaluation:.3g} s for an evaluation every {f'{costs.every} epochs' if costs.every > 1 else 'epoch'}"
    )
    if not epochs:
        raise RecipeError(
            f"train.budget is {budget}, but one epoch takes about {costs.of(1):.2g} s ({told}), and measuring that took"
            f" {seconds_of(budget) - left:.2g} s; give it more time, or make augment.crop or train.batch smaller"
        )
    console.info(f"train.budget: {epochs} epoch{'s' if epochs > 1 else ''} fit {budget}: {told}")
    chosen = _with_epochs(recipe, epochs)
    if fabric.is_global_zero:
        folder.write_recipe(chosen.model_copy(update={"name": folder.path.name}))
    fabric.barrier()
    return chosen


def _with_epochs(recipe: Recipe, epochs: int) -> Recipe:
    """The recipe with so many epochs in the budget's place."""
    where = f"{recipe.name} with {epochs} epochs"
    return changed(recipe, where, train=changed(recipe.train, where, budget=None, epochs=epochs))


def _measured(
    recipe: Recipe, segmenter: Segmenter, crops: TrainingCrops, validation: Split, method: Method, fabric: Fabric
) -> Costs:
    train = recipe.train
    sampler = ResumableBatchSampler(
        crops.frames.labelled, train.batch, WARM + MOST, train.seed, rank=fabric.global_rank, ranks=fabric.world_size,
        others=len(crops.frames) - crops.frames.labelled, share=method.share,
    )  # fmt: skip
    scale = fabric._precision.state_dict()  # of the loss in 16-mixed
    enough = min(LONG_ENOUGH, SHARE * seconds_of(train.budget or "1h"))
    sizes = crop_sizes(train, recipe.augment.crop)
    ends = [*(share for share, _ in sizes[1:]), 1.0]
    with torch.random.fork_rng(), console.progress("measuring a step", (WARM + MOST) * len(sizes)) as bar:
        network = copy.deepcopy(segmenter).train()
        state = TrainState(network, _copied(method.objective), train, fabric)
        step = sum(
            (end - share) * _seconds_of_a_step(state, crops.batches(sampler, size), enough, fabric, bar)
            for (share, size), end in zip(sizes, ends, strict=True)
        )
        evaluation = _seconds_of_an_evaluation(recipe, state.evaluated, validation, fabric)
    fabric._precision.load_state_dict(scale)
    return Costs(step, evaluation, sampler.steps_per_epoch, recipe.evaluation.every)


def _copied(objective: Objective) -> Objective:
    """An objective whose buffers and parameters are its own; what it asks, such as a teacher, isn't copied."""
    asked = {id(value): value for name, value in vars(objective).items() if not name.startswith("_")}
    return copy.deepcopy(objective, asked)


def _seconds_of_a_step(
    state: TrainState, batches: Iterator[Any], enough: float, fabric: Fabric, bar: console.progress
) -> float:
    """The mean of steps as the loop makes them, waited for."""
    for _ in range(WARM):
        float(state.update(next(batches), MIDDLE)[0][0])
        bar.advance()
    began, timed, goes_on = time.perf_counter(), 0, True
    while goes_on:
        for _ in range(AT_A_TIME):
            signs, _ = state.update(next(batches), MIDDLE)
            bar.advance()
        float(signs[0])  # waits for a GPU
        timed += AT_A_TIME
        seconds = time.perf_counter() - began
        goes_on = fabric.broadcast(timed < MOST and seconds < enough)
    return seconds / timed


MIDDLE = 0.5
"""Progress at which steps are timed: most of a distillation is stage 2."""


def _seconds_of_an_evaluation(recipe: Recipe, network: Segmenter, validation: Split, fabric: Fabric) -> float:
    """Of the whole split, which the processes share, from some batches of it."""
    batch = recipe.evaluation.batch
    some = evenly_spaced(validation, 4 * batch)
    predict = torch_predictor(network.eval(), recipe.data.size, fabric.device, precision_of(fabric))
    evaluate_split(predict, evenly_spaced(validation, batch), batch)
    began = time.perf_counter()
    evaluate_split(predict, some, batch)
    return (time.perf_counter() - began) * len(validation) / len(some) / int(fabric.world_size)
