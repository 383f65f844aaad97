"""Starts the live app as a program, for tests of it."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import pytest

APP = Path(__file__).parents[2] / "apps" / "live_segment.py"


def start(*arguments: str, **popen: object) -> subprocess.Popen[str]:
    command = [sys.executable, str(APP), *arguments]
    # Though the tests may run under nohup.
    popen |= {"preexec_fn": lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL)}
    popen = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | popen
    return subprocess.Popen(command, text=True, **popen)  # type: ignore[call-overload,no-any-return]


def finish(process: subprocess.Popen[str], timeout: float = 60) -> tuple[int, str, str]:
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        pytest.fail(f"the app didn't end: {out}{err}")
    return process.returncode, out, err


def until(condition: Callable[[], object], process: subprocess.Popen[str], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, (process.returncode, *process.communicate())
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def frames(path: Path) -> int:
    capture, count = cv2.VideoCapture(str(path)), 0
    while capture.grab():
        count += 1
    return count
