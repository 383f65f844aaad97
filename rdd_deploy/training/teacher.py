"""The teacher of a distillation: found or trained first, loaded, frozen, and wrapped as live or cached."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from lightning_fabric import Fabric

from rdd_deploy import console
from rdd_deploy.console import process_rank
from rdd_deploy.data.loader import Batch
from rdd_deploy.data.resident import room_on
from rdd_deploy.errors import DataError, RddError, RecipeError, WeightsError
from rdd_deploy.models.predict import autocast_dtype
from rdd_deploy.models.teachers.base import TeacherModel
from rdd_deploy.models.teachers.config import FOREIGN, Member, no_checkpoint
from rdd_deploy.models.teachers.second import Fitted, SecondView
from rdd_deploy.models.tta import TestTimeAugmentation
from rdd_deploy.outputs import resized
from rdd_deploy.recipe import StudentRecipe, TeacherRecipe, load_recipe
from rdd_deploy.recipe_files import find_recipe
from rdd_deploy.training.data import TrainingData
from rdd_deploy.training.fabric import precision_of
from rdd_deploy.training.fitted_second import fit_second
from rdd_deploy.training.resume import ResumeError
from rdd_deploy.training.run_folder import RunFolder
from rdd_deploy.training.session import changes
from rdd_deploy.training.supervised import train_recipe
from rdd_deploy.training.teacher_cache import CacheForm, TeacherPrediction, cached_teacher
from rdd_deploy.training.teacher_loading import load_teacher as load_teacher
from rdd_deploy.utils.locks import InUseError, check_unlocked
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
            raise WeightsError(no_checkpoint(path, "teacher"))
        if config.source == "segmenter" and path.suffix.lower() in FOREIGN:
            raise WeightsError(no_checkpoint(path, "teacher"))
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
    loaded = load_teacher(recipe, paths, data)
    model, sha256 = loaded.model, loaded.sha256
    # Looked at a second time: another process may have begun to train it between the first look and the reading.
    if process_rank() == 0 and not all(map(is_usable, named)):
        raise WeightsError(f"the teacher {name} was replaced by an unfinished one while it was read; start again")
    if fabric.broadcast(sha256) != sha256:
        raise WeightsError(
            f"the processes that train together read different teachers from {name}; give all of them the same file"
        )
    frames = {
        f"training frames in {recipe.data.root}": data.digest,
        "frames of data.unlabelled": data.unlabelled.digest if data.unlabelled is not None else "",
    }
    different = [what for what, digest in frames.items() if fabric.broadcast(digest) != digest]
    if different:
        raise DataError(
            f"the processes that train together read different {different[0]}; give every machine the same files"
        )
    model = model.to(fabric.device, memory_format=torch.channels_last).eval().requires_grad_(False)
    views = TestTimeAugmentation(recipe.data.size)
    if config.cache:
        size = config.size or loaded.size or recipe.data.size
        views = TestTimeAugmentation(size, tuple(config.scales), config.flip)
    caches = runs / "hub_teachers" / "cache" if named[0].from_hub else paths[0].parent / "cache"
    precision = autocast_dtype(precision_of(fabric))
    if isinstance(model, Fitted):
        facts_of_data = {"frames": data.digest, "labels": data.train_facts.labels_digest}
        sha256 = fit_second(
            model, sha256, data.frames, facts_of_data, views.size, caches, fabric.device, precision, fabric
        )
    return Teacher(model, LiveTeacher(model, precision), views, paths[0], sha256, caches, name, loaded.facts)


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
