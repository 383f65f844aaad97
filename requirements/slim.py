"""Remove what a device never reads from an install: `venv/bin/python requirements/slim.py`, after every `pip install`.

NumPy's own tests, ONNX Runtime's second library (for C programs; Python has its own) and its tools for transformers.
Afterwards both are imported, in a process of its own; exit code 1 where that fails.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

UNUSED = ("numpy/**/tests", "onnxruntime/capi/libonnxruntime.so.*", "onnxruntime/transformers", "onnxruntime/tools")
CHECK = "import numpy, onnxruntime; onnxruntime.InferenceSession; numpy.linalg.inv(numpy.eye(2)); numpy.random.rand()"


def unused(packages: Path) -> Iterator[Path]:
    """Files and folders below ``packages`` (site-packages) that can go."""
    for pattern in UNUSED:
        yield from sorted(packages.glob(pattern))


def main() -> int:
    packages, freed = Path(sysconfig.get_paths()["purelib"]), 0
    for path in unused(packages):
        files = [path] if path.is_file() else [one for one in path.rglob("*") if one.is_file()]
        freed += sum(one.stat().st_size for one in files)
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    print(f"{packages}: {freed / 2**20:.0f} MB removed")
    return subprocess.run([sys.executable, "-c", CHECK], check=False).returncode and 1


if __name__ == "__main__":
    sys.exit(main())
