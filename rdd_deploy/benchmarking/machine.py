"""Facts of the machine that a latency means nothing without."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from importlib import metadata
from pathlib import Path

from rdd_deploy.benchmarking.records import Machine
from rdd_deploy.cores import CPU, available_cores, read

_PACKAGES = (
    "rdd-deploy", "numpy", "opencv-python", "onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt", "tensorrt-rtx", "torch",
)  # fmt: skip
BUSY = 0.25
"""Load per core, before the benchmark starts, from which its latencies are called doubtful."""


def describe() -> Machine:
    """Read the facts now; what a system doesn't tell is None."""
    return Machine(
        cpu_model=cpu_model(), architecture=platform.machine(), cores=available_cores(), governor=governor(), gpu=_gpu(),
        memory_gib=_memory_gib(), system=f"{platform.system()} {platform.release()}", python=platform.python_version(),
        versions={name: version for name in _PACKAGES if (version := package_version(name))}, load_average_before=load_average(),
    )  # fmt: skip


def cpu_model() -> str:
    """E.g. ``AMD EPYC 9B45``; on ARM boards, which tell none in /proc/cpuinfo, the board's own name."""
    for line in (read(Path("/proc/cpuinfo")) or "").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name" and value.strip():
            return value.strip()
    board = (read(Path("/proc/device-tree/model")) or "").rstrip("\0")
    return board or platform.processor() or platform.machine() or "unknown"


def governor() -> str | None:
    """The CPU frequency governor, all that occur if the cores differ; None where there is none to read."""
    found = {text for path in sorted(CPU.glob("cpu[0-9]*/cpufreq/scaling_governor")) if (text := read(path))}
    return ", ".join(sorted(found)) or None


def load_average() -> float | None:
    """Of the last minute."""
    try:
        return round(os.getloadavg()[0], 2)
    except (AttributeError, OSError):
        return None


def package_version(name: str) -> str | None:
    """The installed version of a distribution, or None."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def runtime_version(backend: str) -> str | None:
    """``package version`` of what runs a backend; the GPU build of onnxruntime is a distribution of its own."""
    for name in (f"{backend}-gpu", backend):
        if version := package_version(name):
            return f"{name} {version}"
    return None


def _gpu() -> str | None:
    command = shutil.which("nvidia-smi")
    if command is None:
        return None
    try:
        done = subprocess.run(
            [command, "--query-gpu=name,driver_version", "--format=csv,noheader"], capture_output=True, text=True, timeout=20, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return "; ".join(line.strip() for line in done.stdout.splitlines() if line.strip()) or None


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (AttributeError, ValueError, OSError):
        return None
