"""The teacher of a distillation: found or trained first, loaded, frozen, and wrapped as live or cached."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from lightning_fabric import Fabric

from rdd_deploy import __version__, console
from rdd_deploy.console import process_rank
from rdd_deploy.data.loader import Batch
from rdd_deploy.data.resident import room_on
from rdd_deploy.errors import RddError, RecipeError, WeightsError
from rdd_deploy.metrics import protocol
from rdd_deploy.models.predict import autocast_dtype
from rdd_deploy.models.teachers.base import TeacherModel
from rdd_deploy.models.teachers.config import Member
from rdd_deploy.models.teachers.second import Fitted, SecondView
from rdd_deploy.models.tta import TestTimeAugmentation, describe, tta_predictor
from rdd_deploy.outputs import resized
from rdd_deploy.recipe import StudentRecipe, TeacherRecipe, load_recipe
from rdd_deploy.recipe_files import find_recipe
from rdd_deploy.training.data import TrainingData
from rdd_deploy.training.fabric import evaluate_together, precision_of
from rdd_deploy.training.fitted_second import fit_second
from rdd_deploy.training.resume import ResumeError
from rdd_deploy.training.run_folder import RunFolder
from rdd_deploy.training.session import changes
from rdd_deploy.training.supervised import train_recipe
from rdd_deploy.training.teacher_cache import CacheForm, TeacherPrediction, cached_teacher
from rdd_deploy.training.teacher_loading import load_teacher as load_teacher
from rdd_deploy.utils import files
from rdd_deploy.utils.locks import InUseError, check_unlocked
from rdd_deploy.utils.machine import git_commit
from rdd_deploy.utils.places import followed


class TeacherOutput(Protocol):
    """What a teacher says of a batch of crops, live or from the cache."""

    def __call__(self, batch: Batch, auxiliary: bool, maps: Mapping[str, tuple[int, int]] = {}) -> TeacherPrediction:
        """Logits at the crops' size without gradient; the auxiliary ones, or the weight that stage 1 makes of them,
        where asked for; the named maps.

        Args:
            maps: name -> (height, width) of the student's map; a cache answers at that size, a live teacher at its own.
        """
        ...


class LiveTeacher:
    """Runs the teacher on the student's own crops, as the paper does, in the student's precision (None: float32)."""

    def __init__(self, model: TeacherModel, dtype: torch.dtype | None = None) -> None:
        self.model, self.dtype = model.eval().requires_grad_(False), dtype

    def __call__(self, batch: Batch, auxiliary: bool, maps: Mapping[str, tuple[int, int]] = {}) -> TeacherPrediction:
        with (
            torch.no_grad(),
            torch.autocast(batch.images.device.type, dtype=self.dtype, enabled=self.dtype is not None),
        ):
            # Another view of the frames is a second run of the teacher, which only stage 1 asks for.
            model = self.model.first if isinstance(self.model, SecondView) and not auxiliary else self.model
            small = model.logits_at_stride(batch.images, maps)
            size = batch.images.shape[-2:]
            second = None if small.auxiliary is None else resized(small.auxiliary.float(), size)
            return TeacherPrediction(resized(small.primary.float(), size), second, small.features)


class Teacher(NamedTuple):
    """The frozen teacher, ready to teach."""

    model: TeacherModel
    outputs: TeacherOutput
    views: TestTimeAugmentation
    checkpoint: Path
    sha256: str
    """Of the bytes that were loaded, and of all that changes what they say."""
    caches: Path
    """Folder of what is kept of it."""
    name: str
    """For people: its checkpoint, or those of its networks."""
    facts: Mapping[str, Any] = {}
    """For the run's summary."""


class NamedTeacher(NamedTuple):
    """A network of a recipe's teacher, not loaded yet: its checkpoint, and the recipe that makes it, if one is named."""

    checkpoint: Path
    recipe: TeacherRecipe | None
    source: Path | None
    from_hub: bool = False


def named_teachers(recipe: StudentRecipe, source: Path, runs: Path) -> list[NamedTeacher]:
    """What the recipe says of each network of its teacher, checked before anything heavy is done."""
    assert recipe.teacher is not None
    return [_named(one, recipe, source, runs) for one in recipe.teacher.members]


def named_teacher(recipe: StudentRecipe, source: Path, runs: Path) -> NamedTeacher:
    """The same of a teacher's only network, or its first."""
    return named_teachers(recipe, source, runs)[0]


def _named(config: Member, recipe: StudentRecipe, source: Path, runs: Path) -> NamedTeacher:
    if config.recipe is None:
        if config.from_hub:
            return NamedTeacher(Path(str(config.checkpoint)), None, None, True)
        path = followed(Path(str(config.checkpoint)))
        if not path.is_file() and (config.source == "segmenter" or not path.is_dir()):
            raise WeightsError(
                f"no teacher checkpoint {path}; put it there, or name teacher.recipe so that the teacher is trained"
                " first"
            )
        return NamedTeacher(path, None, None)
    teacher_path = find_recipe(config.recipe, beside=source)
    teacher = load_recipe(teacher_path)
    if not isinstance(teacher, TeacherRecipe):
        raise RecipeError(f"teacher.recipe {teacher_path} is not a teacher recipe: it has no 'network' part")
    teacher = teacher.beside(recipe)
    path = followed(Path(config.checkpoint)) if config.checkpoint else runs / teacher.name / "teacher.safetensors"
    return NamedTeacher(path, teacher, teacher_path)


def teacher_checkpoint(
    recipe: StudentRecipe, named: NamedTeacher, runs: Path, resume: bool, data: TrainingData, fabric: Fabric
) -> Path:
    """The teacher's checkpoint; where it isn't there or isn't finished, it is trained by its recipe first."""
    path, teacher, teacher_path, _ = named
    if teacher is None:
        return path
    own = path == runs / teacher.name / "teacher.safetensors"
    folder = RunFolder(runs / teacher.name)
    # The first of several processes decides for all: the others would by what it has written meanwhile.
    usable, begun = fabric.broadcast(
        (is_usable(named), _begun(folder, teacher)) if process_rank() == 0 else (False, False)
    )
    if usable:
        if own and process_rank() == 0 and folder.recipe.is_file() and (changed := _other_teacher(folder, teacher)):
            console.warn(
                f"the teacher in {folder.path} is used as it is, though {teacher_path} is another recipe now"
                f" ({', '.join(changed)}); move that folder away to train it again"
            )
        return path
    if path != folder.teacher:
        console.warn(
            f"no teacher checkpoint {path}; training {teacher_path} instead, its checkpoint goes to {folder.path}"
        )
    console.info(f"the teacher {folder.path} isn't there or isn't finished: training it first by {teacher_path}")
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


def _begun(folder: RunFolder, teacher: TeacherRecipe) -> bool:
    """Whether a teacher's training was stopped and can go on."""
    try:
        return folder.state.is_file() and folder.recipe.is_file() and not changes(folder, teacher)
    except RddError:  # the recipe that it was begun by can't be read
        return False


def is_usable(named: NamedTeacher) -> bool:
    """Whether the teacher's checkpoint is there and whole: of a run that is finished, or put where it is by hand.

    Raises:
        InUseError: it is being trained. WeightsError: it is of an unfinished run that isn't this teacher's own.
    """
    if named.from_hub:
        return True
    folder = RunFolder(named.checkpoint.resolve().parent)
    try:
        check_unlocked(folder.path)
    except InUseError as error:
        raise _being_trained(error) from error
    if not named.checkpoint.exists():
        return False
    if folder.finished or not folder.recipe.is_file():
        return True
    if named.recipe is None:
        raise WeightsError(
            f"the teacher {named.checkpoint} is of a run that isn't finished (it has no {folder.summary.name}); finish"
            " it with --resume, or copy the checkpoint to another folder to use it as it is"
        )
    return False


def _being_trained(error: InUseError) -> InUseError:
    who = str(error).partition(";")[0]
    return InUseError(
        f"{who}, the teacher of this distillation; wait until it ends, then start again, or name a finished"
        " teacher.checkpoint"
    )


def _other_teacher(folder: RunFolder, teacher: TeacherRecipe) -> list[str]:
    """How a finished teacher's recipe differs from today's, but for where and how fast it was trained."""
    return [line for line in changes(folder, teacher) if line.partition(":")[0] not in WHERE]


WHERE = {
    "data.root", "data.workers", "data.in_memory", "data.device", "train.device", "train.devices", "train.nodes", "train.precision", "train.tf32", "train.deterministic", "train.compile",
    "train.save_minutes", "train.pictures_every", "evaluation.batch",
}  # fmt: skip
"""Keys that say nothing of what a teacher knows."""


def open_teacher(
    recipe: StudentRecipe, named: Sequence[NamedTeacher], data: TrainingData, fabric: Fabric, runs: Path
) -> Teacher:
    """Load and guard the teacher, as one that runs on every crop; ``with_cache`` puts its cache in place of that.

    Args:
        named: its networks, each there. runs: folder of runs.
    """
    config, paths = recipe.teacher, [one.checkpoint for one in named]
    assert config is not None
    name = " + ".join(map(str, paths))
    model, trained_size, sha256, *_, facts = load_teacher(recipe, paths, data)
    # Looked at a second time: another process may have begun to train it between the first look and the reading.
    if process_rank() == 0 and not all(map(is_usable, named)):
        raise WeightsError(f"the teacher {name} was replaced by an unfinished one while it was read; start again")
    if fabric.broadcast(sha256) != sha256:
        raise WeightsError(
            f"the processes that train together read different teachers from {name}; give all of them the same file"
        )
    model = model.to(fabric.device, memory_format=torch.channels_last).eval().requires_grad_(False)
    views = TestTimeAugmentation(recipe.data.size)
    if config.cache:
        views = TestTimeAugmentation(trained_size or recipe.data.size, tuple(config.scales), config.flip)
    caches = runs / "hub_teachers" / "cache" if named[0].from_hub else paths[0].parent / "cache"
    precision = autocast_dtype(precision_of(fabric))
    if isinstance(model, Fitted):
        facts_of_data = {"frames": data.digest, "labels": data.train_facts.labels_digest}
        sha256 = fit_second(
            model, sha256, data.frames, facts_of_data, views.size, caches, fabric.device, precision, fabric
        )
    return Teacher(model, LiveTeacher(model, precision), views, paths[0], sha256, caches, name, facts)


def with_cache(
    recipe: StudentRecipe, teacher: Teacher, data: TrainingData, maps: Collection[str], fabric: Fabric
) -> Teacher:
    """The teacher speaking from its cache, filled first where it isn't there; as it is where the recipe wants none.

    Args:
        maps: those that losses read of it.
    """
    config, views = recipe.teacher, teacher.views
    assert config is not None
    if not config.cache:
        console.info(f"teacher: {teacher.name}, run on every crop")
        return teacher
    form: CacheForm = "dense" if config.cache == "dense" else "compact"
    console.info(
        f"teacher: {teacher.name}, {form} cache over {views.size[0]}x{views.size[1]} frames, scales"
        f" {list(views.scales)}"
        f"{', mirrored too' if views.flip else ''}{', with ' + ', '.join(sorted(maps)) if maps else ''}"
    )
    with console.progress("teacher cache", len(data.frames)) as bar:
        cached = cached_teacher(
            teacher.model, teacher.sha256, data.frames.split, data.digest, views, teacher.caches, fabric.device,
            autocast_dtype(precision_of(fabric)), bar.advance, form=form, divergence=recipe.distillation.tfe.divergence, maps=maps, fabric=fabric,
        )  # fmt: skip
    if cached.nbytes < room_on(fabric.device, recipe.data.device):
        console.info(f"teacher cache: held on the GPU, {cached.nbytes / 1e9:.1f} GB")
        cached.to(fabric.device)
    return teacher._replace(outputs=cached)


def measure_teacher(recipe: StudentRecipe, teacher: Teacher, data: TrainingData, fabric: Fabric) -> dict[str, Any]:
    """The teacher's own mIoU, as the student sees it; a cached one's is kept beside its cache, for all students."""
    told = {"checkpoint": teacher.name, "views": describe(teacher.views), **teacher.facts}
    if isinstance(teacher.outputs, LiveTeacher):  # its logits are resized straight to the frame's size
        return told | _measured(recipe, teacher, data, fabric, recipe.data.size)
    commit = git_commit() or ""
    key = {
        "code": [__version__, commit], "teacher": teacher.sha256, "views": told["views"], "device": fabric.device.type, "precision": precision_of(fabric), "tf32": recipe.train.tf32,
        "frames": data.val_facts.digest, "labels": data.val_facts.labels_digest,
    }  # fmt: skip
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    place = teacher.caches / f"measured-{digest}.json"
    kept: dict[str, Any] | None = None
    with suppress(OSError, ValueError, TypeError, KeyError):  # not there, or damaged
        found = files.parse_json(place.read_bytes())
        if found["key"] == key and float(found["measured"]["miou_pct"]) >= 0:
            kept = dict(found["measured"])
    # The first of several processes decides for all, who measure together.
    if (kept := fabric.broadcast(kept)) is not None:
        console.info(f"teacher: mIoU {kept['miou_pct']:.2f} % on {recipe.evaluation.split}, as measured before")
        return {**told, **kept}
    measured = _measured(recipe, teacher, data, fabric, None)  # by way of the cache's grid
    if fabric.is_global_zero and not commit.endswith("-dirty"):  # that may be other code the next time
        with suppress(RddError):  # a teacher in a place that can't be written is measured each time
            files.write_json(place, {"key": key, "measured": measured})
    return told | measured


def _measured(
    recipe: StudentRecipe, teacher: Teacher, data: TrainingData, fabric: Fabric, grid: tuple[int, int] | None
) -> dict[str, Any]:
    precision = autocast_dtype(precision_of(fabric))
    predict = tta_predictor(teacher.model, teacher.views, fabric.device, precision, grid)  # as it teaches
    measured = evaluate_together(predict, data.validation, 4, fabric).summary()
    console.info(f"teacher: mIoU {measured['miou_pct']:.2f} % on {recipe.evaluation.split}")
    return measured


def warn_below_baseline(
    recipe: StudentRecipe, measured: Mapping[str, Any], folder: RunFolder, data: TrainingData
) -> None:
    """Warn of a teacher that is below what the student reaches alone, where a run beside this one has measured that."""
    of_a_study = f"alone_s{recipe.train.seed}"
    baselines = (f"{folder.path.name}_alone", f"{recipe.name}_alone", of_a_study)
    split, size, classes = recipe.evaluation.split, recipe.data.size, len(data.validation.label_space)
    wanted = protocol(recipe.data.name, split, len(data.validation), size, classes)
    for name in dict.fromkeys(baselines):
        place = folder.path.parent / name / "summary.json"
        with suppress(OSError, ValueError, TypeError, KeyError):  # not there, or not such a summary
            summary = files.parse_json(place.read_bytes())
            alone, taught = float(summary["best"]["miou_pct"]), float(measured["miou_pct"])
            if summary["protocol"] == wanted and taught < alone and process_rank() == 0:
                console.warn(
                    f"the teacher's mIoU is {taught:.2f} % on {recipe.evaluation.split}, below the {alone:.2f} % that"
                    f" the student reaches alone ({place.parent}); distilling from it may make the student worse: take"
                    " a better teacher, or look at its classes and preprocessing"
                )
                return
