"""Distil a student by a recipe: the paper's algorithm from data to a finished run folder."""

from __future__ import annotations

if __name__ == "__main__":  # before the imports that take seconds
    from rdd_deploy.cli import start

    start("distill")

import itertools
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
import typer
from lightning_fabric import Fabric

from rdd_deploy import console, pictures
from rdd_deploy.console import command, process_rank
from rdd_deploy.data.loader import Batch
from rdd_deploy.errors import RddError, RecipeError, WeightsError
from rdd_deploy.evaluate import evaluate_split
from rdd_deploy.fit import Loss, Story, fit, make_fabric, seed_everything
from rdd_deploy.locks import InUseError, check_unlocked
from rdd_deploy.losses import EXTRA, RelativeDifficultyLoss
from rdd_deploy.models.predict import autocast_dtype, torch_predictor
from rdd_deploy.models.segmenter import Output, Segmenter
from rdd_deploy.models.weights import Checkpoint, load_checkpoint
from rdd_deploy.places import followed
from rdd_deploy.prepare import Prepared, build, changes, check_early, open_run
from rdd_deploy.recipe import Distillation, Recipe, check_name, find_recipe, load_recipe, option_hint
from rdd_deploy.resuming import ResumeError
from rdd_deploy.run import RUNS, RunFolder
from rdd_deploy.teacher import CachedTeacher, LiveTeacher, TeacherOutput, Views, averaged_predictor, cached_teacher, describe
from rdd_deploy.train import dry_run, facts_of, sizes, summary, train_recipe


class Teacher(NamedTuple):
    """The frozen teacher, ready to teach."""

    segmenter: Segmenter
    outputs: TeacherOutput
    views: Views
    checkpoint: Path
    sha256: str
    """Of the bytes that were loaded."""


class NamedTeacher(NamedTuple):
    """A recipe's teacher before it is loaded: its checkpoint, and the recipe that makes it (with its file) where one is named."""

    checkpoint: Path
    recipe: Recipe | None
    source: Path | None


def distill_recipe(
    recipe: Recipe, source: Path, runs: Path = RUNS, resume: bool = False, name: str | None = None, data: Prepared | None = None
) -> RunFolder:
    """Distil ``recipe.student`` from ``recipe.teacher``.

    Args:
        source: the recipe's file; its teacher recipe is looked for beside it.
        runs: folder of runs. name: of this run; default: the recipe's.
        data: already opened and checked.

    Returns:
        The finished run's folder.
    """
    loss, named = _checked(recipe, source, RunFolder(runs / (name or recipe.name)), resume)
    assert recipe.student is not None
    fabric = make_fabric(recipe.train)
    fabric.launch()
    data = data or Prepared(recipe)
    seed_everything(recipe.train.seed)
    # Before the teacher: its training may take hours, and the student's weights may be missing.
    student, weights_source = build(recipe.student, len(data.validation.task), "student", sizes(recipe))
    with torch.random.fork_rng():  # a teacher that is trained first doesn't change what the student draws
        checkpoint = _teacher_checkpoint(recipe, named, runs, resume, data, fabric)
        teacher = _teacher(recipe, named._replace(checkpoint=checkpoint), data, fabric)
    with open_run(recipe, name or recipe.name, runs, resume) as folder:
        console.say(f"distilling by {recipe.distillation.method} on {fabric.device} in {fabric._precision.precision} -> {folder.path}")
        measured = _measure_teacher(recipe, teacher, data, fabric)
        story = Story(_objective(recipe, loss, teacher), loss.stage, _painter(recipe, loss, teacher, data))
        facts = facts_of(recipe, data, weights_source) | {"teacher_sha256": teacher.sha256}
        result = fit(recipe, student, data.frames, data.validation, story, folder, folder.student, facts, fabric, resume)
        if fabric.is_global_zero:
            folder.finish(summary(recipe, data, student, result | {"teacher": measured}, "distill", weights_source))
    return folder


def _checked(recipe: Recipe, source: Path, folder: RunFolder, resume: bool) -> tuple[RelativeDifficultyLoss, NamedTeacher]:
    """The recipe's loss and teacher, after everything of it was checked that needs neither data nor weights."""
    if recipe.student is None or recipe.teacher is None:
        raise RecipeError(
            f"{source} names no {'student' if recipe.student is None else 'teacher'}; distil needs both (train a lone network with rdd_deploy.train)"
        )
    loss = _loss(recipe.distillation)
    check_early(recipe, folder, resume)
    named = _named_teacher(recipe, source, folder.path.parent)
    _usable(named)
    return loss, named


def _loss(config: Distillation) -> RelativeDifficultyLoss:
    full, relative = config.teacher_full, config.teacher_student
    return RelativeDifficultyLoss(
        stage_share=config.stage_share, hand_over=config.hand_over, divergence=full.divergence, threshold=relative.threshold,
        min_kept=relative.min_kept, rule=relative.rule, reduction=relative.reduction, task_weight=config.task_weight,
        kd_weight=config.kd_weight, temperature=config.temperature, weighted=config.method == "rdd",
    )  # fmt: skip


def _named_teacher(recipe: Recipe, source: Path, runs: Path) -> NamedTeacher:
    """What the recipe says of its teacher, checked before anything heavy is done."""
    config = recipe.teacher
    assert config is not None
    if config.recipe is None:
        path = followed(Path(str(config.checkpoint)))
        if not path.is_file():
            raise WeightsError(f"no teacher checkpoint {path}; put it there, or name teacher.recipe so that the teacher is trained first")
        return NamedTeacher(path, None, None)
    teacher_path = find_recipe(config.recipe, beside=source)
    teacher = load_recipe(teacher_path)
    if teacher.network is None:
        raise RecipeError(f"teacher.recipe {teacher_path} is not a teacher recipe: it has no 'network' part")
    # The same frames in the same place, on the same device: only what describes the teacher itself comes from its own recipe.
    same = {
        key: getattr(recipe.data, key)
        for key in ("name", "root", "classes", "palette", "ids", "void_ids", "others_void", "count", "seed", "workers")
    }
    device = {key: getattr(recipe.train, key) for key in ("device", "devices", "nodes", "precision")}
    teacher = teacher.model_copy(update={"data": teacher.data.model_copy(update=same), "train": teacher.train.model_copy(update=device)})
    path = followed(Path(config.checkpoint)) if config.checkpoint else runs / teacher.name / "teacher.safetensors"
    return NamedTeacher(path, teacher, teacher_path)


def _teacher_checkpoint(recipe: Recipe, named: NamedTeacher, runs: Path, resume: bool, data: Prepared, fabric: Fabric) -> Path:
    """The teacher's checkpoint; where it isn't there or its training isn't finished, it is trained by its recipe first, or to its end."""
    config, path, teacher, teacher_path = recipe.teacher, *named
    if teacher is None:
        return path
    assert config is not None
    folder = RunFolder(runs / teacher.name)
    # The first of several processes decides for all: the others would by what it has written meanwhile.
    usable, begun = fabric.broadcast((_usable(named), _begun(folder, teacher)) if process_rank() == 0 else (False, False))
    if usable:
        if not config.checkpoint and process_rank() == 0 and folder.recipe.is_file() and (changed := _other_teacher(folder, teacher)):
            console.warn(
                f"the teacher in {folder.path} is used as it is, though {teacher_path} is another recipe now ({', '.join(changed)}); move that "
                "folder away to train it anew"
            )
        return path
    if config.checkpoint and path != folder.teacher:
        console.warn(f"no teacher checkpoint {path}; training {teacher_path} instead, its checkpoint goes to {folder.path}")
    console.say(f"the teacher {folder.path} isn't there or isn't finished: training it first by {teacher_path}")
    shared = data if teacher.data == recipe.data else None
    try:
        checkpoint = train_recipe(teacher, runs, resume=resume or begun, data=shared).teacher
    except InUseError as error:
        raise _being_trained(error) from error
    except ResumeError as error:
        if resume:  # that was asked for, so it isn't left out silently
            raise
        console.warn(f"{error}. Nobody asked to resume the teacher: it is trained from the beginning")
        checkpoint = train_recipe(teacher, runs, data=shared).teacher
    fabric.barrier()  # the first process writes the summary after the last step
    return checkpoint


def _begun(folder: RunFolder, teacher: Recipe) -> bool:
    """Whether a teacher's training was stopped and can go on."""
    try:
        return folder.state.is_file() and folder.recipe.is_file() and not changes(folder, teacher)
    except RddError:  # the recipe that it was begun by can't be read
        return False


def _usable(named: NamedTeacher) -> bool:
    """Whether the teacher's checkpoint is there and whole: of a run that is finished, or put where it is by hand.

    Raises:
        InUseError: it is being trained. WeightsError: it is of an unfinished run that isn't this teacher's own.
    """
    folder = RunFolder(named.checkpoint.resolve().parent)
    try:
        check_unlocked(folder.path)
    except InUseError as error:
        raise _being_trained(error) from error
    if not named.checkpoint.is_file():
        return False
    if folder.finished or not folder.recipe.is_file():
        return True
    if named.recipe is None:
        raise WeightsError(
            f"the teacher {named.checkpoint} is of a run that isn't finished (it has no {folder.summary.name}); finish it with --resume, or "
            "copy the checkpoint to another folder to use it as it is"
        )
    return False


def _being_trained(error: InUseError) -> InUseError:
    who = str(error).partition(";")[0]
    return InUseError(
        f"{who}, the teacher of this distillation; wait until it ends, then start again, or name a finished teacher.checkpoint"
    )


def _other_teacher(folder: RunFolder, teacher: Recipe) -> list[str]:
    """How a finished teacher's recipe differs from today's, but for where and how fast it was trained."""
    return [line for line in changes(folder, teacher) if line.partition(":")[0] not in WHERE]


WHERE = {
    "data.root", "data.workers", "data.memory", "train.device", "train.devices", "train.nodes", "train.precision", "train.compile",
    "train.save_every", "train.pictures_every", "evaluation.batch",
}  # fmt: skip
"""Keys that say nothing of what a teacher knows."""


def _teacher(recipe: Recipe, named: NamedTeacher, data: Prepared, fabric: Fabric) -> Teacher:
    """Load, guard and wrap the teacher."""
    config, checkpoint = recipe.teacher, named.checkpoint
    assert config is not None
    segmenter, facts, sha256 = _load_teacher(recipe, checkpoint, data)
    # Looked at again: another process may have begun to train it anew between the first look and the reading.
    if process_rank() == 0 and not _usable(named):
        raise WeightsError(f"the teacher {checkpoint} was replaced by an unfinished one while it was read; start again")
    if fabric.broadcast(sha256) != sha256:
        raise WeightsError(f"the processes that train together read different teachers from {checkpoint}; give all of them the same file")
    segmenter = segmenter.to(fabric.device, memory_format=torch.channels_last).eval().requires_grad_(False)  # type: ignore[call-overload]
    views = Views(tuple(facts["size"]), tuple(config.scales), config.flip)
    if not config.cache:
        console.say(f"teacher: {checkpoint}, run on every crop")
        live = LiveTeacher(segmenter, autocast_dtype(str(fabric._precision.precision)))
        return Teacher(segmenter, live, Views(recipe.data.size), checkpoint, sha256)
    return Teacher(segmenter, _cache(segmenter, checkpoint, sha256, data, views, fabric), views, checkpoint, sha256)


def _load_teacher(recipe: Recipe, checkpoint: Path, data: Prepared) -> Checkpoint:
    loaded = load_checkpoint(checkpoint, list(data.validation.task.classes))
    if "size" not in loaded.facts:
        raise WeightsError(
            f"{checkpoint} doesn't say at which frame size it was trained; expected a checkpoint written by distill or train"
        )
    method = recipe.distillation
    if method.method == "rdd" and method.stage_share > 0 and loaded.segmenter.auxiliary is None:
        raise WeightsError(
            f"{checkpoint} has no auxiliary head, which stage 1 of RDD compares with; train a teacher with auxiliary: true, or set distillation.stage_share=0"
        )
    return loaded


def _cache(segmenter: Segmenter, checkpoint: Path, sha256: str, data: Prepared, views: Views, fabric: Fabric) -> CachedTeacher:
    console.say(
        f"teacher: {checkpoint}, dense cache over {views.size[0]}x{views.size[1]} frames, scales {list(views.scales)}{', mirrored too' if views.flip else ''}"
    )
    precision = autocast_dtype(str(fabric._precision.precision))
    with console.progress("teacher cache", len(data.frames)) as bar, fabric.rank_zero_first():
        return cached_teacher(
            segmenter, sha256, data.frames.split, data.digest, views, checkpoint.parent / "cache", fabric.device, precision,
            bar.advance,
        )  # fmt: skip


def _measure_teacher(recipe: Recipe, teacher: Teacher, data: Prepared, fabric: Fabric) -> dict[str, Any]:
    """The teacher's own mIoU, seen as the student sees it."""
    if isinstance(teacher.outputs, LiveTeacher):
        predict = torch_predictor(teacher.segmenter, recipe.data.size, fabric.device)
    else:
        predict = averaged_predictor(teacher.segmenter, teacher.views, fabric.device)
    measured = evaluate_split(predict, data.validation, 4).summary()
    console.say(f"teacher: mIoU {measured['miou_pct']:.2f} % on {recipe.evaluation.split}")
    return {"checkpoint": str(teacher.checkpoint), "views": describe(teacher.views), **measured}


def _objective(recipe: Recipe, loss: RelativeDifficultyLoss, teacher: Teacher) -> Any:
    losses = recipe.distillation.losses
    names = _columns([extra.name for extra in losses])
    extras = [(name, extra.weight, EXTRA[extra.name](**extra.options)) for name, extra in zip(names, losses, strict=True)]
    auxiliary_weight = recipe.train.auxiliary_weight

    def objective(output: Output, batch: Batch, progress: float) -> Loss:
        taught = teacher.outputs(batch, "tfe" in loss.stage(progress))
        result = loss(output.primary, taught.primary, taught.auxiliary, batch.labels, progress, output.auxiliary, auxiliary_weight)
        total, terms = result.total, dict(result.terms)
        for name, weight, extra in extras:
            value = extra(output.primary, taught.primary, batch.labels)
            total, terms[name] = total + weight * value, value.detach()
        return Loss(total, terms)

    return objective


def _columns(names: list[str]) -> list[str]:
    """A name in the log for each extra loss: its own, unless the built-in KD term or one before it has that already."""
    columns: list[str] = []
    for name in names:
        candidates = itertools.chain((name, f"extra_{name}"), (f"extra_{name}_{number}" for number in itertools.count(2)))
        columns.append(next(one for one in candidates if one not in ("kd", *columns)))
    return columns


def _painter(recipe: Recipe, loss: RelativeDifficultyLoss, teacher: Teacher, data: Prepared) -> Any:
    """Pictures of two validation frames: frame, truth, student, teacher, the weight of each pixel in both stages."""
    split, size = data.validation, recipe.data.size
    indices = (0, len(split) // 2)

    def paint(path: Path, student: Segmenter) -> None:
        rows = [pictures.distillation_row(split, index, size, student, teacher.segmenter, teacher.views, loss) for index in indices]
        pictures.write_rows(path, rows, size)

    return paint


@partial(command, hint=option_hint)
def main(
    recipe: Annotated[str, typer.Argument(help="a recipe file, or the name of one in recipes/")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="e.g. train.seed=1 data.root=/data/camvid")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="go on where the run was stopped")] = False,
    output: Annotated[Path, typer.Option(help="folder of runs")] = RUNS,
    name: Annotated[str | None, typer.Option(help="run name; default: the recipe's")] = None,
    dry: Annotated[
        bool, typer.Option("--dry-run", help="check recipe, device, data, weights and teacher, print the resolved recipe, train nothing")
    ] = False,
) -> None:
    """Distil a student from a teacher with two-stage Relative Difficulty Distillation.

    Gets the data, trains the teacher first where its checkpoint isn't there, distils, evaluates, writes the run folder.

    Example: `python -m rdd_deploy.distill recipes/camvid_effnet_lite0.yaml data.root=../shared/data/camvid train.seed=1`
    """
    check_name(name)
    loaded = load_recipe(recipe, overrides or (), distil=True, name=name)
    if dry:
        _dry_run(loaded, find_recipe(recipe), RunFolder(output / (name or loaded.name)), resume)
        return
    folder = distill_recipe(loaded, find_recipe(recipe), output, resume, name)
    console.say(f"done: {folder.path}; next: python -m rdd_deploy.export {folder.path} --onnx")


def _dry_run(recipe: Recipe, source: Path, folder: RunFolder, resume: bool) -> None:
    def check_teacher(data: Prepared | None) -> None:
        named = _named_teacher(recipe, source, folder.path.parent)
        assert recipe.teacher is not None
        if _usable(named):
            if data:
                _load_teacher(recipe, named.checkpoint, data)
        elif named.recipe is not None and named.recipe.network is not None:
            build(named.recipe.network, len(data.validation.task) if data else 2, "teacher, to be trained first", sizes(named.recipe))

    dry_run(recipe, folder, resume, check_teacher)
