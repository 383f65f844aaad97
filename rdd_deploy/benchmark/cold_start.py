"""One cold start in a process of its own: ``python -m rdd_deploy.benchmark.cold_start JSON`` prints JSON as its last
line.

It needs a fresh process: libraries that are loaded, memory that is allocated and threads that spin in the parent would
count for or against whoever comes later. It also catches a backend that crashes the whole process, before it takes the
benchmark along.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import numpy as np

from rdd_deploy.benchmark.records import ColdStart
from rdd_deploy.benchmark.runners import Candidate
from rdd_deploy.errors import RddError

RUNS = 3
ENOUGH_S = 6.0
"""No further run once the earlier ones took this long together."""
TIMEOUT_S = 300.0
_SETTLE = 3
"""Inferences after the first label, before the peak of memory is read."""


_TIDY_S = 5.0
"""How long a process may take to end by itself once nobody waits for it."""


class ColdFailure(RddError):
    """The process failed; the message is its reason."""


def cold_start(candidate: Candidate) -> ColdStart:
    """Start a candidate a few times in fresh processes; times are medians, memory the highest.

    Raises:
        ColdFailure: it can't be loaded or run, crashed, or took longer than five minutes.
    """
    done: list[dict[str, float]] = []
    began = time.monotonic()
    while len(done) < RUNS and (not done or time.monotonic() - began < ENOUGH_S):
        done.append(_once(candidate))
    return ColdStart(
        load_ms=_median(done, "load_ms"), first_label_ms=_median(done, "first_label_ms"),
        peak_memory_mib=max(one["peak_memory_mib"] for one in done), memory_before_load_mib=_median(done, "memory_before_load_mib"),
        runs=len(done),
    )  # fmt: skip


def _median(done: list[dict[str, float]], key: str) -> float:
    return round(float(np.median([one[key] for one in done])), 3)


def _once(candidate: Candidate) -> dict[str, float]:
    asked = {
        "kind": candidate.kind, "path": str(candidate.path), "device": candidate.device, "threads": candidate.threads, "size": candidate.size,
    }  # fmt: skip
    command = [sys.executable, "-m", "rdd_deploy.benchmark.cold_start", json.dumps(asked)]
    package = str(Path(__file__).resolve().parents[2])
    paths = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
    # Where Python can (3.11), without the present folder: a numpy.py that lies there is nobody's wish.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONSAFEPATH": "1"}
    try:
        done = _run(command, environment)
    except subprocess.TimeoutExpired as error:
        raise ColdFailure(f"gave no label within {TIMEOUT_S:.0f} s of its start") from error
    if done.returncode < 0:
        raise ColdFailure(
            f"the process was killed by {_signal_name(-done.returncode)} while loading or at the first label"
        )
    try:
        answer: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    except (ValueError, IndexError) as error:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise ColdFailure(f"the process ended with exit code {done.returncode}: {last}") from error
    if "failure" in answer:
        raise ColdFailure(str(answer["failure"]))
    return {key: float(value) for key, value in answer.items()}


def _run(command: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Like ``subprocess.run``; the process has a standard input that ends with this one, by whatever that ends, or
    where waiting ends.
    """
    theirs, ours = os.pipe()
    with subprocess.Popen(
        command,
        env=environment,
        text=True,
        errors="replace",
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        os.close(theirs)
        try:
            out, err = process.communicate(timeout=TIMEOUT_S)
        except BaseException:
            os.close(ours)
            ours = -1
            with suppress(subprocess.TimeoutExpired):
                process.wait(_TIDY_S)
            process.kill()
            raise
        finally:
            if ours >= 0:
                os.close(ours)
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def memory_mib(field: str = "VmHWM") -> float:
    """This process's resident memory in MiB: ``VmHWM`` is its peak, ``VmRSS`` the present.

    Linux tells ``ru_maxrss`` a parent's peak where the process was forked from a big one, so /proc comes first.
    """
    try:
        found = re.search(rf"^{field}:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"), re.MULTILINE)
    except OSError:
        found = None
    if found:
        return round(int(found[1]) / 1024, 2)
    import resource  # not on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10), 2)


def _answer(asked: dict[str, Any]) -> dict[str, float | str]:
    size = tuple(asked["size"]) if asked["size"] else None
    candidate = Candidate("cold", asked["kind"], Path(asked["path"]), asked["device"], asked["threads"], size)
    before = memory_mib("VmRSS")
    start = time.perf_counter()
    try:
        runner = candidate.open()
        loaded = time.perf_counter()
        network_input = np.random.default_rng(0).integers(0, 256, (1, *runner.input_size, 3), np.uint8)
        runner.infer(network_input)
        first = time.perf_counter()
        for _ in range(_SETTLE):
            runner.infer(network_input)
    except Exception as error:  # backends raise classes of their own; the parent writes the reason into the row
        return {"failure": reason(error)}
    return {
        "load_ms": round(1e3 * (loaded - start), 3), "first_label_ms": round(1e3 * (first - start), 3),
        "peak_memory_mib": memory_mib(), "memory_before_load_mib": before,
    }  # fmt: skip


def reason(error: BaseException) -> str:
    """The reason of a failure in one line: our own sentences as they are, foreign errors with their class."""
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    if isinstance(error, RddError):
        return str(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _die_with_parent(work: str) -> None:
    """End this process, and the compilers that it started, as soon as its standard input ends: then the benchmark is
    gone.
    """
    os.setpgid(0, 0)

    def watch() -> None:
        os.read(0, 1)
        shutil.rmtree(work, ignore_errors=True)
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


def _main() -> None:
    asked = json.loads(sys.argv[1])
    with ExitStack() as stack:
        work = ""
        if asked["kind"] == "torch-compile":  # it would otherwise find an earlier run's work
            work = os.environ["TORCHINDUCTOR_CACHE_DIR"] = stack.enter_context(tempfile.TemporaryDirectory())
        if hasattr(os, "setpgid"):
            _die_with_parent(work)
        print(json.dumps(_answer(asked)), flush=True)


if __name__ == "__main__":
    _main()
