"""``python -m rdd_deploy.export [RUN] --onnx --int8``: a finished run becomes a bundle that its target runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rdd_deploy import console
from rdd_deploy.errors import RddError, RecipeError, missing_package
from rdd_deploy.evaluate import Evaluated, show
from rdd_deploy.export.profile import PRECISIONS, Profile, changed, load_profile
from rdd_deploy.metrics import protocol
from rdd_deploy.utils.arguments import MAX_COUNT, finite
from rdd_deploy.utils.files import check_writable

TARGETS = {"onnx": "onnxruntime", "openvino": "openvino", "trt": "tensorrt"}


@console.command
def main(
    run: Annotated[Path | None, typer.Argument(help="run folder; default: runs/latest")] = None,
    onnx: Annotated[bool, typer.Option("--onnx", help="for onnxruntime")] = False,
    openvino: Annotated[bool, typer.Option("--openvino", help="for OpenVINO")] = False,
    trt: Annotated[bool, typer.Option("--trt", help="a TensorRT engine")] = False,
    int8: Annotated[bool, typer.Option("--int8", help="8-bit integers, calibrated on train frames")] = False,
    fp16: Annotated[bool, typer.Option("--fp16", help="half precision (TensorRT)")] = False,
    bf16: Annotated[bool, typer.Option("--bf16", help="bfloat16 (OpenVINO, on CPUs that have it)")] = False,
    profile: Annotated[list[str] | None, typer.Option(help="a profile's file or name in export/; may be given more than once")] = None,
    compute_capability: Annotated[str | None, typer.Option(help="build for these GPUs with tensorrt-rtx, e.g. 8.6,8.9")] = None,
    size: Annotated[tuple[int, int] | None, typer.Option(metavar="H W", help="input size; default: the profile's, or the recipe's")] = None,
    max_drop: Annotated[
        float | None, typer.Option(min=0, max=100, callback=finite, help="points of mIoU that the artifact may lose")
    ] = None,
    plan: Annotated[Path | None, typer.Option(help="replay an INT8 plan (…plan.yaml) instead of searching one")] = None,
    force: Annotated[bool, typer.Option("--force", help="write a bundle that fails the gate, marked as forced")] = False,
    output: Annotated[Path | None, typer.Option(help="folder of bundles; default: RUN/export")] = None,
    data: Annotated[Path | None, typer.Option(help="root of the data set; default: as the recipe says")] = None,
    split: Annotated[str, typer.Option(help="split that the artifact is measured on")] = "val",
    limit: Annotated[int | None, typer.Option(min=1, max=MAX_COUNT, help="measure on the first so many frames only")] = None,
    evaluate: Annotated[bool, typer.Option("--evaluate/--no-evaluate", help="measure the artifact's mIoU")] = True,
) -> None:
    """Export a run as bundles: graph or engine, manifest, and each artifact's own measured accuracy.

    Examples: `python -m rdd_deploy.export --onnx`, `python -m rdd_deploy.export runs/camvid_mbv3 --openvino --int8`
    """
    targets = {"onnx": onnx, "openvino": openvino, "trt": trt}
    profiles = [load_profile(name) for name in [*(profile or []), *_shipped(targets, int8=int8, fp16=fp16, bf16=bf16)]]
    if not profiles:
        raise RddError("no target named; expected --onnx, --openvino, --trt or --profile FILE")
    if plan is not None and len(profiles) > 1:
        raise RecipeError(f"--plan replays one profile's plan, got {len(profiles)} profiles; name one")
    _check_packages()
    capabilities = [part.strip() for part in compute_capability.split(",") if part.strip()] if compute_capability is not None else None
    if capabilities == []:
        raise RecipeError(f"--compute-capability is '{compute_capability}'; expected one or more, e.g. 8.6,8.9")
    names = [one.name for one in profiles]
    if double := sorted({name for name in names if names.count(name) > 1}):
        raise RecipeError(f"the profile name {double[0]} is given more than once; each writes a folder of its name, so name them apart")
    profiles = [_adjusted(one, capabilities, size, max_drop) for one in profiles]
    from rdd_deploy.export.pipeline import Options, check_backend, export_profile
    from rdd_deploy.export.trained_run import open_run

    for one in profiles:
        check_backend(one)
    source = open_run(run, data)
    check_writable(output or source.run.export)
    options = Options(split, limit, evaluate, force, plan)
    for one in profiles:
        target, comparison = export_profile(source, one, output or source.run.export, options)
        if evaluate:
            facts = protocol(source.data.name, split, len(comparison.reference.labels), comparison.reference.size, len(source.classes))
            graph_only = one.backend == "tensorrt-rtx"
            what = "the graph by onnxruntime; the engine itself can't be measured here" if graph_only else f"{one.backend} {one.precision}"
            show(Evaluated(f"{target} ({what})", facts, comparison.confusion.summary()))
        console.info(f"done: {target}")


def _shipped(targets: dict[str, bool], *, int8: bool, fp16: bool, bf16: bool) -> list[str]:
    """The shipped profiles that the short flags mean."""
    precisions = [name for name, wanted in (("int8", int8), ("fp16", fp16), ("bf16", bf16)) if wanted]
    if precisions and not any(targets.values()):
        raise RecipeError(f"--{precisions[0]} names a precision but no target; add --onnx, --openvino or --trt")
    names = []
    for flag, backend in TARGETS.items():
        if targets[flag]:
            for precision in precisions or ["fp16" if flag == "trt" else "fp32"]:
                if precision not in PRECISIONS[backend]:  # type: ignore[index]
                    raise RecipeError(f"--{flag} has no {precision}; expected {' or '.join(PRECISIONS[backend])}")  # type: ignore[index]
                names.append(f"{backend}-{precision}")
    return names


def _adjusted(profile: Profile, capabilities: list[str] | None, size: tuple[int, int] | None, max_drop: float | None) -> Profile:
    if size is not None:
        profile = changed(profile, size=size)
    if max_drop is not None:
        profile = changed(profile, gate=profile.gate.model_dump(exclude_unset=True) | {"max_drop": max_drop})
    if profile.backend.startswith("tensorrt"):
        from rdd_deploy.export.tensorrt import retargeted

        return retargeted(profile, capabilities)
    if capabilities:
        raise RecipeError(f"--compute-capability names GPUs for TensorRT; profile '{profile.name}' is for {profile.backend}")
    return profile


def _check_packages() -> None:
    """Exporting needs the training stack; say so in one sentence before anything is imported."""
    from importlib.util import find_spec

    for package in ("torch", "timm", "onnx", "onnxscript"):
        if find_spec(package) is None:
            raise missing_package(package, "train", "exporting")


if __name__ == "__main__":
    main()
