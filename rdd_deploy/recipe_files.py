"""Where recipes and the files that they name lie: relative to the recipe, the current directory, or shipped with the
program.
"""

from __future__ import annotations

import difflib
import os
import re
from pathlib import Path
from typing import Any

from rdd_deploy.errors import RecipeError
from rdd_deploy.utils.places import NAME, beside

SHIPPED, SHIPPED_STUDIES = ((Path(__file__).parent / "shipped" / name).resolve() for name in ("recipes", "studies"))
"""In a clone links to its ``recipes/`` and ``studies/``; an installed package holds the files."""

_PLACES = ("data.root", "network.weights", "student.weights", "teacher.recipe", "teacher.checkpoint")
"""Keys whose values are paths."""


def places_of(tree: dict[str, Any]) -> dict[str, str]:
    """The paths of an unchecked tree, by key; those that are words with a meaning of their own aside."""
    places = {}
    for key in [
        *_PLACES,
        *(f"teacher.ensemble.{i}.{name}" for i in range(_networks(tree)) for name in ("recipe", "checkpoint")),
    ]:
        part, _, name = key.rpartition(".")
        holder = _at(tree, part)
        value = holder.get(name) if isinstance(holder, dict) else None
        if not isinstance(value, str) or not value or (name == "weights" and value in ("imagenet", "none")):
            continue
        if name == "checkpoint" and isinstance(options := holder.get("options"), dict) and options.get("hub") is True:
            continue  # the name of a repository
        places[key] = value
    return places


def _networks(tree: dict[str, Any]) -> int:
    """How many networks a tree's teacher lists."""
    several = tree["teacher"].get("ensemble") if isinstance(tree.get("teacher"), dict) else None
    return len(several) if isinstance(several, list) else 0


def _at(tree: Any, key: str) -> Any:
    for part in key.split("."):
        tree = tree[int(part)] if isinstance(tree, list) else tree.get(part) if isinstance(tree, dict) else None
    return tree


def _put(tree: dict[str, Any], key: str, value: str) -> None:
    """Set what lies under a key; what holds it is copied on the way, since a merge in the file means the same mapping
    in two places.
    """
    *above, last = key.split(".")
    node: Any = tree
    for part in above:
        place: Any = int(part) if isinstance(node, list) else part
        node[place] = node[place].copy()
        node = node[place]
    node[last] = value


def written_places(tree: dict[str, Any]) -> dict[str, str]:
    """``places_of``, and those of frames without labels as one text."""
    data = tree.get("data")
    more = {UNLABELLED: repr(data["unlabelled"])} if isinstance(data, dict) and "unlabelled" in data else {}
    return places_of(tree) | more


def find_places(tree: dict[str, Any], source: Path, written: dict[str, str]) -> None:
    """Change a tree's relative paths in place to what they mean from here.

    Args:
        written: the paths as they were before the overrides, which are typed and so relative to the current directory
            first.
    """
    for key, value in places_of(tree).items():
        if (expanded := os.path.expanduser(value)).startswith("~"):
            continue
        typed = written.get(key) != value
        try:
            if key.startswith("teacher.") and key.endswith(".recipe"):
                found = str(find_recipe(expanded) if typed and is_recipe(expanded) else find_recipe(expanded, source))
            else:
                found = beside(expanded, source, here_first=typed)
        except (OSError, ValueError, RecipeError):  # it is told where it is used
            continue
        if found != value:
            _put(tree, key, found)
    _find_unlabelled(tree, source, written)


UNLABELLED = "data.unlabelled"


def _find_unlabelled(tree: dict[str, Any], source: Path, written: dict[str, str]) -> None:
    """The same for the places of frames without labels, of which there may be several."""
    data = tree.get("data")
    given = data.get("unlabelled") if isinstance(data, dict) else None
    places = [given] if isinstance(given, str) else given
    if (
        not isinstance(data, dict)
        or not isinstance(places, list)
        or not all(isinstance(place, str) and place for place in places)
    ):
        return
    typed = written.get(UNLABELLED) != repr(given)
    found = []
    for place in places:
        expanded = os.path.expanduser(place)
        try:
            found.append(
                place if place == "rest" or expanded.startswith("~") else beside(expanded, source, here_first=typed)
            )
        except (OSError, ValueError):  # it is told where it is used
            found.append(place)
    tree["data"] = {**data, "unlabelled": found}


def whole_paths(tree: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The paths of a checked tree as absolute ones: dotted part -> key -> value."""
    changes: dict[str, dict[str, Any]] = {}
    for key, value in places_of(tree).items():
        part, _, name = key.rpartition(".")
        is_teacher = part.startswith("teacher") and name == "recipe" and is_recipe(value)
        path = find_recipe(value) if is_teacher else Path(value)
        changes.setdefault(part, {})[name] = os.path.abspath(path)
    if unlabelled := tree["data"].get("unlabelled"):
        changes.setdefault("data", {})["unlabelled"] = [
            one if one == "rest" else os.path.abspath(one) for one in unlabelled
        ]
    return changes


def is_recipe(name: str) -> bool:
    try:
        find_recipe(name)
    except RecipeError:
        return False
    return True


def find_recipe(path: str | Path, beside: Path | None = None) -> Path:
    """The file that a recipe name or path means: beside another recipe, as given, in ``recipes/`` here, or in the
    clone's own.
    """
    return _find(path, beside, "recipe", "recipes", SHIPPED)


_NOBODY = ("nobody has run", "not yet run")


def card_note(path: Path) -> str:
    """A sentence where a recipe's run card, the comment that it begins with, says that nobody has run it yet; empty for
    all others.
    """
    try:
        with path.open(encoding="utf-8") as file:
            for line, _ in zip(file, range(40), strict=False):
                if not line.startswith("#"):
                    break
                key, _, said = line.lstrip("# ").partition(":")
                if key.strip() == "Measured" and said.strip().lower().startswith(_NOBODY):
                    return f"nobody has run {path.name} yet, as its run card says; what comes of it is unknown"
    except (OSError, UnicodeDecodeError):
        pass
    return ""


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
    raise RecipeError(
        f"no {what} '{path}'; {hint}expected a YAML file"
        + (f", or one of {', '.join(known)} in {here}/" if known else "")
    )


def check_name(name: str | None) -> None:
    """Raise RecipeError where ``--name`` can't be a run's: the rule of the recipe's own name."""
    if name is not None and not can_name_a_run(name):
        raise RecipeError(
            f"--name is '{name}'; expected letters, digits, '.', '_' and '-', beginning with a letter or digit, and not"
            " 'latest', which links to the newest run"
        )


def can_name_a_run(name: str) -> bool:
    """Whether a run's folder can have this name."""
    return bool(re.fullmatch(NAME, name)) and name != "latest"
