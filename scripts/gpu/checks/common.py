"""What the checks share: the device, places, timing, errors, and rows for failures."""

from __future__ import annotations

import contextlib
import os
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from table import add

SMOKE = os.environ.get("SMOKE") == "1"
OUT = Path(os.environ.get("OUT", ".gpu/out"))
WORK = Path(os.environ.get("WORK", ".gpu/work"))
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
if DEVICE.type == "cpu" and not SMOKE:
    raise SystemExit("torch finds no GPU here; --smoke runs the checks on a CPU")


def sync() -> None:
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def relative(got: torch.Tensor, reference: torch.Tensor) -> float:
    """‖got − reference‖ / ‖reference‖ in float64; infinite where anything isn't finite."""
    got, reference = got.detach().double().cpu(), reference.detach().double().cpu()
    if not got.isfinite().all():
        return float("inf")
    return float((got - reference).norm() / reference.norm().clamp(min=1e-30))


def median_ms(run: Callable[[], Any], repeats: int = 20, warm: int = 3) -> float:
    """Median milliseconds on the device, by events (wall clock on a CPU)."""
    if SMOKE:
        repeats, warm = 2, 1
    for _ in range(warm):
        run()
    times = []
    for _ in range(repeats):
        sync()
        if DEVICE.type == "cuda":
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            run()
            end.record()
            end.synchronize()
            times.append(start.elapsed_time(end))
        else:
            since = time.perf_counter()
            run()
            times.append(1e3 * (time.perf_counter() - since))
    return float(np.median(times))


@contextlib.contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Whether cuDNN may multiply float32 numbers in TF32, by the switch that every torch since 1.7 knows."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


@contextlib.contextmanager
def guarded(part: str, what: str) -> Iterator[None]:
    """A failure becomes a row, and the rest of the part goes on."""
    try:
        yield
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise
        traceback.print_exc()
        add(part, what, f"{type(error).__name__}: {error}".splitlines()[0][:90], "FAILED, see log.txt")
    finally:
        if DEVICE.type == "cuda":
            with contextlib.suppress(Exception):
                torch.cuda.empty_cache()
