"""``python -m rdd_deploy.export [RUN] --onnx``: a finished run becomes a bundle that its target runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rdd_deploy import console
from rdd_deploy.errors import MissingPackageError, RddError, missing_package
from rdd_deploy.evaluate import Evaluated, show


@console.command
def main(
    run: Annotated[Path | None, typer.Argument(help="run folder; default: runs/latest")] = None,
    onnx: Annotated[bool, typer.Option("--onnx", help="for onnxruntime")] = False,
    size: Annotated[tuple[int, int] | None, typer.Option(metavar="H W", help="input size; default: the recipe's data.size")] = None,
    output: Annotated[Path | None, typer.Option(help="folder of bundles; default: RUN/export")] = None,
    data: Annotated[Path | None, typer.Option(help="root of the data set; default: as the recipe says")] = None,
    split: Annotated[str, typer.Option(help="split that the artifact is measured on")] = "val",
    limit: Annotated[int | None, typer.Option(help="measure on the first so many frames only")] = None,
    evaluate: Annotated[bool, typer.Option("--evaluate/--no-evaluate", help="measure the artifact's mIoU")] = True,
) -> None:
    """Export a run as a bundle: graph, manifest, and its own measured accuracy.

    Example: `python -m rdd_deploy.export runs/latest --onnx`
    """
    if not onnx:
        raise RddError("name a target: --onnx")
    _check_packages()
    from rdd_deploy.export.float_bundle import float_graph, float_reference, write_float_bundle
    from rdd_deploy.export.source import open_source

    source = open_source(run, data)
    wanted = size or source.data.size
    target = (output or source.run.export) / "onnxruntime-fp32"
    console.say(f"{source.run.path} -> {target}, {wanted[0]}x{wanted[1]}")
    model = float_graph(source, wanted)
    reference = float_reference(source, wanted, split, limit, evaluate)
    comparison = write_float_bundle(source, model, reference, target, evaluate)
    if evaluate:
        facts = {
            "data": source.data.name,
            "split": split,
            "images": len(reference.labels),
            "input_height": wanted[0],
            "input_width": wanted[1],
        }
        show(Evaluated(f"{target} (onnxruntime fp32)", facts, comparison.confusion.summary()))
    console.say(f"done: {target}")


def _check_packages() -> None:
    """Exporting needs the training stack; say so in one sentence before anything is imported."""
    from importlib.util import find_spec

    for package in ("torch", "timm", "onnx", "onnxscript"):
        if find_spec(package) is None:
            error: MissingPackageError = missing_package(package, "train", "exporting")
            raise error


if __name__ == "__main__":
    main()
