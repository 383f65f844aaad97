"""The closed schema of a study, and where its file is found."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, Field

from rdd_deploy.errors import RecipeError
from rdd_deploy.recipe import StudentRecipe
from rdd_deploy.recipe_files import find_recipe, find_study
from rdd_deploy.schema import NAME, Name, Part, Seed, validated
from rdd_deploy.utils.problems import part_of
from rdd_deploy.utils.text import shown
from rdd_deploy.utils.yaml_file import load_yaml

LONGEST_NAME = 100
"""Of a variant: it becomes part of a folder's name."""


def _as_words(value: Any) -> Any:
    """``{key.sub: value}`` as the words of a command line; a list of them stays one."""
    if not isinstance(value, dict):
        return [] if value is None else value
    words = _by_key(value, StudentRecipe)
    return [f"{key}={json.dumps(one, ensure_ascii=False, default=str)}" for key, one in words]  # JSON is YAML


def _by_key(tree: Mapping[Any, Any], model: type[BaseModel], above: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys with their values: a part of a recipe that is given as a mapping changes these of its keys and leaves
    the others. Data of a name of its own are given as a whole.
    """
    for key, value in tree.items():
        part: type[BaseModel] | None = model
        for name in str(key).split("."):
            field = part.model_fields.get(name) if part is not None else None
            part = None if field is None else part_of(field, value)
        if part is not None and isinstance(value, Mapping) and value and not (key == "data" and "name" in value):
            yield from _by_key(value, part, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


Overrides = Annotated[list[str], BeforeValidator(_as_words)]
Seeds = Annotated[list[Seed], Field(min_length=1, max_length=1000)]


class Variant(Part):
    """One row of the table: what it changes of the study's recipe."""

    alone: bool = Field(False, description="the student without a teacher: `train` in place of `distill`")
    set: Overrides = Field(
        default_factory=list, description="its overrides: a mapping of `key.sub: value`, or a list of `key.sub=value`"
    )
    seeds: Seeds | None = Field(None, description="its own seeds; default: the study's")

    def rules(self) -> Iterator[tuple[str, str]]:
        """Seeds and their runs are told apart by number."""
        yield from _doubled_seeds(self.seeds)


class Study(Part):
    """A grid of variants and seeds of one recipe."""

    name: Name = Field("", description="of the folder under runs/; default: the file's name")
    extends: str | None = Field(None, description="another study, whose keys hold where this file doesn't give them")
    recipe: str = Field(description="a recipe, relative to this file or by name")
    set: Overrides = Field(default_factory=list, description="overrides of every run, likewise")
    seeds: Seeds = Field([0, 1, 2], description="values of `train.seed`, one run each")
    baseline: str = Field(description="the variant that the others' differences are taken to")
    variants: dict[str, Variant] = Field(
        min_length=1, max_length=200, description="name -> what it changes; the table has their order"
    )

    def rules(self) -> Iterator[tuple[str, str]]:
        """Variants can be told apart, in the table and on disk, and the baseline is one of them."""
        yield from _doubled_seeds(self.seeds)
        if self.baseline not in self.variants:
            yield (
                "baseline variants",
                f"baseline: got {self.baseline!r:.60}, expected one of {', '.join(map(shown, self.variants))}",
            )
        taken: dict[str, str] = {}
        for name in self.variants:
            if not name.strip() or len(name) > LONGEST_NAME or not name.isprintable():
                yield (
                    "variants",
                    f"variants: the name {name[:40]!r} can't be one; expected 1 to {LONGEST_NAME} printable characters",
                )
                continue
            if (other := taken.setdefault(file_name(name).lower(), name)) != name:
                yield (
                    "variants",
                    f"variants: {name!r} and {other!r} would both be {file_name(name)} on disk; rename one",
                )

    def seeds_of(self, variant: str) -> list[int]:
        """The variant's own seeds, or the study's."""
        return self.variants[variant].seeds or self.seeds


def _doubled_seeds(seeds: list[int] | None) -> Iterator[tuple[str, str]]:
    doubled = sorted({seed for seed in seeds or () if (seeds or []).count(seed) > 1})
    if doubled:
        yield "seeds", f"seeds: {', '.join(map(str, doubled))} given twice; a run again would count as another seed"


def file_name(variant: str) -> str:
    """A variant's name as part of a folder's: what isn't a letter, digit, ``.``, ``_`` or ``-`` becomes one ``-``."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", variant).strip("-._")
    return name or "variant"


def load_study(path: str | Path) -> tuple[Study, Path]:
    """Read a study; returns it, with its recipe found, and its file.

    Args:
        path: a YAML file, or the name of one in ``studies/``.

    Raises:
        RecipeError: file missing or not YAML, or one or more problems, all listed with their dotted paths.
    """
    path = find_study(path)
    tree = _tree(path, [])
    problems = []
    if isinstance(tree.get("recipe"), str) and not Path(tree["recipe"]).is_file():
        try:
            find_recipe(tree["recipe"])
        except RecipeError as error:
            problems.append(RecipeError(f"recipe: {error}"))
    if "name" not in tree:
        tree["name"] = path.stem
        if not re.fullmatch(NAME, path.stem) or path.stem == "latest":
            problems.append(
                RecipeError(
                    f"name: not given, and the file's name '{path.stem}' can't be a folder of runs; give name: in it"
                )
            )
            tree["name"] = "unnamed"
    return validated(Study, tree, path, problems), path


def _tree(path: Path, above: list[Path]) -> dict[str, Any]:
    """A study's keys with those of the studies that it extends; its recipe as it is found from the file
    that names it.
    """
    if path.resolve() in above:
        raise RecipeError(f"{path} extends itself, by way of {above[-1]}; take one extends: out")
    tree = load_yaml(path)
    if isinstance(variants := tree.get("variants"), dict):
        tree["variants"] = {name: {} if value is None else value for name, value in variants.items()}
    if isinstance(tree.get("recipe"), str):
        with suppress(RecipeError):  # told with the others
            tree["recipe"] = str(find_recipe(tree["recipe"], beside=path))
    if not isinstance(tree.get("extends"), str):
        return tree
    try:
        other = find_study(tree["extends"], beside=path)
    except RecipeError as error:
        raise RecipeError(f"{path}: extends: {error}") from error
    return {key: value for key, value in _tree(other, [*above, path.resolve()]).items() if key != "name"} | tree
