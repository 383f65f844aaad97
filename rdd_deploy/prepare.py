"""The beginning that every training shares: data there and sound, network built and initialised, run folder open."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rdd_deploy import console, faults, files, launchers
from rdd_deploy.console import process_rank
from rdd_deploy.data.base import FileSplit, Split
from rdd_deploy.data.check import SplitFacts, check_apart, check_split
from rdd_deploy.data.from_recipe import open_data
from rdd_deploy.data.loader import Frames, Room, room_for_frames
from rdd_deploy.errors import DiskError, RddError, RecipeError
from rdd_deploy.locks import check_unlocked, locked
from rdd_deploy.models.segmenter import ODD, Segmenter
from rdd_deploy.models.weights import initialise
from rdd_deploy.recipe import Network, Recipe, with_whole_paths
from rdd_deploy.run import RunFolder


class Prepared:
    """Checked data of a run.

    Attributes: ``frames`` (train, decoded once), ``validation`` (split), ``train_facts``, ``digest`` of the training frames.
    """

    def __init__(self, recipe: Recipe) -> None:
        data = recipe.data
        train = open_data(data, "train")
        room = room_for_frames() if data.memory else None
        self.frames = Frames(train, room)
        validation = open_data(data, recipe.evaluation.split)
        self.validation = _Kept(validation, room)
        with console.progress("data check", len(train) + len(self.validation)) as bar:
            self.train_facts = check_split(train, bar.advance, pair=self._pair)
            self.val_facts = check_split(self.validation, bar.advance)
        check_apart(self.train_facts, self.val_facts, recipe.evaluation.split)
        if isinstance(train, FileSplit) and isinstance(validation, FileSplit):
            train.ids.check_palettes(validation.ids)
        self.digest = self.train_facts.digest
        self._tell(recipe)

    def _pair(self, index: int) -> tuple[Any, Any]:
        image, labels = self.frames[index]
        return image.permute(1, 2, 0).numpy(), labels.numpy()

    def _tell(self, recipe: Recipe) -> None:
        task = self.validation.task
        place = "" if recipe.data.name == "streets" else f" in {recipe.data.root}"
        console.say(
            f"data: {recipe.data.name}{place}, {self.train_facts.count} train and {self.val_facts.count} {recipe.evaluation.split} frames, "
            f"{len(task)} classes, {100 * self.train_facts.void_share:.1f} % void"
        )
        for name, facts in (("train", self.train_facts), (recipe.evaluation.split, self.val_facts)):
            _warn_absent(name, facts, task.classes)


def _warn_absent(name: str, facts: SplitFacts, classes: tuple[str, ...]) -> None:
    if process_rank() == 0 and (absent := facts.absent(classes)):
        console.warn(
            f"no pixel of {', '.join(absent)} in {name}; {'it' if len(absent) == 1 else 'they'} can't be learned or measured there"
        )


class _Kept(Split):
    """A split whose decoded frames stay in memory, where there is room: validation reads them again and again."""

    def __init__(self, split: Split, room: Room | None) -> None:
        self.inner, self.task, self.names = split, split.task, split.names
        self._frames = Frames(split, room)

    @property
    def pairs(self) -> Any:
        return getattr(self.inner, "pairs", None)

    def frame(self, index: int) -> np.ndarray:  # type: ignore[type-arg]
        return np.ascontiguousarray(self._frames[index][0].permute(1, 2, 0).numpy())

    def labels(self, index: int) -> np.ndarray:  # type: ignore[type-arg]
        return self._frames[index][1].numpy()


def build(network: Network, classes: int, role: str, sizes: Sequence[tuple[int, int]] = ()) -> tuple[Segmenter, str]:
    """Build and initialise a network; says where its weights come from.

    Args:
        sizes: (height, width) of the frames that it will see; default: any, so RecipeError where it can't take all.
    """
    segmenter = Segmenter(network, classes)
    _try_out(segmenter, sizes)
    source = initialise(segmenter)
    parameters = sum(p.numel() for p in segmenter.parameters()) / 1e6
    console.say(f"{role}: {network.encoder} + {network.head}, {parameters:.2f} M parameters, encoder weights: {source}")
    return segmenter, source


def _try_out(segmenter: Segmenter, sizes: Sequence[tuple[int, int]]) -> None:
    """Transformers of one fixed frame size, or with channels last, look like any other encoder until they see a frame."""
    if fixed := segmenter.frame_sizes.fixed:
        console.warn(
            f"encoder '{segmenter.network.encoder}' only takes frames of {fixed[0]}x{fixed[1]}: every frame is resized to that inside"
        )
    for height, width in sizes or ODD:
        if not (problem := _problem_at(segmenter, (height, width))):
            continue
        raise RecipeError(
            f"encoder '{segmenter.network.encoder}' with head '{segmenter.network.head}' can't segment frames of {f'{height}x{width}' if sizes else 'any size'} "
            f"({problem}); choose another encoder, such as a plain convolutional one"
        )


def _problem_at(segmenter: Segmenter, size: tuple[int, int]) -> str:
    """What stops the network at a frame size; empty where nothing does."""
    try:
        with torch.inference_mode():
            segmenter.eval()(torch.zeros(1, 3, *size, dtype=torch.uint8))
    except (RuntimeError, AssertionError, ValueError, IndexError) as error:
        if told := faults.told(error):
            raise told from error
        return (str(error).splitlines() or [type(error).__name__])[0]
    return ""


def check_early(recipe: Recipe, folder: RunFolder, resume: bool) -> None:
    """Refuse what can be refused before data and weights are touched.

    Raises:
        RddError: another process trains in the folder, ``latest`` beside it is of the user's own, nothing can be written there, resuming
            with a recipe that differs from the run's, or another number of processes was started than the recipe names.
    """
    launchers.check(recipe.train.devices, recipe.train.nodes)
    if not torch.distributed.is_initialized():  # else the first of several may have locked it for all
        check_unlocked(folder.path)
    folder.check_latest()
    if process_rank() == 0:
        files.check_writable(folder.path)
    if (
        resume
        and folder.state.is_file()
        and (changed := [line for line in changes(folder, recipe) if line.partition(":")[0] not in CHECKED])
    ):
        raise RddError(
            f"can't resume {folder.path}: the recipe changed ({', '.join(changed)}); use the same recipe and overrides, or start anew without --resume"
        )


CHECKED = {"data.root", "teacher.recipe", "teacher.checkpoint"}
"""Keys that say where something lies whose content a resumed run checks: the folder may have moved."""


def changes(folder: RunFolder, recipe: Recipe) -> list[str]:
    """What differs between the recipe that a run was made by and this one, as ``key: before → after``; the name apart."""
    before, after = (with_whole_paths(one).model_dump(exclude={"name"}) for one in (folder.load_recipe(), recipe))
    return _changed(before, after)


@contextmanager
def open_run(recipe: Recipe, name: str, runs: Path, resume: bool) -> Iterator[RunFolder]:
    """The run's folder, this process's alone inside the block.

    An earlier run of that name is continued with --resume, else moved aside: nothing that was trained is lost.

    Raises:
        RddError: another process trains there.
    """
    with locked(runs / name):
        yield _opened(recipe, name, runs, resume)


def _opened(recipe: Recipe, name: str, runs: Path, resume: bool) -> RunFolder:
    folder = RunFolder(runs / name)
    for place in (folder.path, runs):
        files.remove_parts(place)
    if resume and folder.state.is_file():
        return folder
    if resume:
        console.say(f"nothing to resume: {folder.path} holds no state; starting anew")
    if process_rank() == 0:
        _set_aside(folder)
        folder.write_recipe(recipe.model_copy(update={"name": name}))
    return folder


def _set_aside(folder: RunFolder) -> None:
    """Rename an earlier run's folder to the first free ``<name>.1``, ``.2``, …; a folder without weights or state is used as it is."""
    if not any(path.is_file() for path in (folder.student, folder.teacher, folder.state, folder.summary)):
        return
    number = next(i for i in itertools.count(1) if not folder.path.with_name(f"{folder.path.name}.{i}").exists())
    aside = folder.path.with_name(f"{folder.path.name}.{number}")
    was_latest = folder.is_latest()
    try:
        folder.path.rename(aside)
        if (aside / "cache").is_dir():  # a teacher cache is found by its content, so the new run may use it
            folder.path.mkdir()
            (aside / "cache").rename(folder.path / "cache")
        if was_latest:
            RunFolder(aside).point_latest()
    except OSError as error:
        raise DiskError(
            f"can't move {folder.path} aside: {error.strerror or error}; choose another folder with --output or --name"
        ) from error
    console.say(f"an earlier run was in {folder.path}; it is now {aside}")


def _changed(before: Any, after: Any, path: str = "") -> list[str]:
    if isinstance(before, dict) and isinstance(after, dict):
        return [line for key in after for line in _changed(before.get(key), after[key], f"{path}.{key}" if path else key)]
    return [] if before == after else [f"{path}: {before} → {after}"]
