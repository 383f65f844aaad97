"""The closed schema of a recipe: every problem is reported at once, before anything heavy loads.

A recipe is one experiment in one YAML file. ``load_recipe`` reads it, applies ``key.sub=value`` overrides and checks
everything.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias, cast

from pydantic import Field

from rdd_deploy.data.config import REST, Augment, Data, options_of
from rdd_deploy.errors import RecipeError
from rdd_deploy.losses.config import Distillation
from rdd_deploy.models.config import Network
from rdd_deploy.models.teachers.config import Teacher, no_checkpoint, spell_out
from rdd_deploy.recipe_files import can_name_a_run, find_places, find_recipe, whole_paths, written_places
from rdd_deploy.recipe_train import Evaluation, Train
from rdd_deploy.schema import (
    Name,
    Part,
    changed,
    override_all,
    validated,
    with_new_names,
)
from rdd_deploy.utils.problems import meant
from rdd_deploy.utils.yaml_file import load_yaml


class _Data(Part):
    """What every recipe begins with."""

    name: Name = Field("", description="run name; default: the file's name")
    data: Data = Field(
        default_factory=lambda: options_of("camvid").model_validate({}), description="which frames, at which size"
    )
    augment: Augment = Augment()

    def rules(self) -> Iterator[tuple[str, str]]:
        """The rest of the training frames is one; a teacher is trained with labels alone."""
        if REST in self.data.unlabelled and self.data.labelled == 1:
            yield (
                "data",
                (
                    "data.unlabelled: rest are the frames that data.labelled leaves out, which is 1: set data.labelled"
                    " to less, e.g. 0.25"
                ),
            )
        if self.data.unlabelled and isinstance(self, TeacherRecipe):
            yield (
                "data",
                "data.unlabelled: a teacher is trained with labels alone; leave it out here, it is a student's key",
            )


def _pasted(augment: Augment, train: Train) -> Iterator[tuple[str, str]]:
    """A crop gets what another one of its batch has."""
    if augment.copy_paste and train.batch == 1:
        yield (
            "augment train",
            "augment.copy_paste copies from another crop of the batch, and train.batch is 1; expected 2 or more, or"
            " augment.copy_paste=0",
        )


class TeacherRecipe(_Data):
    """A network to be trained with labels alone, as a teacher."""

    network: Network
    train: Train = Train()
    evaluation: Evaluation = Evaluation()

    def rules(self) -> Iterator[tuple[str, str]]:
        """As all, and of its batches."""
        yield from super().rules()
        yield from _pasted(self.augment, self.train)

    @property
    def trained(self) -> Network:
        """The network that this recipe trains."""
        return self.network

    def beside(self, student: StudentRecipe) -> TeacherRecipe:
        """This teacher on a student's frames and device: only what describes the teacher itself comes from its own
        recipe.

        One that may see another share of the labels than its recipe says has a name of its own, or it would be taken
        for the recipe's.
        """
        where = f"the teacher's recipe {self.name} on the student's data and devices"
        data = changed(student.data.alone(), where, size=self.data.size, in_memory=self.data.in_memory)
        name = self.name if data.labelled == self.data.labelled else f"{self.name}_{data.labelled:g}_labels"
        device = {
            key: getattr(student.train, key)
            for key in ("device", "devices", "nodes", "precision", "tf32", "deterministic")
        }
        return changed(self, where, name=name, data=data, train=changed(self.train, where, **device))


class StudentRecipe(_Data):
    """A student, and the teacher that it is distilled from; ``train`` trains it alone."""

    student: Network
    teacher: Teacher | None = None
    distillation: Distillation = Distillation()
    train: Train = Train()
    evaluation: Evaluation = Evaluation()

    def rules(self) -> Iterator[tuple[str, str]]:
        """Each batch has a frame with labels, and one without where such join."""
        yield from super().rules()
        yield from _pasted(self.augment, self.train)
        if self.teacher and self.data.unlabelled and self.distillation.unlabelled.share and self.train.batch == 1:
            yield (
                "data train",
                "data.unlabelled joins frames with labels in each batch, and train.batch is 1; expected 2 or more",
            )

    @property
    def trained(self) -> Network:
        """The network that this recipe trains."""
        return self.student


Recipe: TypeAlias = StudentRecipe | TeacherRecipe
"""One experiment."""


class _Unclear(_Data):
    """Of neither kind, or of both: never valid, so that the rest's problems can be told with it."""

    network: Network | None = None
    student: Network | None = None
    teacher: Teacher | None = None
    distillation: Distillation = Distillation()
    train: Train = Train()
    evaluation: Evaluation = Evaluation()

    @classmethod
    def presence(cls, given: set[str]) -> Iterator[str]:
        """A student or a teacher."""
        if len({"network", "student"} & given) != 1:
            yield (
                "a recipe has either a student (to distil) or a network (to be trained as a teacher), not both and not"
                " neither"
            )
        if {"network", "teacher"} <= given:
            yield "a teacher recipe (network) can't name a teacher; a student recipe does"


def kind_of(tree: Mapping[str, Any]) -> type[StudentRecipe | TeacherRecipe | _Unclear]:
    """The schema of an unchecked tree: a student's, a teacher's, or one that nothing fits."""
    given = {key for key in ("network", "student", "teacher") if tree.get(key) is not None}
    if "network" in given:
        return TeacherRecipe if given == {"network"} else _Unclear
    return StudentRecipe if "student" in given else _Unclear


def load_recipe(path: str | Path, overrides: Sequence[str] = (), name: str | None = None) -> Recipe:
    """Read a recipe with its overrides.

    Args:
        path: a YAML file, or the name of one in ``recipes/``.
        overrides: ``key.sub=value`` strings; values are YAML.
        name: of the run, where the recipe gives none and its file's name can't be one.

    Raises:
        RecipeError: file missing or not YAML, or one or more problems, all listed with their dotted paths.
    """
    path, tree, problems = _read(path, overrides, name)
    return validated(kind_of(tree), tree, path, problems)  # type: ignore[return-value]  # never _Unclear


def load_distillation(path: str | Path, overrides: Sequence[str] = (), name: str | None = None) -> StudentRecipe:
    """Read a recipe as ``load_recipe`` does, and check what distillation needs: a student, and a teacher that is there
    or can be made.
    """
    path, tree, problems = _read(path, overrides, name)
    problems += _distillation_problems(tree, path)
    recipe = cast(StudentRecipe, validated(kind_of(tree), tree, path, problems))  # else a problem was found
    if clashes := list(recipe.distillation.clashes(recipe.train.task_loss)):
        raise RecipeError(f"{path}: {clashes[0]}", *clashes[1:])
    return recipe


def load_written(path: Path) -> Recipe:
    """Read the ``recipe.yaml`` of a run folder, which an earlier version may have written: with that version's keys,
    every default spelled out, and a teacher's with a student's parts."""
    path, tree, problems = _read(path, (), None)
    kind = kind_of(tree)
    tree = with_new_names(StudentRecipe if kind is TeacherRecipe else kind, tree)
    if kind is TeacherRecipe:
        tree.pop("distillation", None)
    return validated(kind, tree, path, problems)  # type: ignore[return-value]  # never _Unclear


def _read(
    path: str | Path, overrides: Sequence[str], name: str | None
) -> tuple[Path, dict[str, Any], list[RecipeError]]:
    """A recipe's file, its unchecked tree with overrides and found paths, and what is wrong with either."""
    path = find_recipe(path)
    tree = load_yaml(path)
    problems = spell_out(tree)
    places = written_places(tree)
    problems += override_all(tree, overrides)
    problems += spell_out(tree)
    find_places(tree, path, places)
    if "name" not in tree:
        usable = can_name_a_run(path.stem)
        tree["name"] = path.stem if usable else name or "unnamed"
        if not usable and not name:
            problems.append(
                RecipeError(
                    f"name: not given, and the file's name '{path.stem}' can't be a run's; expected letters, digits,"
                    " '.', '_' and '-', beginning with a letter or digit, and not 'latest': rename the file, give"
                    " name: in it, or --name"
                )
            )
    return path, tree, problems


def with_whole_paths(recipe: Recipe) -> Recipe:
    """The recipe with absolute paths: it means the same from any folder."""
    changes = whole_paths(recipe.model_dump(mode="json"))
    own = {part: getattr(recipe, part).model_copy(update=values) for part, values in changes.items() if "." not in part}
    if isinstance(recipe, StudentRecipe) and recipe.teacher and recipe.teacher.ensemble:
        members = [
            one.model_copy(update=changes.get(f"teacher.ensemble.{i}", {}))
            for i, one in enumerate(recipe.teacher.ensemble)
        ]
        own["teacher"] = own.get("teacher", recipe.teacher).model_copy(update={"ensemble": members})
    return recipe.model_copy(update=own)


def _distillation_problems(tree: dict[str, Any], source: Path) -> Iterator[RecipeError]:
    """What stops a distillation before it begins; of the unchecked tree, so that it is told together with what the
    schema finds.
    """
    for part in ("student", "teacher"):
        if not tree.get(part):
            yield RecipeError(
                f"{part}: missing; distil needs a student and a teacher (train a lone network with rdd_deploy.train)"
            )
    teacher = tree.get("teacher")
    if not isinstance(teacher, dict):
        return
    members = several if isinstance(several := teacher.get("ensemble"), list) else []
    for where, member in [("teacher", teacher), *((f"teacher.ensemble.{i}", one) for i, one in enumerate(members))]:
        if isinstance(member, dict):
            yield from _member_problems(tree, member, where, source)


def _member_problems(tree: dict[str, Any], member: dict[str, Any], where: str, source: Path) -> Iterator[RecipeError]:
    """What is wrong with where one network of the teacher lies."""
    recipe, checkpoint = (
        os.path.expanduser(v) if isinstance(v := member.get(key), str) else v for key in ("recipe", "checkpoint")
    )
    if isinstance(options := member.get("options"), dict) and options.get("hub") is True:
        return
    if isinstance(recipe, str):
        yield from _teacher_problems(
            tree, recipe, where, source, isinstance(checkpoint, str) and Path(checkpoint).is_file()
        )
    elif isinstance(checkpoint, str) and not (
        Path(checkpoint).is_file() or (member.get("source", "segmenter") != "segmenter" and Path(checkpoint).is_dir())
    ):
        yield RecipeError(f"{where}.checkpoint: {no_checkpoint(Path(checkpoint), where)}")


def _teacher_problems(
    tree: dict[str, Any], name: str, where: str, source: Path, trained: bool
) -> Iterator[RecipeError]:
    try:
        path = find_recipe(name, beside=source)
        teacher = load_recipe(path)
    except RecipeError as error:
        first, *more = error.lines
        yield RecipeError(f"{where}.recipe: {first}", *more)
        return
    if not isinstance(teacher, TeacherRecipe):
        yield RecipeError(f"{where}.recipe: {path} is not a teacher recipe: it has no 'network' part")
        return
    method = tree.get("distillation")
    method = method if isinstance(method, dict) else {}
    compared = tree["teacher"].get("second", "auxiliary") == "auxiliary"
    if (
        compared
        and not trained
        and not teacher.network.auxiliary
        and method.get("method", "rdd") == "rdd"
        and method.get("tfe_fraction") != 0
    ):
        yield RecipeError(
            f"{where}.recipe: {path} has no auxiliary head, which stage 1 of RDD compares with; set network.auxiliary:"
            " true there, or teacher.second to flip, scale or fitted or distillation.tfe_fraction=0 here"
        )


def option_hint(option: str) -> str:
    """What an option that no command has may have been meant for: a key of the recipe."""
    near = " or ".join(f"{path}=VALUE" for path in meant(StudentRecipe, option.lstrip("-").replace("-", "_")))
    return f"did you mean {near}, without dashes?" if near else ""
