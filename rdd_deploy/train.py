"""Supervised training: a teacher, or the student alone as the baseline that distillation must beat."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from rdd_deploy import console
from rdd_deploy.console import command
from rdd_deploy.recipe_files import card_note, check_name, find_recipe
from rdd_deploy.utils.places import RUNS
from rdd_deploy.utils.tables import Entry


@partial(command, hint=Entry("rdd_deploy.recipe:option_hint"), extra="train")
def main(
    recipe: Annotated[str, typer.Argument(help="a recipe file, or the name of one in recipes/")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="e.g. train.seed=1 data.root=/data/camvid")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="go on where the run was stopped")] = False,
    output: Annotated[Path, typer.Option(help="folder of runs")] = RUNS,
    name: Annotated[
        str | None, typer.Option(help="run name; default: the recipe's (with _alone for a student)")
    ] = None,
    dry: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="check recipe, device, data and weights, print the resolved recipe, train nothing"
        ),
    ] = False,
) -> None:
    """Train without a teacher: a teacher itself, or the student's own baseline.

    Example: `python -m rdd_deploy.train recipes/camvid_teacher_r101.yaml`
    """
    from rdd_deploy.recipe import load_recipe  # a tenth of a second: the schema

    loaded = load_recipe(recipe, overrides or (), name=name)
    check_name(name)
    if note := card_note(find_recipe(recipe)):
        console.info(note)
    from rdd_deploy.training.session import dry_run  # takes seconds: torch
    from rdd_deploy.training.supervised import folder_of, train_recipe

    if dry:
        dry_run(loaded, folder_of(loaded, output, name), resume)
        return
    folder = train_recipe(loaded, output, resume, name)
    console.info(f"done: {folder.path}")


if __name__ == "__main__":
    main()
