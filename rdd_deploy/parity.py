"""Where labels change between torch and a bundle: torch, ONNX, Q/DQ, backend over real frames, stage by stage."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from rdd_deploy.console import command
from rdd_deploy.errors import GateError
from rdd_deploy.utils import files
from rdd_deploy.utils.arguments import MAX_COUNT, finite, output_file


@partial(command, extra="train")
def main(
    bundle: Annotated[Path, typer.Argument(help="the bundle's folder")],
    run: Annotated[Path | None, typer.Option(help="its run folder; default: the one it lies in")] = None,
    data: Annotated[Path | None, typer.Option(help="root of the data set; default: as the recipe says")] = None,
    split: Annotated[str, typer.Option(help="split to compare on")] = "val",
    limit: Annotated[int | None, typer.Option(min=1, max=MAX_COUNT, help="only the first so many frames")] = None,
    max_drop: Annotated[
        float, typer.Option(min=0, max=100, callback=finite, help="points of mIoU that a stage may lose")
    ] = 1.0,
    json: Annotated[
        Path | None, typer.Option("--json", callback=output_file, help="also write the result to this file")
    ] = None,
) -> None:
    """Where labels change between torch and the bundle: torch, ONNX, Q/DQ, backend. Exits 4 if a stage breaks.

    Example: `rdd-deploy parity runs/latest/export/onnxruntime-int8`
    """
    from rdd_deploy.export.parity import compare_stages, show  # takes seconds: torch, onnx

    report = compare_stages(bundle, run, data, split, limit, max_drop)
    show(report)
    if json:
        stages = [stage._asdict() for stage in report.stages]
        worst = [one._asdict() for one in report.worst]
        values = {"bundle": report.bundle, "images": report.images, "stages": stages, "worst": worst}
        files.write_json(
            json, values | {"not_finite": report.not_finite, "skipped": report.skipped, "broken": report.broken}
        )
    if report.broken or report.not_finite:
        raise GateError(f"{bundle} doesn't say what torch says; see the table above")


if __name__ == "__main__":
    main()
