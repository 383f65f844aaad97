"""``rdd-deploy evaluate RUN_OR_BUNDLE``: mIoU per class on the real thing, whatever its format."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rdd_deploy import console
from rdd_deploy.errors import DataError, DeviceError
from rdd_deploy.utils import files
from rdd_deploy.utils.arguments import MAX_COUNT, output_file
from rdd_deploy.utils.machine import MAX_THREADS


@console.command
def main(
    path: Annotated[
        Path, typer.Argument(metavar="RUN_OR_BUNDLE", help="a run folder (PyTorch), or a bundle (its own runtime)")
    ],
    split: Annotated[str, typer.Option(help="train, val or test")] = "val",
    data: Annotated[
        Path | None, typer.Option(help="root of the data set; default: as the run or the manifest names it")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, max=MAX_COUNT, help="only the first so many frames")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N")] = "auto",
    provider: Annotated[
        str | None, typer.Option(help="for a bundle: an onnxruntime provider or an OpenVINO device")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, max=MAX_THREADS, help="CPU threads")] = None,
    lost: Annotated[
        bool,
        typer.Option(
            "--lost",
            help="also where the points are lost: by class, size of the objects, distance to the labels' edges",
        ),
    ] = False,
    json: Annotated[
        Path | None, typer.Option("--json", callback=output_file, help="also write the figures to this file")
    ] = None,
) -> None:
    """mIoU, pixel accuracy and IoU per class of a run or a bundle.

    Example: `python -m rdd_deploy.evaluate runs/latest/export/onnxruntime-fp32`
    """
    from rdd_deploy.evaluation import evaluate_bundle, evaluate_run, show  # OpenCV, the data sets
    from rdd_deploy.runtime.manifest import MANIFEST

    if (path / MANIFEST).is_file():
        evaluated = evaluate_bundle(
            path, split, data, limit, device=device, provider=provider, threads=threads, lost=lost
        )
    elif (path / "recipe.yaml").is_file():
        if provider is not None:
            raise DeviceError(
                f"--provider '{provider}' is for a bundle, but {path} is a run, which PyTorch measures; choose with"
                " --device"
            )
        evaluated = evaluate_run(path, split, data, limit, device, threads, lost)
    else:
        got = "has neither of the two" if path.is_dir() else "isn't a folder"
        raise DataError(f"{path} {got}; expected a run folder (with recipe.yaml) or a bundle (with {MANIFEST})")
    show(evaluated)
    if json:
        figures = evaluated._asdict()
        files.write_json(json, figures if lost else {key: value for key, value in figures.items() if key != "lost"})


if __name__ == "__main__":
    main()
