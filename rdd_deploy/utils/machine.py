"""Facts of the machine that a latency means nothing without."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

from rdd_deploy.errors import DeviceError

RUNTIME_PACKAGES = (
    "rdd-deploy",
    "numpy",
    "opencv-python",
    "onnxruntime",
    "onnxruntime-gpu",
    "openvino",
    "tensorrt",
    "tensorrt-rtx",
)
"""What a bundle's speed and labels may depend on."""


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


def versions(packages: Iterable[str] = RUNTIME_PACKAGES) -> dict[str, str]:
    """The installed ones of these packages, with their versions."""
    return {name: version for name in packages if (version := package_version(name))}


def runtime_version(backend: str) -> str | None:
    """``package version`` of what runs a backend; the GPU build of onnxruntime is a distribution of its own."""
    for name in (f"{backend}-gpu", backend):
        if version := package_version(name):
            return f"{name} {version}"
    return None


def gpu() -> str | None:
    """Name and driver of the NVIDIA GPUs; None without any."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return None
    try:
        done = subprocess.run(
            [command, "--query-gpu=name,driver_version", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return "; ".join(line.strip() for line in done.stdout.splitlines() if line.strip()) or None


def memory_gib() -> float | None:
    """The machine's memory; None where the system doesn't say."""
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (AttributeError, ValueError, OSError):
        return None


def free_memory() -> float | None:
    """Bytes of memory that a process may still take: what the machine has free, a container's limit at most; None where
    neither is known.
    """
    sizes = []
    with suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        sizes.append(next(1024 * float(line.split()[1]) for line in lines if line.startswith("MemAvailable:")))
    return min([*sizes, *_left_of_cgroups()], default=None)


CGROUPS, OWN_CGROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
_CGROUP_FILES = {
    False: ("memory.max", "memory.current", "inactive_file"),
    True: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}
"""Limit, use, and the line of memory.stat with what of it would be given up, of version 2 and 1."""


def _left_of_cgroups() -> Iterator[float]:
    """Bytes that are left of each limit that holds for this process: its container's, its SLURM job's, its service's."""
    lines = []
    with suppress(OSError):
        lines = OWN_CGROUPS.read_text().splitlines()
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, place = rest.partition(":")
        if controllers and "memory" not in controllers.split(","):
            continue
        limit, used, given_up = _CGROUP_FILES[bool(controllers)]
        top = CGROUPS / "memory" if controllers else CGROUPS
        folder = top / place.strip("/")
        for one in (folder, *folder.parents):
            if one == top.parent:
                break
            with suppress(OSError, ValueError, StopIteration):  # without a limit it says "max"
                left = float((one / limit).read_text()) - float((one / used).read_text())
                stat = (one / "memory.stat").read_text().splitlines()
                yield max(0.0, left + next(float(at.split()[1]) for at in stat if at.startswith(f"{given_up} ")))


CPU = Path("/sys/devices/system/cpu")
CPUINFO = Path("/proc/cpuinfo")
MAX_THREADS = 1024
"""A slip of the hand beyond: thousands of threads take minutes to begin, and then take the machine with them."""
_BF16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}
"""As x86 and aarch64 name it. AVX-NE-CONVERT isn't among them: it converts, and computes in float32."""
_ISA_WITHOUT_BF16 = {"sse41", "avx", "avx2", "avx2_vnni", "avx2_vnni_2", "avx512_core", "avx512_core_vnni"}
"""Values of ONEDNN_MAX_CPU_ISA below AVX512_CORE_BF16."""
_VNNI_FLAGS = {"avx512_vnni", "avx_vnni"}
_ISA_WITHOUT_VNNI = {"sse41", "avx", "avx2", "avx512_core"}


def available_cores() -> int:
    """Physical cores that this process may use: hyper-threads of one core count once, a CPU mask and a container's
    quota hold.
    """
    try:
        allowed = os.sched_getaffinity(0)
    except AttributeError:  # macOS, Windows
        return max(1, os.cpu_count() or 1)
    siblings = {read(CPU / f"cpu{cpu}/topology/thread_siblings_list") or str(cpu) for cpu in allowed}
    quota = (read(Path("/sys/fs/cgroup/cpu.max")) or "max").split()
    limit = int(quota[0]) // int(quota[1]) if len(quota) == 2 and quota[0].isdigit() else len(siblings)
    return max(1, min(len(siblings), limit))


def check_threads(threads: int | None, who: str = "the backend") -> None:
    """DeviceError unless ``threads`` is None, which lets ``who`` choose, or a number that a machine can bear."""
    if threads is not None and not 1 <= threads <= MAX_THREADS:
        expected = "1 or more" if threads < 1 else f"{MAX_THREADS} at most"
        raise DeviceError(f"asked for {threads} threads; expected {expected}, or none to let {who} choose")


def has_native_bf16() -> bool:
    """Whether the CPU multiplies in bfloat16 itself and oneDNN, which PyTorch and OpenVINO compute with, may use it;
    emulated, it is slower than float32. False where it isn't known."""
    cores = _flags()
    return _onednn_limit() not in _ISA_WITHOUT_BF16 and bool(cores) and all(core & _BF16_FLAGS for core in cores)


def saturates_int8() -> bool:
    """Whether oneDNN adds products of U8 and S8 in 16 bits here: an x86 CPU without VNNI, or one whose VNNI oneDNN may
    not use.
    """
    cores = [core for core in _flags() if "sse2" in core]
    return bool(cores) and (_onednn_limit() in _ISA_WITHOUT_VNNI or not all(core & _VNNI_FLAGS for core in cores))


def _onednn_limit() -> str:
    return (os.environ.get("ONEDNN_MAX_CPU_ISA") or os.environ.get("DNNL_MAX_CPU_ISA") or "").lower()


def _flags() -> list[set[str]]:
    """What each core of this machine can do, as /proc/cpuinfo names it."""
    lines = [line.partition(":") for line in (read(CPUINFO) or "").splitlines()]
    return [set(value.split()) for key, _, value in lines if key.strip() in ("flags", "Features")]


def read(path: Path) -> str | None:
    """What a file of the system says, None where there is none."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None


def provenance(seed: int) -> dict[str, Any]:
    """What a figure depends on beside the recipe: commit, versions, machine."""
    packages = (
        "torch",
        "torchvision",
        "timm",
        "segmentation-models-pytorch",
        "lightning-fabric",
        "numpy",
        "opencv-python",
        "rdd-deploy",
    )
    return {
        "git_commit": git_commit(),
        "seed": seed,
        "python": platform.python_version(),
        "machine": machine(),
        "versions": versions(packages),
    }


def git_commit() -> str | None:
    """Short hash of the source's commit, with ``-dirty`` where files differ from it; None outside a checkout."""
    here = Path(__file__).resolve().parent
    command = ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=10", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


def machine() -> str:
    """CPU model and core count, e.g. ``AMD EPYC, 2 cores``."""
    return f"{cpu_model()}, {os.cpu_count()} cores"
