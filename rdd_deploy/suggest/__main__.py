"""``rdd-deploy suggest --latency 5ms``: which students are worth training for a latency on this machine, before
anything is trained.
"""

from __future__ import annotations

import re
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from rdd_deploy import console
from rdd_deploy.errors import BudgetError, MachineError, RddError, RecipeError
from rdd_deploy.models import HEADS
from rdd_deploy.models.encoder_names import check_encoder
from rdd_deploy.suggest.candidates import CANDIDATES
from rdd_deploy.utils import files
from rdd_deploy.utils.arguments import output_file
from rdd_deploy.utils.machine import (
    MAX_THREADS,
    available_cores,
    cpu_model,
    load_average,
    runtime_version,
)

MILLISECONDS = {"us": 1e-3, "ms": 1.0, "s": 1e3, "": 1.0}


class Backend(str, Enum):
    """What runs on the CPU of the machine at hand."""

    ONNXRUNTIME = "onnxruntime"
    OPENVINO = "openvino"


class Precision(str, Enum):
    """Of the network's arithmetic."""

    INT8 = "int8"
    FP32 = "fp32"


def milliseconds(text: str) -> float:
    """A latency as people write it: 5ms, 5 (milliseconds), 0.005s, 800us.

    Raises:
        RecipeError: anything else, or nothing above zero.
    """
    match = re.fullmatch(r"(\d+\.?\d*|\.\d+)\s*(us|ms|s|)", text.strip().lower())
    value = float(match[1]) * MILLISECONDS[match[2]] if match else 0.0
    if not 0 < value < 1e9:
        raise RecipeError(f"--latency is '{text}'; expected a time above zero, e.g. 5ms, 5 (milliseconds) or 0.005s")
    return value


@console.command
def main(
    latency: Annotated[
        str | None, typer.Option(help="one call's latency that a student may have, e.g. 5ms; default: no limit")
    ] = None,
    backend: Annotated[Backend, typer.Option(help="what runs the bundles, on the CPU")] = Backend.OPENVINO,
    precision: Annotated[Precision, typer.Option(help="of the network's arithmetic")] = Precision.INT8,
    size: Annotated[tuple[int, int], typer.Option(metavar="H W", min=32, max=4096, help="the network's input")] = (
        240,
        320,
    ),
    classes: Annotated[int, typer.Option(min=2, max=255, help="number of classes")] = 11,
    head: Annotated[str, typer.Option(help=f"decode head: {', '.join(HEADS)}")] = "lraspp_refine",
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="ENCODER", help="only this encoder, of the table or any of timm's; repeatable"),
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, max=MAX_THREADS, help="CPU threads; default: the physical cores")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, max=50, help="interleaved rounds of at least ten frames each")] = 5,
    json: Annotated[
        Path | None, typer.Option("--json", callback=output_file, help="also write the figures to this file")
    ] = None,
    list_: Annotated[
        bool, typer.Option("--list", help="the candidates and what is known of them, without timing any")
    ] = False,
) -> None:
    """Time untrained candidates on this machine and name those worth training. Their accuracy is guessed from
    ImageNet's.

    Example: `rdd-deploy suggest --latency 5ms --backend openvino`
    """
    if list_ and json:
        raise RddError("--list times nothing, so there are no figures for --json; leave one of them out")
    budget = None if latency is None else milliseconds(latency)
    if head not in HEADS:
        raise RecipeError(f"unknown head '{head}'; expected one of {', '.join(HEADS)}")
    encoders = list(dict.fromkeys(only or CANDIDATES))
    for encoder in encoders:
        check_encoder(encoder)
    from rdd_deploy.suggest.rows import Row, by_latency, command, show, unknown_within, worth_training

    if list_:
        show(f"{len(encoders)} candidates, nothing timed", [Row(encoder, head) for encoder in encoders], [])
        return
    from rdd_deploy.export.pipeline import check_backend  # takes seconds: torch, onnx
    from rdd_deploy.suggest.untrained import CAMERA, Target
    from rdd_deploy.suggest.work import time_candidates

    target = Target(head, size, classes, backend.value, precision.value)
    check_backend(target.profile)
    threads = threads or available_cores()
    load = load_average()
    console.info(
        f"{len(encoders)} untrained candidates are built, exported to {backend.value} {precision.value} and timed"
        " together"
    )
    rows = by_latency(time_candidates(encoders, target, threads, rounds))
    chosen = worth_training(rows, budget)
    frame = f"{CAMERA[0]}x{CAMERA[1]} frames, network {size[0]}x{size[1]}, {classes} classes, {threads} threads"
    runtime = runtime_version(backend.value) or backend.value
    show(f"{runtime} {precision.value}, {frame}, on {cpu_model()}", rows, chosen)
    if json:
        facts: dict[str, Any] = {
            "backend": backend.value,
            "runtime": runtime,
            "precision": precision.value,
            "size": list(size),
            "frame": list(CAMERA),
        }
        facts |= {
            "classes": classes,
            "threads": threads,
            "cpu": cpu_model(),
            "load_average_before": load,
            "latency_ms": budget,
        }
        files.write_json(
            json, facts | {"rows": [row.record() for row in rows], "worth_training": [row.encoder for row in chosen]}
        )
        console.info(f"figures -> {json}")
    if load is not None and load > 0.25 * available_cores():
        console.warn(
            f"the machine was busy before it began (load average {load:g}): latencies are too high and unsteady"
        )
    measured = [row for row in rows if row.measured]
    if not measured:
        raise MachineError(f"none of the {len(rows)} candidates could be timed; the first: {rows[0].failure}")
    console.info(
        "p50 and p95 are of one call: the frame resized, the network, labels at the frame's size. Worth training are"
        " those that no other one beats in both p50 and ImageNet accuracy: a guess, since ImageNet accuracy isn't mIoU,"
        " and INT8 may cost each of them something else"
    )
    if unplaced := unknown_within(rows, budget):
        console.info(f"fast enough, but timm's table has no ImageNet accuracy for: {', '.join(unplaced)}")
    if chosen:
        console.info(
            "first choice, on CamVid (your own data: data.name=folder data.root=…, docs/recipes.md):",
            f"  {command(chosen[0], size)}",
        )
    elif budget is not None and not unplaced:
        nearest = measured[0]
        raise BudgetError(
            f"no candidate is within {budget:g} ms; the fastest is {nearest.encoder} with {nearest.call_p50_ms:.2f} ms:"
            " allow more, or take a smaller --size"
        )


if __name__ == "__main__":
    main()
