"""How many cores there are to compute with."""

from __future__ import annotations

import os
from pathlib import Path

CPU = Path("/sys/devices/system/cpu")


def available_cores() -> int:
    """Physical cores that this process may use: hyper-threads of one core count once, a CPU mask and a container's quota hold."""
    try:
        allowed = os.sched_getaffinity(0)
    except AttributeError:  # macOS, Windows
        return max(1, os.cpu_count() or 1)
    siblings = {read(CPU / f"cpu{cpu}/topology/thread_siblings_list") or str(cpu) for cpu in allowed}
    quota = (read(Path("/sys/fs/cgroup/cpu.max")) or "max").split()
    limit = int(quota[0]) // int(quota[1]) if len(quota) == 2 and quota[0].isdigit() else len(siblings)
    return max(1, min(len(siblings), limit))


def read(path: Path) -> str | None:
    """What a file of the system says, None where there is none."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None
