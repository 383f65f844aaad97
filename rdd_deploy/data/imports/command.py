"""``rdd-deploy data import``: an annotation tool's export as a data set that recipes take."""

from __future__ import annotations

import difflib
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast, get_args

import typer

from rdd_deploy.console import command
from rdd_deploy.data.imports import FORMATS
from rdd_deploy.errors import DataError
from rdd_deploy.utils.arguments import MAX_COUNT

if TYPE_CHECKING:
    from rdd_deploy.data.label_space import LabelSpace

_RULES = ("order", "small-on-top", "error")


def _format(name: str | None) -> str | None:
    if name is not None and name not in FORMATS:
        near = difflib.get_close_matches(name, FORMATS, 1)
        raise typer.BadParameter(
            f"'{name}' is none; {f'did you mean {near[0]}? ' if near else ''}expected {', '.join(FORMATS)}"
        )
    return name


def _rule(name: str | None) -> str | None:
    if name is not None and name not in _RULES:
        raise typer.BadParameter(f"'{name}' is none; expected {', '.join(_RULES)}")
    return name


def _share(value: float | None) -> float | None:
    if value is not None and not 0 < value < 1:
        raise typer.BadParameter(f"{value} is no share; expected one between 0 and 1, e.g. 0.2")
    return value


def _space(recipe: str) -> LabelSpace:
    """The classes of a recipe's data. Raises RddError."""
    from rdd_deploy.recipe import load_recipe

    try:
        return load_recipe(recipe, (), "like").data.space_of_imports()
    except DataError as error:
        raise DataError(f"--like {recipe}: {error}; leave it out, and say the classes with --classes") from error


@partial(command, extra="data")
def main(
    source: Annotated[Path, typer.Argument(help="the export's folder, or one annotation file in it")],
    out: Annotated[Path, typer.Argument(help="new folder of the data set")],
    format: Annotated[
        str | None, typer.Option(callback=_format, help=f"{', '.join(FORMATS)}; default: recognised")
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option(
            help="merge and rename by name: `car=car,van;void=unlabelled;*=*`, where `*=*` keeps all others; a `\\` keeps the , ; or = behind it in the name"
        ),
    ] = None,
    ignore_case: Annotated[bool, typer.Option("--ignore-case", help="Car and car are one label")] = False,
    background: Annotated[
        str | None,
        typer.Option(help="what unlabelled pixels are: void, or a class's name; default: the class background"),
    ] = None,
    overlap: Annotated[
        str | None, typer.Option(callback=_rule, help=f"{', '.join(_RULES)}; default: the tool's own")
    ] = None,
    val: Annotated[
        float | None, typer.Option(callback=_share, help="share of the train images for val, where the export has none")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=MAX_COUNT, help="of that share")] = 0,
    reduce_labels: Annotated[
        bool, typer.Option("--reduce-labels", help="parquet: 0 is void, 1 is the first class (ADE20k)")
    ] = False,
    ignore_splits: Annotated[
        bool,
        typer.Option("--ignore-splits", help="all images are for train, whatever the export's folders and lists say"),
    ] = False,
    like: Annotated[
        str | None,
        typer.Option(
            metavar="RECIPE",
            help="the classes of this recipe's data in its order, and no others; the masks can join it",
        ),
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="what would be left out is an error")] = False,
    dry: Annotated[bool, typer.Option("--dry-run", help="tell format, counts and classes, write nothing")] = False,
) -> None:
    """Make a data set that recipes take of an annotation tool's export: images as they are, index masks, data.yaml.

    CVAT, Label Studio, Labelme, Roboflow, Supervisely, COCO, YOLO, VOC, Cityscapes, Hugging Face parquet. OUT is there
    as a whole or not at all.

    Example: `rdd-deploy data import export/ data/mine --val 0.2`
    """
    from rdd_deploy.data.imports.export import Overlap
    from rdd_deploy.data.imports.work import ImportOptions, import_export  # numpy, OpenCV

    assert set(get_args(Overlap)) == set(_RULES)
    if background is not None and not background.strip():
        raise DataError("--background is empty; expected void or a class's name")
    rule = cast("Overlap | None", overlap)
    options = ImportOptions(
        format,
        classes,
        ignore_case,
        background,
        rule,
        val,
        seed,
        reduce_labels,
        strict,
        ignore_splits,
        _space(like) if like is not None else None,
    )
    import_export(source, out, options, dry)


if __name__ == "__main__":
    main()
