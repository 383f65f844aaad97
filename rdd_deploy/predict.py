"""``rdd-deploy predict RUN_OR_BUNDLE FRAMES OUT``: masks of frames that nobody labelled, for annotation tools and for
the next training.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from rdd_deploy.console import command
from rdd_deploy.errors import RddError
from rdd_deploy.utils.arguments import MAX_COUNT, repeated
from rdd_deploy.utils.machine import MAX_THREADS

SEVERAL = ("--disagree",)
"""Options that take several values, also behind one flag."""
FORMATS = ("masks", "cvat", "coco", "coco-polygons")


@command
def _run(
    path: Annotated[
        Path, typer.Argument(metavar="RUN_OR_BUNDLE", help="a run folder (PyTorch), or a bundle (its own runtime)")
    ],
    frames: Annotated[
        Path, typer.Argument(metavar="FRAMES", help="a folder of images, with the folders in it, an image or a video")
    ],
    output: Annotated[
        Path, typer.Argument(metavar="OUT", help="a new folder, or that of the same command, which then goes on")
    ],
    layout: Annotated[str, typer.Option("--format", metavar="|".join(FORMATS), help="how masks are written")] = "masks",
    overlay: Annotated[
        bool, typer.Option("--overlay", help="also pictures with the classes' colours drawn in")
    ] = False,
    confidence: Annotated[
        bool,
        typer.Option(
            "--confidence", help="also maps of how sure it is; a bundle is asked for the mirrored frame for it"
        ),
    ] = False,
    disagree: Annotated[
        list[Path] | None,
        typer.Option(metavar="RUN_OR_BUNDLE...", help="others, to tell the share of pixels where not all agree"),
    ] = None,
    pick: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            max=MAX_COUNT,
            help="copy the N most uncertain frames that don't look alike to OUT/picked",
        ),
    ] = None,
    every: Annotated[int, typer.Option(metavar="N", min=1, max=MAX_COUNT, help="only each N-th frame")] = 1,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N")] = "auto",
    provider: Annotated[
        str | None, typer.Option(help="for a bundle: an onnxruntime provider or an OpenVINO device")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, max=MAX_THREADS, help="CPU threads")] = None,
    dry: Annotated[
        bool, typer.Option("--dry-run", help="check everything and tell the number of frames, predict nothing")
    ] = False,
) -> None:
    """Write a mask for every frame of a folder, image or video, and predictions.csv with shares, confidence and
    disagreement.

    Stopped, it goes on with the same command. Exit code 2 where some frames couldn't be read; all others are done then.

    Example: `rdd-deploy predict runs/latest/export/onnxruntime-fp32 drive.mp4 predicted --overlay`
    """
    if layout not in FORMATS:
        raise RddError(f"--format is '{layout}'; expected {', '.join(FORMATS[:-1])} or {FORMATS[-1]}")
    from rdd_deploy.prediction.predict import Options, predict  # OpenCV

    predict(
        Options(
            path, frames, output, layout, overlay, confidence, tuple(disagree or ()), pick, every, device, provider, threads, dry
        )
    )  # fmt: skip


def main() -> None:
    """Run on ``sys.argv``."""
    sys.argv[1:] = repeated(sys.argv[1:], SEVERAL)
    _run()


if __name__ == "__main__":
    main()
