"""Where recipes and the files that they name lie: relative to the recipe, the current directory, or shipped with the program."""

from __future__ import annotations

import difflib
import os
import re
from pathlib import Path
from typing import Any

from rdd_deploy.errors import RecipeError
from rdd_deploy.schema import NAME
from rdd_deploy.utils.places import beside

SHIPPED, SHIPPED_STUDIES = ((Path(__file__).parent / "shipped" / name).resolve() for name in ("recipes", "studies"))
"""In a clone links to its ``recipes/`` and ``studies/``; an installed package holds the files."""

_PLACES = ("data.root", "network.weights", "student.weights", "teacher.recipe", "teacher.checkpoint")
"""Keys whose values are paths."""


def places_of(tree: dict[str, Any]) -> dict[str, str]:
    """The paths of an unchecked tree, by key; those that are words with a meaning of their own aside."""
    places = {}
    for key in _PLACES:
        part, name = key.split(".")
        value = tree[part].get(name) if isinstance(tree.get(part), dict) else None
        if isinstance(value, str) and value and not (name == "weights" and value in ("imagenet", "none")):
            places[key] = value
    return places


def written_places(tree: dict[str, Any]) -> dict[str, str]:
    """``places_of``, and those of frames without labels as one text."""
    data = tree.get("data")
    more = {UNLABELLED: repr(data["unlabelled"])} if isinstance(data, dict) and "unlabelled" in data else {}
    return places_of(tree) | more


def find_places(tree: dict[str, Any], source: Path, written: dict[str, str]) -> None:
    """Change a tree's relative paths in place to what they mean from here.

    Args:
        written: the paths as they were before the overrides, which are typed and so relative to the current directory first.
    """
    for key, value in places_of(tree).items():
        part, name = key.split(".")
        if (expanded := os.path.expanduser(value)).startswith("~"):
            continue
        typed = written.get(key) != value
        try:
            if key == "teacher.recipe":
                found = str(find_recipe(expanded) if typed and is_recipe(expanded) else find_recipe(expanded, source))
            else:
                found = beside(expanded, source, here_first=typed)
        except (OSError, ValueError, RecipeError):  # it is told where it is used
            continue
        if found != value:
            tree[part] = {**tree[part], name: found}
    _find_unlabelled(tree, source, written)


UNLABELLED = "data.unlabelled"


def _find_unlabelled(tree: dict[str, Any], source: Path, written: dict[str, str]) -> None:
    """The same for the places of frames without labels, of which there may be several."""
    data = tree.get("data")
    given = data.get("unlabelled") if isinstance(data, dict) else None
    places = [given] if isinstance(given, str) else given
    if not isinstance(data, dict) or not isinstance(places, list) or not all(isinstance(place, str) and place for place in places):
        return
    typed = written.get(UNLABELLED) != repr(given)
    found = []
    for place in places:
        expanded = os.path.expanduser(place)
        try:
            found.append(place if place == "rest" or expanded.startswith("~") else beside(expanded, source, here_first=typed))
        except (OSError, ValueError):  # it is told where it is used
            found.append(place)
    tree["data"] = {**data, "unlabelled": found}


def whole_paths(tree: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The paths of a checked tree as absolute ones: part -> key -> value."""
    changes: dict[str, dict[str, Any]] = {}
    for key, value in places_of(tree).items():
        part, name = key.split(".")
        path = find_recipe(value) if key == "teacher.recipe" and is_recipe(value) else Path(value)
        changes.setdefault(part, {})[name] = os.path.abspath(path)
    if unlabelled := tree["data"].get("unlabelled"):
        changes.setdefault("data", {})["unlabelled"] = [one if one == "rest" else os.path.abspath(one) for one in unlabelled]
    return changes


def is_recipe(name: str) -> bool:
    try:
        find_recipe(name)
    except RecipeError:
        return False
    return True


def find_recipe(path: str | Path, beside: Path | None = None) -> Path:
    """The file that a recipe name or path means: beside another recipe, as given, in ``recipes/`` here, or in the clone's own."""
    return _find(path, beside, "recipe", "recipes", SHIPPED)


def find_study(path: str | Path, beside: Path | None = None) -> Path:
    """The file that a study's name or path means, likewise."""
    return _find(path, beside, "study", "studies", SHIPPED_STUDIES)


def _find(path: str | Path, beside: Path | None, what: str, here: str, shipped: Path) -> Path:
    given = Path(os.path.expanduser(path))
    if not given.name:
        raise RecipeError(f"'{path}' names no {what}; expected a YAML file, or the name of one in {here}/")
    names = [given] if given.suffix else [given, given.with_suffix(".yaml")]
    folders = [*([beside.parent] if beside else []), Path(), Path(here), shipped]
    for folder in folders:
        for name in names:
            if (folder / name).is_file():
                return folder / name
    known = sorted(p.stem for p in Path(here).glob("*.yaml")) or sorted(p.stem for p in shipped.glob("*.yaml"))
    near = difflib.get_close_matches(given.stem, known, 1)
    hint = f"did you mean '{near[0]}'? " if near else ""
    raise RecipeError(f"no {what} '{path}'; {hint}expected a YAML file" + (f", or one of {', '.join(known)} in {here}/" if known else ""))


def check_name(name: str | None) -> None:
    """Raise RecipeError where ``--name`` can't be a run's: the rule of the recipe's own name."""
    if name is not None and not can_name_a_run(name):
        raise RecipeError(
            f"--name is '{name}'; expected letters, digits, '.', '_' and '-', beginning with a letter or digit, and not 'latest', "
            "which links to the newest run"
        )


def can_name_a_run(name: str) -> bool:
    """Whether a run's folder can have this name."""
    return bool(re.fullmatch(NAME, name)) and name != "latest"
