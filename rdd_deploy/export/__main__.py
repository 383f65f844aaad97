"""``python -m rdd_deploy.export [RUN] --onnx --int8``: a finished run becomes a bundle; ``BUNDLE --trt``: a bundle
becomes an engine.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rdd_deploy import console
from rdd_deploy.export.options import Options
from rdd_deploy.utils.arguments import MAX_COUNT, finite


@console.command
def main(
    run: Annotated[
        Path | None,
        typer.Argument(
            metavar="[RUN_OR_BUNDLE]", help="run folder (default: runs/latest), or a bundle to build an engine from"
        ),
    ] = None,
    onnx: Annotated[bool, typer.Option("--onnx", help="for onnxruntime")] = False,
    openvino: Annotated[bool, typer.Option("--openvino", help="for OpenVINO")] = False,
    trt: Annotated[bool, typer.Option("--trt", help="a TensorRT engine")] = False,
    int8: Annotated[bool, typer.Option("--int8", help="8-bit integers, calibrated on train frames")] = False,
    fp16: Annotated[bool, typer.Option("--fp16", help="half precision (TensorRT)")] = False,
    bf16: Annotated[bool, typer.Option("--bf16", help="bfloat16 (OpenVINO, on CPUs that have it)")] = False,
    profile: Annotated[
        list[str] | None, typer.Option(help="a profile's file or name in export/; may be given more than once")
    ] = None,
    compute_capability: Annotated[
        str | None, typer.Option(help="build for these GPUs with tensorrt-rtx, e.g. 8.6,8.9")
    ] = None,
    size: Annotated[
        tuple[int, int] | None, typer.Option(metavar="H W", help="input size; default: the profile's, or the recipe's")
    ] = None,
    max_drop: Annotated[
        float | None, typer.Option(min=0, max=100, callback=finite, help="points of mIoU that the artifact may lose")
    ] = None,
    weight_bits: Annotated[
        int | None,
        typer.Option(min=7, max=8, help="INT8: 7 for OpenVINO on CPUs without VNNI; default: as this CPU wants it"),
    ] = None,
    plan: Annotated[Path | None, typer.Option(help="replay an INT8 plan (…plan.yaml) instead of searching one")] = None,
    force: Annotated[
        bool, typer.Option("--force", help="write a bundle that fails the gate, marked as forced")
    ] = False,
    engine: Annotated[
        bool,
        typer.Option(
            "--engine/--no-engine", help="TensorRT: build the engine here, or write its graph for another machine"
        ),
    ] = True,
    output: Annotated[
        Path | None, typer.Option(help="folder of bundles; default: RUN/export, or where the bundle lies")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="root of the data set; default: as the recipe says")] = None,
    split: Annotated[str, typer.Option(help="split that the artifact is measured on")] = "val",
    limit: Annotated[
        int | None, typer.Option(min=1, max=MAX_COUNT, help="measure on the first so many frames only")
    ] = None,
    evaluate: Annotated[bool, typer.Option("--evaluate/--no-evaluate", help="measure the artifact's mIoU")] = True,
) -> None:
    """Export a run as bundles: graph or engine, manifest, and each artifact's own measured accuracy.

    A TensorRT engine is built on the machine that runs it: give a bundle there in place of the run; PyTorch isn't
    needed.

    Examples: `python -m rdd_deploy.export --onnx`, `python -m rdd_deploy.export runs/camvid_mbv3 --openvino --int8`,
    `python -m rdd_deploy.export tensorrt-int8 --trt`
    """
    flags = {"onnx": onnx, "openvino": openvino, "trt": trt}
    precisions = [name for name, wanted in (("int8", int8), ("fp16", fp16), ("bf16", bf16)) if wanted]
    options = Options(split, limit, evaluate, force, plan, engine)
    from rdd_deploy.export.command import Changes, export_all  # a tenth of a second: the schema

    changes = Changes(compute_capability, size, max_drop, weight_bits)
    export_all(run, flags, precisions, profile or [], changes, options, output, data)


if __name__ == "__main__":
    main()
