"""What a training step does on the GPU: how busy it is, where the host waits for it, which operators take the time."""

from __future__ import annotations

import collections
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from common import DEVICE, OUT, add, sync
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

import rdd_deploy

PACKAGE = Path(rdd_deploy.__file__).parent


def gpu_busy(step: Callable[[], float], steps: int = 6) -> tuple[str, str]:
    """Percentage of the time in which at least one kernel or copy runs, and how many run a step; ``?``
    without a GPU.
    """
    if DEVICE.type != "cuda":
        return "?", "?"
    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        step()
        sync()
        since = time.perf_counter()
        for _ in range(steps):
            step()
        sync()
        wall = 1e6 * (time.perf_counter() - since)
    kernels = [
        e for e in seen.events() if e.device_type == DeviceType.CUDA and not getattr(e, "is_user_annotation", False)
    ]
    spans = sorted((event.time_range.start, event.time_range.end) for event in kernels)
    if not spans:
        return "?", "?"
    end = spans[-1][1]
    spans = [span for span in spans if span[0] >= end - wall]
    total, reached = 0.0, 0.0
    for start, stop in spans:
        total += max(0.0, stop - max(start, reached))
        reached = max(reached, stop)
    return f"{min(100.0, 100 * total / wall):.0f}", f"{len(spans) / steps:.0f}"


def host_waits(name: str, step: Callable[[], float]) -> None:
    """A row with the lines of the project on which a step waits for the GPU."""
    if DEVICE.type != "cuda":
        return
    places: collections.Counter[str] = collections.Counter()
    before = warnings.showwarning

    def note(message: Any, category: Any, filename: str, line: int, *_: Any) -> None:
        if "synchronizing" not in str(message):
            return
        own = [frame for frame in traceback.extract_stack() if Path(frame.filename).is_relative_to(PACKAGE)]
        places[f"{Path(own[-1].filename).name}:{own[-1].lineno}" if own else f"{Path(filename).name}:{line}"] += 1

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = note
        torch.cuda.set_sync_debug_mode("warn")
        try:
            for _ in range(3):
                step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
            warnings.showwarning = before
    found = ", ".join(f"{place} x{count / 3:.0f}" for place, count in places.most_common(5))
    add("rates", f"  host waits for the GPU a step: {name}", found or "nowhere")


def top_operators(name: str, step: Callable[[], float]) -> None:
    """Write the operators that take the GPU and the host longest to profile.txt."""
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if DEVICE.type == "cuda" else [])]
    with profile(activities=activities) as seen:
        for _ in range(3):
            step()
        sync()
    by = "self_cuda_time_total" if DEVICE.type == "cuda" else "self_cpu_time_total"
    averages = seen.key_averages()
    with (OUT / "profile.txt").open("a") as file:
        file.write(f"\n{name}, 3 steps\n{averages.table(sort_by=by, row_limit=18, max_name_column_width=60)}\n")
        host = averages.table(sort_by="self_cpu_time_total", row_limit=12, max_name_column_width=60)
        file.write(f"{name}, by the host's own time\n{host}\n")
