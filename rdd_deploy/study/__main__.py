"""``rdd-deploy study``: variants of a recipe with several seeds, and the table that they make."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from rdd_deploy.console import command
from rdd_deploy.utils.places import RUNS
from rdd_deploy.utils.tables import Entry

MAX_JOBS = 256


@partial(command, hint=Entry("rdd_deploy.recipe:option_hint"), extra="train")
def main(
    study: Annotated[str, typer.Argument(help="a study's file, or the name of one in studies/")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="of every run's recipe, e.g. data.root=/data/camvid")
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option(metavar="VARIANT", help="run this variant; repeat it for several")
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option(
            min=1, max=MAX_JOBS, help="runs at once; default: one a GPU (or a run's train.devices), one on a CPU"
        ),
    ] = None,
    output: Annotated[Path, typer.Option(help="folder of runs")] = RUNS,
    name: Annotated[str | None, typer.Option(help="the study's folder in there; default: the study's name")] = None,
    set_aside: Annotated[
        bool, typer.Option("--set-aside", help="runs of another recipe or teacher are moved aside and trained again")
    ] = False,
    dry: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="check everything, tell the number of runs and the time that they take, run nothing"
        ),
    ] = False,
) -> None:
    """Run every variant of a recipe with every seed, and write results.csv, table.md and plot.png.

    Runs that are finished aren't repeated: after a signal, a crash or a failed run the same command goes on where it
    was. Exit code 2 where a run failed; the others are run all the same.

    Example: `python -m rdd_deploy.study studies/camvid_half_main.yaml data.root=/data/camvid --dry-run`
    """
    from rdd_deploy.study.command import run_study  # a tenth of a second: the schema

    run_study(study, overrides or (), only or (), jobs, output, name, set_aside, dry)


if __name__ == "__main__":
    main()
