"""``rdd-deploy live``: show a bundle on a camera, video, stream, folder of images, or the procedural streets."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from rdd_deploy.console import command
from rdd_deploy.errors import RddError
from rdd_deploy.live.options import MAX_ASKED_FPS, MAX_CAMERAS, LiveOptions, parse_size
from rdd_deploy.live.sinks import SCREENS
from rdd_deploy.utils.arguments import MAX_COUNT, finite, output_file, repeated
from rdd_deploy.utils.machine import MAX_THREADS

SEVERAL = ("--bundle", "--data-void")
"""Options that take several values, also behind one flag."""


@command
def _run(
    camera: Annotated[int | None, typer.Option(metavar="N", min=0, max=MAX_CAMERAS - 1, help="camera number")] = None,
    source: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|URL|FOLDER|DEVICE|gst:PIPELINE|streets",
            help=(
                "video file, rtsp:// or http:// stream, folder of images, device file of a camera (/dev/v4l/by-id/...),"
                " GStreamer pipeline, "
                "or 'streets'"
            ),
        ),
    ] = None,
    bundle: Annotated[
        list[Path] | None,
        typer.Option(metavar="FOLDER...", help="up to nine; default: the newest of runs/latest/export"),
    ] = None,
    newest: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="the newest bundle in it; a newer one that is copied there takes its place, and the stream goes on",
        ),
    ] = None,
    split: Annotated[bool, typer.Option("--split", help="start in split view of the first two bundles")] = False,
    size: Annotated[
        str | None,
        typer.Option(
            metavar="WxH", help="frame size asked of a camera or the streets; default: the camera's own, 480x360"
        ),
    ] = None,
    fps: Annotated[
        float | None,
        typer.Option(
            metavar="N",
            min=1,
            max=MAX_ASKED_FPS,
            callback=finite,
            help="frames per second asked of a camera; default: its own",
        ),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="index masks named like the images (or the video's frame numbers): running mIoU"
        ),
    ] = None,
    data_void: Annotated[
        list[int] | None, typer.Option(metavar="ID...", min=0, max=255, help="mask values that mean void, beside 255")
    ] = None,
    realtime: Annotated[
        bool, typer.Option("--realtime", help="play a file at its own rate, dropping frames as a camera would")
    ] = False,
    show: Annotated[
        str | None,
        typer.Option(metavar="|".join(SCREENS), help="where pictures are shown; default: window, or none with --serve"),
    ] = None,
    headless: Annotated[bool, typer.Option("--headless", help="no window: the same as --show none")] = False,
    serve: Annotated[
        str | None,
        typer.Option(
            metavar="[HOST:]PORT",
            help="a page for browsers; 127.0.0.1 without HOST, any other needs a token; 0 takes a free port",
        ),
    ] = None,
    token: Annotated[
        str | None,
        typer.Option(
            metavar="TOKEN",
            help="who has it may see and steer the page; better in RDD_LIVE_TOKEN or a file: ps shows this one",
        ),
    ] = None,
    token_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="holds the token; without any one is made and shown once")
    ] = None,
    stats: Annotated[
        Path | None, typer.Option(metavar="FILE.json", callback=output_file, help="write what was measured")
    ] = None,
    record: Annotated[
        Path | None, typer.Option(metavar="FILE.mp4", help="write what is shown (.mp4, .mkv, .avi)")
    ] = None,
    save_to: Annotated[Path, typer.Option(metavar="FOLDER", help="where the key s saves frames")] = LiveOptions.save_to,
    max_frames: Annotated[
        int | None, typer.Option(metavar="N", min=1, max=MAX_COUNT, help="stop after so many frames")
    ] = None,
    opacity: Annotated[float, typer.Option(min=0, max=1, callback=finite, help="of the colours")] = LiveOptions.opacity,
    device: Annotated[str, typer.Option(metavar="D", help="auto, cpu, cuda or cuda:N")] = LiveOptions.device,
    provider: Annotated[
        str | None,
        typer.Option(metavar="P", help="onnxruntime provider (cpu, cuda, tensorrt, tensorrt-rtx) or OpenVINO device"),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            max=MAX_THREADS,
            help="CPU threads of the network; default: the backend's choice. Up to four frames of a file share them",
        ),
    ] = None,
) -> None:
    """Show a bundle live: camera, video, stream, folder of images, or the procedural streets.

    Examples (`rdd-deploy live` and `python -m rdd_deploy.live` are the same program):

    - `python apps/live_segment.py` : the first camera, or the streets where there is none
    - `python apps/live_segment.py --camera 0 --size 1280x720`
    - `python apps/live_segment.py --source /dev/v4l/by-id/usb-Cam-video-index0 --size 1280x720`
    - `python apps/live_segment.py --camera 0 --newest /var/lib/rdd/bundles --headless` : as a service does
    - `python apps/live_segment.py --source drive.mp4 --bundle runs/a/export/onnxruntime-fp32
      runs/a/export/onnxruntime-int8 --split`
    - `python apps/live_segment.py --source rtsp://user:password@10.0.0.7/stream1 --record seen.mp4`
    - `python apps/live_segment.py --camera 0 --serve 0.0.0.0:8000` : for browsers in the network, with a token
    - `python apps/live_segment.py --source data/camvid/val --labels data/camvid/valannot --data-void 11 --headless
      --stats out.json`

    Keys: 1-9 switch bundle, v split view, + and - opacity, s save a frame, space pause, h help, q or Esc quit
    (with --headless the same keys work in the terminal).

    Exit codes: 0 done, 2 something to fix (one sentence says what); 130 after Ctrl-C, 143 after SIGTERM and 129 after
    SIGHUP (a closed terminal), with recording and stats finished.
    """
    if data_void and labels is None:
        raise RddError("--data-void says what masks mean, and there are none; give --labels, too, or leave it out")
    if serve is None and (token is not None or token_file is not None):
        raise RddError(
            "--token and --token-file say who may see the page, and there is none; give --serve, too, or leave them out"
        )
    if bundle and newest is not None:
        raise RddError(f"got --bundle {bundle[0]} and --newest {newest}; give one of them")
    options = LiveOptions(
        bundles=tuple(bundle or ()),
        newest=newest,
        source=source,
        camera=camera,
        size=parse_size(size) if size else None,
        fps=fps,
        labels=labels,
        data_void=tuple(data_void or ()),
        show=show,
        headless=headless,
        serve=serve,
        token=token,
        token_file=token_file,
        realtime=realtime,
        split=split,
        opacity=opacity,
        stats=stats,
        record=record,
        save_to=save_to,
        max_frames=max_frames,
        device=device,
        provider=provider,
        threads=threads,
    )
    from rdd_deploy.live.app import live

    sys.exit(live(options))


def main() -> None:
    """Run on ``sys.argv``, and end with the exit code that the help names."""
    sys.argv[1:] = repeated(sys.argv[1:], SEVERAL)
    _run()


if __name__ == "__main__":
    main()
