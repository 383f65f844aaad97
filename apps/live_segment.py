#!/usr/bin/env python3
"""Show a bundle live: camera, video, stream, folder of images, or the procedural streets."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from rdd_deploy.live.options import LiveOptions, parse_size

EXAMPLES = """
examples:
  python apps/live_segment.py                                  the first camera, or the streets where there is none
  python apps/live_segment.py --camera 0 --size 1280x720
  python apps/live_segment.py --source drive.mp4 --bundle runs/a/export/onnxruntime-fp32 runs/a/export/onnxruntime-int8 --split
  python apps/live_segment.py --source rtsp://user:password@10.0.0.7/stream1 --record seen.mp4
  python apps/live_segment.py --source data/camvid/val --labels data/camvid/valannot --data-void 11 --headless --stats out.json

keys:
  1-9 switch bundle, v split view, + and - opacity, s save a frame, space pause, h help, q or Esc quit
  (with --headless the same keys work in the terminal)

exit codes:
  0 done, 2 something to mend (one sentence says what), 130 after Ctrl-C and 143 after SIGTERM, with recording and stats finished
"""


def parse(arguments: list[str]) -> LiveOptions:
    """Command line to options; argparse ends the program with code 2 on a mistake."""
    parser = argparse.ArgumentParser(description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--camera", type=int, metavar="N", help="camera number")
    add("--source", metavar="FILE|URL|FOLDER|streets", help="video file, rtsp:// or http:// stream, folder of images, or 'streets'")
    add(
        "--bundle",
        type=Path,
        nargs="+",
        action="extend",
        default=[],
        metavar="FOLDER",
        help="up to nine (default: newest of runs/latest/export)",
    )
    add("--split", action="store_true", help="start in split view of the first two bundles")
    add("--size", metavar="WxH", help="frame size asked of a camera or the streets (default: the camera's own, 480x360)")
    add("--labels", type=Path, metavar="FOLDER", help="index masks named like the images (or the video's frame numbers): running mIoU")
    add("--data-void", type=int, nargs="+", default=[], metavar="ID", help="mask values that mean void, beside 255")
    add("--realtime", action="store_true", help="play a file at its own rate, dropping frames as a camera would")
    add("--headless", action="store_true", help="no window")
    add("--stats", type=Path, metavar="FILE.json", help="write what was measured")
    add("--record", type=Path, metavar="FILE.mp4", help="write what is shown (.mp4, .mkv, .avi)")
    add("--save-to", type=Path, default=Path("saved"), metavar="FOLDER", help="where the key s saves frames (default: saved)")
    add("--max-frames", type=int, metavar="N", help="stop after so many frames")
    add("--opacity", type=float, default=0.5, metavar="0..1", help="of the colours (default: 0.5)")
    add("--device", default="auto", metavar="D", help="auto, cpu, cuda or cuda:N (default: auto)")
    add("--provider", metavar="P", help="onnxruntime provider (cpu, cuda, tensorrt, tensorrt-rtx) or OpenVINO device")
    add(
        "--threads",
        type=int,
        metavar="N",
        help="CPU threads of the network (default: the backend's choice); up to four frames of a file share them",
    )
    given = parser.parse_args(arguments)
    if given.max_frames is not None and given.max_frames < 1:
        parser.error(f"--max-frames is {given.max_frames}; expected 1 or more")
    if not 0 <= given.opacity <= 1:
        parser.error(f"--opacity is {given.opacity}; expected 0 to 1")
    if any(not 0 <= value <= 255 for value in given.data_void):
        parser.error(f"--data-void is {given.data_void}; expected ids from 0 to 255")
    if given.data_void and given.labels is None:
        parser.error("--data-void says what masks mean, and there are none; give --labels, too, or leave it out")
    fields = vars(given) | {"bundles": tuple(given.bundle), "data_void": tuple(given.data_void)}
    fields["size"] = parse_size(given.size) if given.size else None
    del fields["bundle"]
    return LiveOptions(**fields)


def main() -> None:
    """Run, and end with the exit code that the help names."""

    def app(**_: Any) -> None:
        options = parse(sys.argv[1:])
        from rdd_deploy.live.app import live

        sys.exit(live(options))

    try:
        from rdd_deploy import console  # here and above: imports take long enough for a Ctrl-C

        console.run(app)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
