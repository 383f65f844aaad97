"""The beginning that every training shares: data there and sound, network built and initialised, run folder open."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch

from rdd_deploy import console
from rdd_deploy.console import process_rank
from rdd_deploy.errors import DeviceError, DiskError, Problems, RddError, RecipeError
from rdd_deploy.metrics import protocol
from rdd_deploy.models.build import build
from rdd_deploy.models.segmenter import Segmenter
from rdd_deploy.recipe import Recipe, StudentRecipe, TeacherRecipe, with_whole_paths
from rdd_deploy.recipe_train import crop_sizes
from rdd_deploy.schema import changed
from rdd_deploy.training.data import TrainingData
from rdd_deploy.training.fabric import make_fabric
from rdd_deploy.training.loggers import check_installed
from rdd_deploy.training.run_folder import RunFolder
from rdd_deploy.utils import files, launchers
from rdd_deploy.utils.locks import check_unlocked, locked
from rdd_deploy.utils.machine import provenance


def as_launched(recipe: AnyRecipe) -> AnyRecipe:
    """The recipe on as many processes as torchrun, srun and their like started, where it doesn't say itself how many.

    Raises:
        RecipeError: its batch can't be shared evenly among them.
        DeviceError: there isn't the same number of them on each node, or the launcher doesn't say.
    """
    train, found = recipe.train, launchers.launched()
    if found is None or found.size == 1 or {"devices", "nodes"} & train.model_fields_set:
        return recipe
    if (shape := launchers.shape(found)) is None:
        raise DeviceError(
            f"{found.launcher} started {found.size} processes and doesn't say how many on each machine, or not as many on"
            " each; start as many on each (srun --ntasks-per-node), or set train.devices to the processes of a machine"
            " and train.nodes to the machines"
            + (
                ""
                if found.together
                else " (1 and 1: each process trains a network of its own, with a --name of its own)"
            )
        )
    where = f"train.devices={shape[0]} train.nodes={shape[1]}, as {found.launcher} started them"
    return changed(recipe, where, train=changed(train, where, devices=shape[0], nodes=shape[1]))


AnyRecipe = TypeVar("AnyRecipe", StudentRecipe, TeacherRecipe, Recipe)


def check_early(recipe: Recipe, folder: RunFolder, resume: bool) -> None:
    """Refuse what can be refused before data and weights are touched.

    Raises:
        RddError: another process trains in the folder, ``latest`` beside it is of the user's own, nothing can be
            written there, the network's first weights lie in the folder, resuming with a recipe that differs from the
            run's, another number of processes was started than the recipe names, or a log's package is missing.
    """
    launchers.check(recipe.train.devices, recipe.train.nodes)
    check_installed(recipe.train.loggers)
    if not torch.distributed.is_initialized():  # else the first of several may have locked it for all
        check_unlocked(folder.path)
    folder.check_latest()
    if process_rank() == 0:
        files.check_writable(folder.path)
    weights = Path(recipe.trained.weights).expanduser()
    if weights.is_file() and folder.path.resolve() in weights.resolve().parents:
        # The run would move them aside, and its recipe would then name what it trains itself.
        raise RecipeError(
            f"the first weights, {weights}, are those of {folder.path}, where this run is to be written; give it another"
            " name with --name"
        )
    if (
        resume
        and folder.state.is_file()
        and (differs := [line for line in changes(folder, recipe) if line.partition(":")[0] not in CHECKED])
    ):
        raise RddError(
            f"can't resume {folder.path}: the recipe changed ({', '.join(differs)}); use the same recipe and overrides,"
            " or start again without --resume"
        )


CHECKED = {
    "data.root",
    "data.unlabelled",
    "data.scratch",
    "teacher.recipe",
    "teacher.checkpoint",
    "train.devices",
    "train.nodes",
}
"""Keys that say where something lies whose content a resumed run checks, for the folder may have moved; and how many processes train, which
all have the same random numbers and together the same batches."""


def changes(folder: RunFolder, recipe: Recipe) -> list[str]:
    """What differs between the recipe that a run was made by and this one, as ``key: before → after``.

    The name is left out, and where the figures go, when states are saved and whether steps are compiled, which changes
    no more than roundings. A run with a budget has the epochs that it chose in its place.
    """
    before, after = (
        with_whole_paths(one).model_dump(
            exclude={"name": True, "train": {"loggers", "save_minutes", "compile", "budget"}}
        )
        for one in (folder.load_recipe(), recipe)
    )
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
        console.info(f"nothing to resume: {folder.path} holds no state; starting from the beginning")
    if process_rank() == 0:
        _set_aside(folder)
        folder.write_recipe(recipe.model_copy(update={"name": name}))
    return folder


def _set_aside(folder: RunFolder) -> None:
    """Rename an earlier run's folder to the first free ``<name>.1``, ``.2``, …; a folder without weights or state is
    used as it is.
    """
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
    console.info(f"an earlier run was in {folder.path}; it is now {aside}")


def _changed(before: Any, after: Any, path: str = "") -> list[str]:
    if isinstance(before, dict) and isinstance(after, dict):
        return [
            line for key in after for line in _changed(before.get(key), after[key], f"{path}.{key}" if path else key)
        ]
    return [] if before == after else [f"{path}: {before} → {after}"]


def sizes(recipe: Recipe) -> tuple[tuple[int, int], ...]:
    """The frame sizes that a recipe's network sees."""
    return recipe.data.size, *(size for _, size in crop_sizes(recipe.train, recipe.augment.crop))


def dry_run(
    recipe: Recipe,
    folder: RunFolder,
    resume: bool,
    teacher: Callable[[TrainingData | None, Segmenter | None], Any] | None = None,
) -> None:
    """Print the resolved recipe; check device, data, network with its weights, and the teacher; tell all that is wrong
    together.

    Args:
        teacher: a further check, of a student's teacher; given data and student where they are sound.
    """
    data: TrainingData | None = None
    network: Segmenter | None = None
    problems = Problems()
    with problems.collected():
        check_early(recipe, folder, resume)
    console.info(*files.yaml_text(recipe.model_dump(mode="json", exclude_none=True)).splitlines())
    with problems.collected():
        make_fabric(recipe.train)
    with problems.collected():
        data = TrainingData(recipe, "look" if teacher else "leave", fetch=False)
    with problems.collected():
        role = "teacher" if isinstance(recipe, TeacherRecipe) else "student"
        classes = data.validation.label_space.classes if data else ("", "")
        network, _ = build(recipe.trained, classes, role, sizes(recipe))
    if teacher:
        with problems.collected():
            teacher(data, network)
    problems.raise_all()
    console.info("dry run: recipe, data and weights are fine; nothing was trained")


def metadata_of(recipe: Recipe, data: TrainingData, source: str) -> dict[str, Any]:
    """What a checkpoint's metadata says of its network beside its architecture."""
    label_space = data.validation.label_space
    return {
        "classes": list(label_space.classes), "palette": [list(colour) for colour in label_space.palette], "size": list(recipe.data.size),
        "data": recipe.data.name, "split": recipe.evaluation.split, "recipe": recipe.name, "encoder_weights": source,
        "train_frames": data.digest, "train_labels": data.train_facts.labels_digest,
        **({"unlabelled_frames": data.unlabelled.digest} if data.unlabelled is not None else {}),
        **({"budget": recipe.train.budget} if recipe.train.budget else {}),
    }  # fmt: skip


def summary(
    recipe: Recipe, data: TrainingData, network: Segmenter, result: dict[str, Any], kind: str, source: str
) -> dict[str, Any]:
    """What ``summary.json`` holds."""
    split = recipe.evaluation.split
    return {
        "schema_version": 1, "kind": kind, "recipe": recipe.name,
        "protocol": protocol(recipe.data.name, split, len(data.validation), recipe.data.size, len(data.validation.label_space)),
        **result, "parameters": sum(p.numel() for p in network.parameters()), "encoder_weights": source, **provenance(recipe.train.seed),
    }  # fmt: skip
