"""Before the first run: data, devices, networks, losses and teachers of every variant, checked once each; and how long
it will all take.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch

from rdd_deploy.data.unlabelled import look_at_unlabelled
from rdd_deploy.errors import Problems, RddError
from rdd_deploy.models.build import build
from rdd_deploy.recipe import Recipe
from rdd_deploy.recipe_train import seconds_of
from rdd_deploy.study.plan import Plan, Run, TeacherRun
from rdd_deploy.study.standing import read_rows
from rdd_deploy.training.data import TrainingData, parts_of_batch, share_without_labels
from rdd_deploy.training.fabric import make_fabric
from rdd_deploy.training.forecast import BESIDE, seconds_of_a_step
from rdd_deploy.training.loggers import check_installed
from rdd_deploy.training.objective import extra_losses
from rdd_deploy.training.session import sizes
from rdd_deploy.training.teacher import load_teacher

Made = TypeVar("Made")


class DataFacts(NamedTuple):
    """What a forecast needs of the data.

    Attributes:
        frames: for training, whether their masks are used or not.
    """

    frames: int
    classes: tuple[str, ...]


@dataclass
class Checked:
    """What was found out on the way."""

    facts: DataFacts
    on_gpu: bool
    made: dict[Hashable, Any] = field(default_factory=dict)
    """Networks by what they were made from: variants share theirs."""

    def once(self, key: Hashable, make: Callable[[], Made]) -> Made:
        """What ``make`` returned, or raised, the first time that this key was given."""
        if key not in self.made:
            try:
                self.made[key] = make()
            except RddError as error:
                self.made[key] = error
        if isinstance(value := self.made[key], RddError):
            raise value
        made: Made = value
        return made


def check(plan: Plan, runs: Sequence[Run], teachers: Collection[TeacherRun]) -> Checked:
    """Check what the runs to come need, one run a variant.

    Args:
        runs: those to come. teachers: those that have to be trained first.

    Raises:
        RddError: all that is wrong, with the variants that it is wrong with.
    """
    problems = Problems()
    checked = Checked(DataFacts(0, ("", "")), False)
    variants = list({run.variant: run for run in runs}.values())
    data: TrainingData | None = None
    recipes: list[Recipe] = [*(run.recipe for run in variants), *(one.recipe for one in teachers)]
    for recipe in recipes:
        with problems.collected():
            check_installed(recipe.train.loggers)
        with problems.collected():
            key = ("device", recipe.train.device, recipe.train.devices)
            device = checked.once(key, lambda r=recipe: make_fabric(r.train).device.type)  # type: ignore[misc]
            checked.on_gpu |= device == "cuda"
    with problems.collected():
        data = TrainingData(recipes[0], "leave")
        checked.facts = DataFacts(
            round(len(data.frames) / recipes[0].data.labelled), data.validation.label_space.classes
        )
    for one in {
        tuple(run.recipe.data.unlabelled): run.recipe for run in variants if share_without_labels(run.recipe)
    }.values():
        with problems.collected():
            look_at_unlabelled(one.data)
    if data is not None:
        found: dict[tuple[str, ...], list[str]] = {}
        for teacher in teachers:
            with _noted(found, teacher.title):
                _network(checked, teacher.recipe, "teacher, to be trained first")
        for run in variants:
            with _noted(found, run.variant):
                _check_run(plan, run, teachers, data, checked)
        for (first, *more), names in found.items():
            problems.errors.append(RddError(f"{', '.join(names)}: {first}", *more))
    problems.raise_all()
    return checked


@contextmanager
def _noted(found: dict[tuple[str, ...], list[str]], name: str) -> Iterator[None]:
    """Keep an error of this block, with all the names that it was raised for, and go on."""
    try:
        yield
    except RddError as error:
        found.setdefault(tuple(error.lines), []).append(name)


def _check_run(plan: Plan, run: Run, teachers: Collection[TeacherRun], data: TrainingData, checked: Checked) -> None:
    student = _network(checked, run.recipe, "student")
    if run.teacher is None:
        return
    config = run.recipe.teacher
    assert config is not None
    first = plan.teachers.get(run.teacher)
    if first in teachers:
        assert first is not None
        model = _network(checked, first.recipe, "teacher")
    else:
        paths = [Path(str(one.checkpoint)) for one in config.ensemble] or [run.teacher]
        compared = run.recipe.distillation.method, run.recipe.distillation.tfe_fraction > 0
        model = checked.once(
            (*map(str, paths), repr(config), *map(str, compared)), lambda: load_teacher(run.recipe, paths, data).model
        )
    extra_losses(run.recipe.distillation, student, model)


def _network(checked: Checked, recipe: Recipe, role: str) -> Any:
    key = (repr(recipe.trained), sizes(recipe))
    return checked.once(key, lambda: build(recipe.trained, checked.facts.classes, role, sizes(recipe))[0])


def seconds_to_come(
    plan: Plan, runs: Sequence[Run], teachers: Collection[TeacherRun], checked: Checked, threads: int | None
) -> float:
    """Seconds of all runs one after the other, from one measured step of each distinct network.

    Losses beside the network's own step aren't in it, nor is what a live teacher without a recipe takes.

    Args:
        threads: of the CPU that each run has; None: as they are.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        done: dict[str, float] = {}
        total = sum(_left(one) * _training(one.recipe, checked, done) for one in teachers)
        looked: set[tuple[Path, float]] = set()
        for run in runs:
            total += _left(run) * _training(run.recipe, checked, done)
            first = plan.teachers.get(run.teacher) if run.teacher else None
            config = run.recipe.teacher
            if first is None or config is None or run.teacher is None:
                continue
            if not config.cache:
                live = first.recipe.model_copy(update={"augment": run.recipe.augment, "train": run.recipe.train})
                total += _left(run) * _training(live, checked, done) / 3  # forward alone is a third of a step
            elif first in teachers or not (first.folder.path / "cache").is_dir():
                views = (2 if config.flip else 1) * sum(scale**2 for scale in config.scales)
                looked.add((run.teacher, views))
        for path, views in looked:
            first = plan.teachers[path]
            height, width = first.recipe.data.size
            crop = first.recipe.augment.crop
            frames = checked.facts.frames * views * height * width / (first.recipe.train.batch * crop[0] * crop[1])
            total += BESIDE * frames * _step(first.recipe, checked, done) / 3
        return total
    finally:
        torch.set_num_threads(before)


def _left(run: Run | TeacherRun) -> float:
    """The share of a run that is still to come."""
    return max(0.0, 1 - len(read_rows(run.folder)) / run.recipe.train.epochs)


def _training(recipe: Recipe, checked: Checked, done: dict[str, float]) -> float:
    if recipe.train.budget:
        return seconds_of(recipe.train.budget)
    labelled = max(1, round(checked.facts.frames * recipe.data.labelled))
    steps = recipe.train.epochs * (labelled // parts_of_batch(recipe, labelled)[0])
    return BESIDE * steps * _step(recipe, checked, done)


def _step(recipe: Recipe, checked: Checked, done: dict[str, float]) -> float:
    train = recipe.train
    key = repr(
        (
            recipe.trained,
            recipe.augment.crop,
            train.batch,
            train.device,
            train.precision,
            train.optimizer,
            train.compile,
        )
    )
    if key not in done:
        done[key] = seconds_of_a_step(recipe, len(checked.facts.classes))
    return done[key]
