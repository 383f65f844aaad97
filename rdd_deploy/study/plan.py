"""What a study runs: every variant's recipe resolved and checked, its place on disk, its words, and the teachers before
them. No torch here.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rdd_deploy.errors import RddError, RecipeError
from rdd_deploy.recipe import StudentRecipe, TeacherRecipe, load_distillation, load_recipe
from rdd_deploy.recipe_files import find_recipe
from rdd_deploy.study.config import Study, file_name
from rdd_deploy.training.run_folder import RunFolder


@dataclass(frozen=True)
class Run:
    """One student: a variant with one seed."""

    variant: str
    seed: int
    alone: bool
    recipe: StudentRecipe
    source: Path
    folder: RunFolder
    overrides: tuple[str, ...]
    teacher: Path | None
    """The checkpoint that it is distilled from; None for one that is trained alone."""

    @property
    def title(self) -> str:
        return f"{self.variant}, seed {self.seed}"

    @property
    def words(self) -> list[str]:
        """Of ``python``."""
        words = ["-m", f"rdd_deploy.{'train' if self.alone else 'distill'}", str(self.source), *self.overrides]
        return [*words, "--output", str(self.folder.path.parent), "--name", self.folder.path.name]


@dataclass(frozen=True)
class TeacherRun:
    """A teacher that runs wait for: trained once, beside the study's folder, where other studies find it, too."""

    recipe: TeacherRecipe
    folder: RunFolder
    resolved: Path
    """Where its resolved recipe is written: the study's data and device are in it."""

    @property
    def title(self) -> str:
        return f"teacher {self.folder.path.name}"

    @property
    def words(self) -> list[str]:
        """Of ``python``."""
        return [
            "-m",
            "rdd_deploy.train",
            str(self.resolved),
            "--output",
            str(self.folder.path.parent),
            "--name",
            self.folder.path.name,
        ]


@dataclass
class Plan:
    """A study's runs in the order in which they are started: all variants of the first seed, then the next seed."""

    study: Study
    folder: Path
    runs: list[Run] = field(default_factory=list)
    teachers: dict[Path, TeacherRun] = field(default_factory=dict)
    """By the checkpoint that they write."""

    @property
    def everything(self) -> list[Run | TeacherRun]:
        return [*self.teachers.values(), *self.runs]

    @property
    def logs(self) -> Path:
        return self.folder / "logs"

    @property
    def seeds(self) -> list[int]:
        """All that occur, in the order of their runs."""
        return list(dict.fromkeys(run.seed for run in self.runs))


def make_plan(study: Study, source: Path, runs: Path, overrides: Sequence[str], name: str | None) -> Plan:
    """Resolve every run of a study.

    Args:
        source: the study's file. runs: folder of runs, in which the study makes one of its own.
        overrides: ``key.sub=value`` for every run; they come last and win. name: of the study's folder; default: the
            study's.

    Raises:
        RecipeError: what is wrong with any variant's recipe or teacher, all together.
    """
    plan = Plan(study, runs / (name or study.name))
    problems: dict[tuple[str, ...], list[str]] = {}
    for text in (*study.set, *overrides, *(text for one in study.variants.values() for text in one.set)):
        if (key := text.partition("=")[0]) in ("train.seed", "name"):
            problems[
                f"{key} can't be overridden in a study: seeds: lists the seeds, and each run has a name of its own",
            ] = []
    for variant in study.variants:
        for seed in study.seeds_of(variant):
            try:
                plan.runs.append(_run(plan, variant, seed, overrides))
            except RecipeError as error:
                _, *found = error.lines if len(error.lines) > 1 else ["", *error.lines]
                for line in _whole(found):
                    problems.setdefault(line, []).append(variant)
    if problems:
        lines = [line for problem, where in problems.items() for line in _told(problem, where, study)]
        raise RecipeError(f"{source} has {'1 problem' if len(problems) == 1 else f'{len(problems)} problems'}:", *lines)
    _check_one_split(plan, source)
    place = {seed: number for number, seed in enumerate(plan.seeds)}
    plan.runs.sort(key=lambda run: place[run.seed])
    return plan


def _whole(lines: Sequence[str]) -> list[tuple[str, ...]]:
    """Details of an error, each with the lines that stand further in below it."""
    problems: list[tuple[str, ...]] = []
    for line in lines:
        if line.startswith("  ") and problems:
            problems[-1] = (*problems[-1], line)
        else:
            problems.append((line,))
    return problems


def _told(problem: tuple[str, ...], where: Sequence[str], study: Study) -> list[str]:
    names = list(dict.fromkeys(where))
    first, *more = problem
    of = (
        ""
        if not names
        else "every variant: "
        if len(names) == len(study.variants) > 1
        else f"variants.{', '.join(names)}: "
    )
    return [of + first, *more]


def _run(plan: Plan, variant: str, seed: int, overrides: Sequence[str]) -> Run:
    study, one = plan.study, plan.study.variants[variant]
    name = f"{file_name(variant)}_s{seed}"
    words = [*study.set, *one.set, *overrides, f"train.seed={seed}"]
    recipe = (load_recipe if one.alone else load_distillation)(study.recipe, words, name=name)
    if not isinstance(recipe, StudentRecipe):
        raise RecipeError(f"recipe: {study.recipe} is a teacher's (it has a 'network'); a study compares students")
    source, teacher = find_recipe(study.recipe), None
    if not one.alone:
        teacher = _teacher(plan, recipe, source)
        if recipe.teacher and recipe.teacher.checkpoint is None and not recipe.teacher.ensemble:
            words.append(f"teacher.checkpoint={json.dumps(str(teacher), ensure_ascii=False)}")
            recipe = load_distillation(study.recipe, words, name=name)
    return Run(variant, seed, one.alone, recipe, source, RunFolder(plan.folder / name), tuple(words), teacher)


def _teacher(plan: Plan, recipe: StudentRecipe, source: Path) -> Path:
    """The checkpoint of a run's teacher, whose own run is noted where the study may have to train it."""
    config = recipe.teacher
    assert config is not None
    if config.ensemble and (untrained := [one for one in config.ensemble if one.checkpoint is None]):
        raise RecipeError(
            "teacher.ensemble: a study trains one teacher, not the networks of an ensemble; train"
            f" {untrained[0].recipe} first and give its checkpoint"
        )
    for one in config.members:
        if one.checkpoint is not None and not one.from_hub and not Path(one.checkpoint).exists():
            raise RecipeError(
                f"teacher.checkpoint: no file {one.checkpoint}; put it there, or leave it out: the study trains"
                " teacher.recipe"
            )
    if (first := config.members[0]).checkpoint is not None:
        return Path(first.checkpoint if first.from_hub else os.path.abspath(first.checkpoint))
    path = find_recipe(str(config.recipe), beside=source)
    teacher = load_recipe(path)
    assert isinstance(teacher, TeacherRecipe)  # load_distillation has looked
    teacher = teacher.beside(recipe)
    folder = RunFolder(Path(os.path.abspath(plan.folder.parent)) / teacher.name)
    if folder.path == Path(os.path.abspath(plan.folder)):
        raise RecipeError(
            f"name: the study and its teacher {path} would both be {folder.path.name}; give another name: or --name"
        )
    run = TeacherRun(teacher, folder, plan.folder / f"{teacher.name}.yaml")
    other = plan.teachers.setdefault(folder.teacher, run)
    if other.recipe != teacher:
        raise RecipeError(
            f"teacher.recipe: another variant's teacher goes to {folder.path} as well, and the two aren't the same;"
            " give their recipes names that differ, or the same data and device to all variants"
        )
    return folder.teacher


def _check_one_split(plan: Plan, source: Path) -> None:
    """Figures of different frames don't belong into one table."""
    frames = {
        f"{run.recipe.data.name} {getattr(run.recipe.data, 'root', '')} {run.recipe.evaluation.split}": run.variant
        for run in plan.runs
    }
    if len(frames) > 1:
        told = "; ".join(f"{variant}: {where}" for where, variant in frames.items())
        raise RecipeError(
            f"{source}: its variants are measured on different frames ({told}), which don't belong into one table; set"
            " them alike"
        )


def check_folder(plan: Plan) -> None:
    """Raise RddError where the study's folder is something else."""
    if RunFolder(plan.folder).recipe.is_file():
        raise RddError(f"{plan.folder} is a run's folder; give the study another name with --name")
