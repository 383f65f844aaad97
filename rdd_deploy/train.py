"""Supervised training: a teacher, or the student alone as the baseline that distillation must beat."""

from __future__ import annotations

if __name__ == "__main__":  # before the imports that take seconds
    from rdd_deploy.cli import start

    start("train")

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from rdd_deploy import console, files, pictures
from rdd_deploy.console import command
from rdd_deploy.data.loader import Batch
from rdd_deploy.errors import Problems
from rdd_deploy.evaluate import protocol
from rdd_deploy.fit import Loss, Story, fit, make_fabric, seed_everything
from rdd_deploy.losses.task import TaskLoss, class_weights
from rdd_deploy.models.predict import torch_predictor
from rdd_deploy.models.segmenter import Output, Segmenter
from rdd_deploy.prepare import Prepared, build, check_early, open_run
from rdd_deploy.recipe import Recipe, check_name, load_recipe, option_hint
from rdd_deploy.run import RUNS, RunFolder, provenance


def train_recipe(
    recipe: Recipe, runs: Path = RUNS, resume: bool = False, name: str | None = None, data: Prepared | None = None
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
    folder = _folder(recipe, runs, name)
    check_early(recipe, folder, resume)
    fabric = make_fabric(recipe.train)
    fabric.launch()
    seed_everything(recipe.train.seed)
    data = data or Prepared(recipe)
    segmenter, source = build(network, len(data.validation.task), role, sizes(recipe))
    with open_run(recipe, folder.path.name, runs, resume) as folder:
        console.say(f"training {role} alone on {fabric.device} in {fabric._precision.precision} -> {folder.path}")
        story = Story(_objective(recipe, data), lambda _: "train", _painter(recipe, data))
        facts = facts_of(recipe, data, source)
        weights = folder.teacher if recipe.network else folder.student
        result = fit(recipe, segmenter, data.frames, data.validation, story, folder, weights, facts, fabric, resume)
        if fabric.is_global_zero:
            folder.finish(summary(recipe, data, segmenter, result, "train", source))
    return folder


def _folder(recipe: Recipe, runs: Path, name: str | None) -> RunFolder:
    return RunFolder(runs / (name or (recipe.name if recipe.network else f"{recipe.name}_alone")))


def sizes(recipe: Recipe) -> tuple[tuple[int, int], tuple[int, int]]:
    """The frame sizes that a recipe's network sees."""
    return recipe.data.size, recipe.augment.crop


def dry_run(recipe: Recipe, folder: RunFolder, resume: bool, teacher: Callable[[Prepared | None], Any] | None = None) -> None:
    """Print the resolved recipe; check device, data, network with its weights, and the teacher; tell all that is wrong together.

    Args:
        teacher: a further check, of a student's teacher; given the data where they are sound.
    """
    network = recipe.network or recipe.student
    assert network is not None
    data: Prepared | None = None
    problems = Problems()
    with problems.collected():
        check_early(recipe, folder, resume)
    console.say(*files.yaml_text(recipe.model_dump(mode="json", exclude_none=True)).splitlines())
    with problems.collected():
        make_fabric(recipe.train)
    with problems.collected():
        data = Prepared(recipe)
    with problems.collected():
        build(network, len(data.validation.task) if data else 2, "teacher" if recipe.network else "student", sizes(recipe))
    if teacher:
        with problems.collected():
            teacher(data)
    problems.tell()
    console.say("dry run: recipe, data and weights are fine; nothing was trained")


def _objective(recipe: Recipe, data: Prepared) -> Any:
    weight = class_weights(torch.from_numpy(data.train_facts.pixels)) if recipe.train.task_loss == "balanced" else None
    loss = TaskLoss(recipe.train.task_loss, weight)

    def objective(output: Output, batch: Batch, progress: float) -> Loss:
        task = loss.to(batch.labels.device)(output.primary, batch.labels)
        if output.auxiliary is None:
            return Loss(task, {"task": task.detach()})
        auxiliary = loss(output.auxiliary, batch.labels)
        return Loss(task + recipe.train.auxiliary_weight * auxiliary, {"task": task.detach(), "auxiliary": auxiliary.detach()})

    return objective


def _painter(recipe: Recipe, data: Prepared) -> Any:
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
                    ("truth", pictures.coloured(truth, split.task)),
                    ("prediction", pictures.coloured(predicted, split.task)),
                ]
            )
        pictures.write_rows(path, rows, size)

    return paint


def facts_of(recipe: Recipe, data: Prepared, source: str) -> dict[str, Any]:
    """What a checkpoint's metadata says of its network beside its architecture."""
    task = data.validation.task
    return {
        "classes": list(task.classes), "palette": [list(colour) for colour in task.palette], "size": list(recipe.data.size),
        "data": recipe.data.name, "split": recipe.evaluation.split, "recipe": recipe.name, "encoder_weights": source,
        "train_frames": data.digest, "train_labels": data.train_facts.labels_digest,
    }  # fmt: skip


def summary(recipe: Recipe, data: Prepared, network: Segmenter, result: dict[str, Any], kind: str, source: str) -> dict[str, Any]:
    """What ``summary.json`` holds."""
    split = recipe.evaluation.split
    return {
        "schema_version": 1, "kind": kind, "recipe": recipe.name,
        "protocol": protocol(recipe.data.name, split, len(data.validation), recipe.data.size, len(data.validation.task)),
        **result, "parameters": sum(p.numel() for p in network.parameters()), "encoder_weights": source, **provenance(recipe.train.seed),
    }  # fmt: skip


@partial(command, hint=option_hint)
def main(
    recipe: Annotated[str, typer.Argument(help="a recipe file, or the name of one in recipes/")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="e.g. train.seed=1 data.root=/data/camvid")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="go on where the run was stopped")] = False,
    output: Annotated[Path, typer.Option(help="folder of runs")] = RUNS,
    name: Annotated[str | None, typer.Option(help="run name; default: the recipe's (with _alone for a student)")] = None,
    dry: Annotated[
        bool, typer.Option("--dry-run", help="check recipe, device, data and weights, print the resolved recipe, train nothing")
    ] = False,
) -> None:
    """Train without a teacher: a teacher itself, or the student's own baseline.

    Example: `python -m rdd_deploy.train recipes/camvid_teacher_r101.yaml`
    """
    check_name(name)
    loaded = load_recipe(recipe, overrides or (), name=name)
    if dry:
        dry_run(loaded, _folder(loaded, output, name), resume)
        return
    folder = train_recipe(loaded, output, resume, name)
    console.say(f"done: {folder.path}")
