"""``rdd-deploy data check RECIPE``: what training would refuse or warn of, and what looks wrong to the eye."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from rdd_deploy.console import command
from rdd_deploy.utils.tables import Entry

FRAMES, MOST_FRAMES = 48, 200


@partial(command, hint=Entry("rdd_deploy.recipe:option_hint"), extra="data")
def main(
    recipe: Annotated[str, typer.Argument(help="a recipe's file, or the name of one in recipes/")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="e.g. data.root=/data/mine")
    ] = None,
    output: Annotated[Path, typer.Option(help="where data_check.html and data_check.json go")] = Path(
        "runs/data_check"
    ),
    frames: Annotated[
        int, typer.Option(min=0, max=MOST_FRAMES, help="pictures on the page at most, the suspicious ones first")
    ] = FRAMES,
) -> None:
    """Read every frame and mask of a recipe's train and evaluation split, and write a page of what is wrong or looks
    it.

    Sizes, ids, void, absent classes, palettes and images in both splits are checked as before training, all problems
    told at once (exit code 2). The page shows class shares, sizes, and frames with their masks drawn in: one class
    only, mostly void, thin slivers, tiny regions, odd sizes, unusual class shares, near-duplicates across the splits.

    Example: `rdd-deploy data check recipes/camvid_mbv3.yaml data.root=/data/camvid --output camvid_check`
    """
    from rdd_deploy.recipe import load_recipe  # a tenth of a second: the schema

    loaded = load_recipe(recipe, overrides or (), "data")
    from rdd_deploy.data.report.check import check_data  # OpenCV, the data sets

    check_data(loaded.name, loaded.data, loaded.evaluation.split, output, frames)


if __name__ == "__main__":
    main()
