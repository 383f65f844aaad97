"""How much of a bundle's bare speed the live app keeps, and what overlay and HUD cost. Prints ratios; exit code 1 if a
bar is missed.

    python scripts/live_speed.py runs/latest/export/onnxruntime-fp32 --json live_speed.json

One process, rounds interleaved (bare, read, live, live with drawing and recording, bare, …), so that a drifting machine
is fair to all. Bare: ``Segmenter.infer`` alone on prepared frames, one at a time on all threads. Live:
``apps/live_segment.py --headless`` on a 480×360 file, decoding included, with as many frames at a time as it takes by
itself. Read: what decoding and resizing take of one core, with nothing beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from rdd_deploy.data.streets.dataset import StreetVideo
from rdd_deploy.live.app import live
from rdd_deploy.live.bundles import newest_bundle
from rdd_deploy.live.captures import open_video
from rdd_deploy.live.options import LiveOptions
from rdd_deploy.live.renderer import Picture
from rdd_deploy.live.stats import Stats
from rdd_deploy.live.types import CapturedFrame, Prediction, Result
from rdd_deploy.runtime import Segmenter
from rdd_deploy.utils.files import write_json
from rdd_deploy.utils.machine import versions

MIN_LIVE_OVER_BARE = 0.85
MAX_DRAW_MS = {"480x360": 2.0, "1280x720": 6.0}


def write_video(path: Path, frames: int) -> None:
    """A drive down the street at 480×360, played back and forth so that rendering doesn't take longer
    than measuring.
    """
    street = StreetVideo(height=360, width=480, seed=0)
    rendered = [street.render(index)[0] for index in range(30)]
    order = [*range(30), *range(28, 0, -1)]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 30, (480, 360))
    for index in range(frames):
        writer.write(rendered[order[index % len(order)]])
    writer.release()


def bare_fps(bundle: Path, frames: int, threads: int | None) -> float:
    """Frames per second of ``infer`` alone, one after the other."""
    street = StreetVideo(height=360, width=480, seed=0)
    with Segmenter.load(bundle, threads=threads) as segmenter:
        blobs = [segmenter.prepare(street.render(index)[0]) for index in range(8)]
        for network_input in blobs:
            segmenter.infer(network_input)
        start = time.perf_counter()
        for index in range(frames):
            segmenter.infer(blobs[index % len(blobs)])
        return frames / (time.perf_counter() - start)


def read_ms(bundle: Path, video: Path) -> float:
    """Milliseconds that one thread takes to read a frame and prepare it."""
    with Segmenter.load(bundle) as segmenter:
        source = open_video(video)
        frames, start = 0, time.perf_counter()
        while (captured := source.read()) is not None:
            segmenter.prepare(captured.frame)
            frames += 1
        seconds = time.perf_counter() - start
        source.close()
    return seconds / frames * 1e3


def live_fps(bundle: Path, video: Path, threads: int | None, record: Path | None) -> float:
    """Frames per second of the whole app, as its own ``--stats`` says."""
    stats = video.with_suffix(".json")
    live(LiveOptions(bundles=(bundle,), source=str(video), headless=True, stats=stats, record=record, threads=threads))
    return float(json.loads(stats.read_text())["fps"])


def draw_ms(bundle: Path, width: int, height: int, rounds: int = 200) -> dict[str, float]:
    """Overlay, panels and legend on a frame of that size: p50 and p95 in ms."""
    with Segmenter.load(bundle) as segmenter:
        frame, truth = StreetVideo(height=height, width=width).render(0)
        labels = np.minimum(truth, len(segmenter.classes) - 1).astype(np.uint8)
        stats = Stats([segmenter])
        picture = Picture([segmenter], stats, 0.5)
        result = Result(
            CapturedFrame(frame, 0, "000000", time.perf_counter(), 1.0),
            (Prediction(0, labels[np.newaxis], 1.0, 1.0, None),),
        )
        times = []
        for _ in range(rounds):
            start = time.perf_counter()
            picture.with_panels(picture.coloured(result, [labels]), result, 0)
            times.append((time.perf_counter() - start) * 1e3)
            stats.answered(result, [labels], None)
            stats.shown(1.0, 1.0, start)
    return {"p50": round(float(np.percentile(times, 50)), 3), "p95": round(float(np.percentile(times, 95)), 3)}


def measure(bundle: Path, frames: int, rounds: int, threads: int | None) -> dict[str, Any]:
    """Everything, as the JSON holds it."""
    cv2.setNumThreads(1)  # as the app does
    bare, played, recorded, reading = [], [], [], []
    with tempfile.TemporaryDirectory() as folder:
        video = Path(folder) / "drive.mp4"
        write_video(video, frames)
        for _ in range(rounds):
            bare.append(bare_fps(bundle, frames, threads))
            reading.append(read_ms(bundle, video))
            played.append(live_fps(bundle, video, threads, None))
            recorded.append(live_fps(bundle, video, threads, Path(folder) / "seen.mp4"))
    median_bare, median_live = (statistics.median(rates) for rates in (bare, played))
    return {
        "schema_version": 3,
        "bundle": str(bundle),
        "frames": frames,
        "threads": threads,
        "bare_fps": [round(value, 2) for value in bare],
        "read_ms": [round(value, 3) for value in reading],
        "live_fps": [round(value, 2) for value in played],
        "live_recording_fps": [round(value, 2) for value in recorded],
        "live_over_bare": round(median_live / median_bare, 3),
        "live_recording_over_bare": round(statistics.median(recorded) / median_bare, 3),
        "draw_ms": {size: draw_ms(bundle, *map(int, size.split("x"))) for size in MAX_DRAW_MS},
        "machine": {
            "cpus": os.cpu_count(),
            "processor": platform.processor() or platform.machine(),
            "load_1min": os.getloadavg()[0],
        },
        "versions": versions(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path, nargs="?", help="default: newest of runs/latest/export")
    parser.add_argument("--frames", type=int, default=600)
    parser.add_argument("--rounds", type=int, default=7, help="the ratio is that of their medians (default: 7)")
    parser.add_argument(
        "--threads", type=int, help="CPU threads of the network, bare and live (default: the backend's choice)"
    )
    parser.add_argument("--json", type=Path, help="also write the figures there")
    given = parser.parse_args()
    record = measure(given.bundle or newest_bundle(), given.frames, given.rounds, given.threads)
    if given.json is not None:
        write_json(given.json, record)
    ratio = record["live_over_bare"]
    print(
        f"live / bare  {ratio:.3f}  (bar: at least {MIN_LIVE_OVER_BARE})"
        f" {'ok' if ratio >= MIN_LIVE_OVER_BARE else 'MISSED'}"
    )
    print(
        f"read         {statistics.median(record['read_ms']):.2f} ms of one core to read and prepare a frame, with"
        " nothing beside it"
    )
    print(f"  with drawing and recording  {record['live_recording_over_bare']:.3f} of bare")
    missed = ratio < MIN_LIVE_OVER_BARE
    for size, bar in MAX_DRAW_MS.items():
        cost = record["draw_ms"][size]
        missed |= cost["p50"] > bar
        verdict = "ok" if cost["p50"] <= bar else "MISSED"
        print(
            f"overlay and HUD at {size}  p50 {cost['p50']:.2f} ms, p95 {cost['p95']:.2f} ms  (bar: {bar} ms) {verdict}"
        )
    sys.exit(int(missed))


if __name__ == "__main__":
    main()
