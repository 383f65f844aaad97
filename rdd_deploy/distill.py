"""Distil a student by a recipe: the paper's algorithm from data to a finished run folder."""

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
    name: Annotated[str | None, typer.Option(help="run name; default: the recipe's")] = None,
    dry: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="check recipe, device, data, weights and teacher, print the resolved recipe, train nothing",
        ),
    ] = False,
    cache_only: Annotated[
        bool,
        typer.Option(
            "--cache-only",
            help="only fill the teacher's cache, together with all others that are started so; train no student",
        ),
    ] = False,
) -> None:
    """Distil a student from a teacher with two-stage Relative Difficulty Distillation.

    Gets the data, trains the teacher first where its checkpoint isn't there, distils, evaluates, writes the run folder.

    Example: `python -m rdd_deploy.distill recipes/camvid_effnet_lite0.yaml data.root=/data/camvid train.seed=1`
    """
    from rdd_deploy.recipe import load_distillation  # a tenth of a second: the schema

    loaded = load_distillation(recipe, overrides or (), name=name)
    check_name(name)
    if note := card_note(find_recipe(recipe)):
        console.info(note)
    for unused in loaded.distillation.unused():
        console.warn(unused)
    from rdd_deploy.training.distillation import distill_recipe, dry_run, fill_cache  # takes seconds: torch
    from rdd_deploy.training.run_folder import RunFolder

    if dry:
        dry_run(loaded, find_recipe(recipe), RunFolder(output / (name or loaded.name)), resume)
        return
    if cache_only:
        fill_cache(loaded, find_recipe(recipe), output)
        console.info("done: the teacher's cache is filled; the same command without --cache-only trains the student")
        return
    folder = distill_recipe(loaded, find_recipe(recipe), output, resume, name)
    console.info(f"done: {folder.path}; next: python -m rdd_deploy.export {folder.path} --onnx")


if __name__ == "__main__":
    main()
