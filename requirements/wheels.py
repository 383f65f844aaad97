"""Whether everything that a device needs comes as a wheel, at the lock's versions: `python requirements/wheels.py`;
asks the package index.

A line for each extra, machine and Python; exit code 1 where something would have to be built from source.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from lock import LOCK, ROOT, UV, unhashed

PYTHONS = ("3.10", "3.11", "3.12", "3.13", "3.14")
MACHINES = {"x86_64": "x86_64-manylinux_2_28", "aarch64": "aarch64-manylinux_2_35"}
"""Oldest glibc that is asked for. OpenVINO's aarch64 wheels need 2.35: Ubuntu 22.04, so JetPack 6, or Debian 12."""
WANTED = {"headless": PYTHONS, "headless-openvino": PYTHONS, "cpu": PYTHONS, "jetson": ("3.10", "3.12")}


def main(machines: list[str]) -> int:
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        subprocess.run(
            [f"{folder}/bin/python", "-m", "pip", "install", "-qq", "--disable-pip-version-check", UV], check=True
        )
        constraints = Path(folder) / "constraints.txt"
        # JetPack 6 needs the CUDA 12 bindings, where the lock has those of 13 for the extra rtx.
        pins = [pin for pin in unhashed(LOCK.read_text(encoding="utf-8")).splitlines() if not pin.startswith("cuda-")]
        constraints.write_text("\n".join(pins), encoding="utf-8")
        for extra, pythons in WANTED.items():
            for machine in machines if extra != "jetson" else [name for name in machines if name == "aarch64"]:
                for python in pythons:
                    command = [
                        f"{folder}/bin/uv",
                        "pip",
                        "compile",
                        "--quiet",
                        "--no-header",
                        "--no-annotate",
                        "--only-binary",
                        ":all:",
                    ]
                    command += [
                        "--python-version",
                        python,
                        "--python-platform",
                        MACHINES[machine],
                        "--constraints",
                        str(constraints),
                    ]
                    done = subprocess.run(
                        [*command, "--extra", extra, "pyproject.toml"],
                        cwd=ROOT,
                        capture_output=True,
                        text=True,
                        check=False,
                    )
                    count = len(done.stdout.splitlines())
                    print(
                        f"{extra:18} {machine:8} {python:5}"
                        f" {f'{count} wheels' if not done.returncode else done.stderr.strip()}"
                    )
                    failed += done.returncode != 0
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or list(MACHINES)))
