"""The beginning that every training shares: data there and sound, network built and initialised, run folder open."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import Progress

from rdd_deploy import console, files
from rdd_deploy.data.base import Split
from rdd_deploy.data.check import SplitFacts, check_apart, check_split
from rdd_deploy.data.from_recipe import open_data
from rdd_deploy.data.loader import Frames
from rdd_deploy.errors import DiskError, RddError
from rdd_deploy.models.segmenter import Segmenter, check_encoder
from rdd_deploy.models.weights import initialise
from rdd_deploy.recipe import Data, Network, Recipe
from rdd_deploy.run import RunFolder

MEMORY_LIMIT = 6e9
"""Bytes of decoded frames that are kept in memory at most."""


class Prepared:
    """Checked data of a run.

    Attributes: ``frames`` (train, decoded once), ``validation`` (split), ``train_facts``, ``digest`` of the training frames.
    """

    def __init__(self, recipe: Recipe) -> None:
        data = recipe.data
        train = open_data(data, "train")
        self.validation = _Kept(open_data(data, recipe.evaluation.split), data)
        probe = train.frame(0).nbytes * 4 / 3 * len(train) if len(train) else 0
        self.frames = Frames(train, keep=data.memory and probe < MEMORY_LIMIT)
        with Progress(console=console.out, transient=True, disable=not console.out.is_terminal) as bar:
            task = bar.add_task("data check", total=len(train) + len(self.validation))
            advance = lambda: bar.advance(task)  # noqa: E731
            self.train_facts = check_split(train, advance, pair=self._pair)
            self.val_facts = check_split(self.validation, advance)
        check_apart(self.train_facts, self.val_facts, recipe.evaluation.split)
        self.digest = self.train_facts.digest
        self._tell(recipe)

    def _pair(self, index: int) -> tuple[Any, Any]:
        image, labels = self.frames[index]
        return image.permute(1, 2, 0).numpy(), labels.numpy()

    def _tell(self, recipe: Recipe) -> None:
        task = self.validation.task
        console.say(
            f"data: {recipe.data.name}, {self.train_facts.count} train and {self.val_facts.count} {recipe.evaluation.split} frames, "
            f"{len(task)} classes, {100 * self.train_facts.void_share:.1f} % void"
        )
        for name, facts in (("train", self.train_facts), (recipe.evaluation.split, self.val_facts)):
            _warn_absent(name, facts, task.classes)


def _warn_absent(name: str, facts: SplitFacts, classes: tuple[str, ...]) -> None:
    if absent := facts.absent(classes):
        console.warn(
            f"no pixel of {', '.join(absent)} in {name}; {'it' if len(absent) == 1 else 'they'} can't be learned or measured there"
        )


class _Kept(Split):
    """A split whose decoded frames stay in memory: validation reads them again and again."""

    def __init__(self, split: Split, data: Data) -> None:
        self.inner, self.task, self.names = split, split.task, split.names
        self._frames = Frames(split, keep=data.memory and len(split) < 1000)

    @property
    def pairs(self) -> Any:
        return getattr(self.inner, "pairs", None)

    def frame(self, index: int) -> np.ndarray:  # type: ignore[type-arg]
        return np.ascontiguousarray(self._frames[index][0].permute(1, 2, 0).numpy())

    def labels(self, index: int) -> np.ndarray:  # type: ignore[type-arg]
        return self._frames[index][1].numpy()


def build(network: Network, classes: int, role: str) -> tuple[Segmenter, str]:
    """Build and initialise a network; says where its weights come from."""
    segmenter = Segmenter(network, classes)
    source = initialise(segmenter)
    parameters = sum(p.numel() for p in segmenter.parameters()) / 1e6
    console.say(f"{role}: {network.encoder} + {network.head}, {parameters:.2f} M parameters, encoder weights: {source}")
    return segmenter, source


def check_early(recipe: Recipe, folder: RunFolder, resume: bool) -> None:
    """Refuse what can be refused before data and weights are touched.

    Raises:
        RecipeError: an unknown encoder.
        RddError: resuming with a recipe that differs from the run's.
    """
    for network in (recipe.network, recipe.student):
        if network is not None:
            check_encoder(network.encoder)
    if resume and folder.state.is_file():
        before = folder.load_recipe()
        if changed := _changed(before.model_dump(exclude={"name"}), recipe.model_dump(exclude={"name"})):
            raise RddError(
                f"can't resume {folder.path}: the recipe changed ({', '.join(changed)}); use the same recipe and overrides, or start anew without --resume"
            )


def open_run(recipe: Recipe, name: str, runs: Path, resume: bool) -> RunFolder:
    """The run's folder. A folder with a run in it is continued with --resume, else its old content is replaced once the new run starts."""
    folder = RunFolder(runs / name)
    files.remove_parts(folder.path)
    if resume and folder.state.is_file():
        return folder
    if resume:
        console.say(f"nothing to resume: {folder.path} holds no state; starting anew")
    try:
        for old in (folder.state, folder.metrics, folder.summary, folder.student, folder.teacher):
            old.unlink(missing_ok=True)
    except OSError as error:
        raise DiskError(
            f"can't write to {folder.path}: {error.strerror or error}; choose another folder with --output or --name"
        ) from error
    for old in (folder.path / "tensorboard", folder.pictures, folder.export):
        shutil.rmtree(old, ignore_errors=True)
    folder.write_recipe(recipe.model_copy(update={"name": name}))
    return folder


def _changed(before: Any, after: Any, path: str = "") -> list[str]:
    if isinstance(before, dict) and isinstance(after, dict):
        return [line for key in after for line in _changed(before.get(key), after[key], f"{path}.{key}" if path else key)]
    return [] if before == after else [f"{path}: {before} → {after}"]
