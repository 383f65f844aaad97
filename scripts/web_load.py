"""What many viewers of the web view cost: the app's frame rate with them over that without, and its memory. Exit code 1
if a bar is missed.

    python scripts/web_load.py runs/latest/export/onnxruntime-int8 --viewers 20 --minutes 10 --json web_load.json

The app plays a drive down the procedural street at ``--fps`` in this process; the viewers are a process of their own.
Turns of ten seconds with and without viewers take each other's place, so that a machine that drifts is fair to both.
One of the viewers never reads.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
import time
import traceback
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from rdd_deploy.data.streets.dataset import StreetVideo
from rdd_deploy.live import app
from rdd_deploy.live.bundles import newest_bundle
from rdd_deploy.live.options import LiveOptions
from rdd_deploy.live.types import CapturedFrame
from rdd_deploy.live.web.place import open_place
from rdd_deploy.live.web.server import WebView
from rdd_deploy.utils.files import write_json
from rdd_deploy.utils.machine import versions

MIN_RATIO = 0.9
MAX_GROWTH_MB = 20.0
TURN_S = 10.0
WARM_S = 2.0
"""Of each turn, not counted."""


class Drive:
    """A live source that never ends, at a steady rate; its frames are rendered before."""

    live, title = True, "drive"

    def __init__(self, fps: float, width: int, height: int) -> None:
        street = StreetVideo(height=height, width=width, seed=0)
        rendered = [street.render(index)[0] for index in range(30)]
        self._frames = [*rendered, *rendered[-2:0:-1]]
        self.fps, self._index, self._due = fps, 0, time.perf_counter()

    def open(self) -> None:
        pass

    def read(self) -> CapturedFrame:
        self._due = max(self._due + 1 / self.fps, time.perf_counter() - 1)
        time.sleep(max(0.0, self._due - time.perf_counter()))
        self._index += 1
        frame = self._frames[self._index % len(self._frames)].copy()
        return CapturedFrame(frame, self._index, f"{self._index:06d}", time.perf_counter(), 0.1)

    def close(self) -> None:
        pass


def memory_mb() -> float:
    """Resident memory of this process."""
    with open("/proc/self/status", encoding="ascii") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS:")) / 1024


def frames_so_far(port: int) -> tuple[int, float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/status", timeout=30) as answer:
        return int(json.load(answer)["frames"]), time.perf_counter()


def turn(port: int) -> tuple[float, float]:
    """Frames per second over a turn, and milliseconds of CPU time that this process took for each."""
    time.sleep(WARM_S)
    (first, began), cpu = frames_so_far(port), time.process_time()
    time.sleep(TURN_S - WARM_S)
    (last, ended), cpu = frames_so_far(port), time.process_time() - cpu
    return (last - first) / (ended - began), 1e3 * cpu / max(1, last - first)


def measure(bundle: Path, viewers: int, minutes: float, fps: float, size: tuple[int, int]) -> dict[str, Any]:
    """Everything, as the JSON holds it."""
    place = open_place("0", None, None)
    view = WebView(place)
    drive = Drive(fps, *size)
    app.open_source = lambda *_, **__: drive  # type: ignore[assignment]
    app._remote = lambda options: view
    rates: dict[str, list[tuple[float, float]]] = {"without": [], "with": []}
    memory: list[float] = []
    counts: list[list[int]] = []
    failed: list[BaseException] = []

    def visit() -> None:
        try:
            while not view._segmenters:
                time.sleep(0.1)
            words = [sys.executable, str(Path(__file__).with_name("web_viewers.py")), str(place.port), str(viewers)]
            with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) as crowd:
                assert crowd.stdin is not None
                assert crowd.stdout is not None
                for _ in range(max(1, round(minutes * 60 / TURN_S))):
                    rates["without"].append(turn(place.port))
                    crowd.stdin.write("on\n")
                    rates["with"].append(turn(place.port))
                    memory.append(memory_mb())
                    crowd.stdin.write("off\n")
                    counts.append(json.loads(crowd.stdout.readline()))
                    print(
                        f"{rates['without'][-1][0]:6.2f} fps without, {rates['with'][-1][0]:6.2f} with,"
                        f" {memory[-1]:.0f} MB",
                        flush=True,
                    )
                crowd.stdin.close()
        except BaseException as error:
            failed.append(error)
            traceback.print_exc()
        finally:
            with suppress(ProcessLookupError):
                os.kill(os.getpid(), 2)  # as Ctrl-C ends the app

    visitor = threading.Thread(target=visit, daemon=True)
    visitor.start()
    code = app.live(LiveOptions(bundles=(bundle,), source="streets", serve="0"))
    if failed or code != 130:
        raise SystemExit(f"the measurement ended early: {failed or code}")
    # In the first turns caches and pools fill.
    settled = memory[len(memory) // 5 :] or memory
    return {
        "schema_version": 1,
        "bundle": str(bundle),
        "viewers": viewers,
        "minutes": minutes,
        "source_fps": fps,
        "size": list(size),
        "fps_without": [round(rate, 2) for rate, _ in rates["without"]],
        "fps_with": [round(rate, 2) for rate, _ in rates["with"]],
        "ratio": round(
            float(np.median([rate for rate, _ in rates["with"]]) / np.median([rate for rate, _ in rates["without"]])), 3
        ),
        "cpu_ms_a_frame": {
            name: round(float(np.median([cpu for _, cpu in turns])), 2) for name, turns in rates.items()
        },
        "memory_mb": [round(value, 1) for value in memory],
        "growth_mb": round(settled[-1] - settled[0], 1),
        "pictures_of_a_reader": float(np.median([np.median(one[:-1] or one) for one in counts])),
        "pictures_of_the_slowest_reader": min(min(one[:-1] or one) for one in counts),
        "machine": {"cpus": os.cpu_count(), "load_1min": os.getloadavg()[0]},
        "versions": versions(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path, nargs="?", help="default: newest of runs/latest/export")
    parser.add_argument("--viewers", type=int, default=20)
    parser.add_argument("--minutes", type=float, default=10, help="with viewers, and as long without (default: 10)")
    parser.add_argument("--fps", type=float, default=30, help="of the source (default: 30)")
    parser.add_argument("--size", default="480x360", help="of its frames (default: 480x360)")
    parser.add_argument("--json", type=Path, help="also write the figures there")
    given = parser.parse_args()
    width, height = map(int, given.size.split("x"))
    record = measure(given.bundle or newest_bundle(), given.viewers, given.minutes, given.fps, (width, height))
    if given.json is not None:
        write_json(given.json, record)
    slow, grown = record["ratio"] < MIN_RATIO, record["growth_mb"] > MAX_GROWTH_MB
    print(f"with / without  {record['ratio']:.3f}  (bar: at least {MIN_RATIO}) {'MISSED' if slow else 'ok'}")
    cpu = record["cpu_ms_a_frame"]
    print(
        f"CPU time        {cpu['with']:.1f} ms a frame with viewers, {cpu['without']:.1f} without; theirs isn't in it"
    )
    print(
        f"memory          {record['growth_mb']:+.1f} MB after the first turns  (bar: {MAX_GROWTH_MB:.0f})"
        f" {'MISSED' if grown else 'ok'}"
    )
    print(
        f"pictures        {record['pictures_of_a_reader']:.0f} a turn for a viewer,"
        f" {record['pictures_of_the_slowest_reader']} for the slowest"
    )
    sys.exit(int(slow or grown))


if __name__ == "__main__":
    main()
