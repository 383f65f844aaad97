"""Installs this package into the environment whose Python runs this, at the lock's versions: `make install`."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections import deque
from pathlib import Path

from lock import EXTRAS, LOCK, ROOT, blocks, unhashed

OLDEST, NEWEST = (3, 10), (3, 14)


def pip_install(python: str, *words: str, stage: str, packages: int = 0) -> None:
    """Run pip quietly, with a line that tells how far it is; where it fails, its own words and exit code.

    Args:
        packages: how many pip is about to collect; 0 where that isn't known.
    """
    command = [
        python,
        "-m",
        "pip",
        "install",
        "--progress-bar",
        "off",
        "--no-input",
        "--disable-pip-version-check",
        *words,
    ]
    began, seen, kept = time.monotonic(), 0, deque[str](maxlen=400)
    progress(stage)
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    ) as pip:
        assert pip.stdout is not None
        for line in pip.stdout:
            if "is ignored: it is neither a file nor a directory" in line:  # a machine's own settings of pip
                continue
            kept.append(line)
            if line.startswith(("Collecting ", "Requirement already satisfied: ")):
                seen += 1
                progress(f"{stage}: {seen}{f' of {packages}' if packages else ''}", passing=seen % 25 != 0)
            elif line.startswith("Installing collected packages:"):
                progress(f"{stage}: unpacking {line.count(',') + 1} packages")
    if pip.returncode:
        sys.stderr.write("\n" + "".join(kept))
        sys.exit(pip.returncode)
    progress(f"{stage}: done in {time.monotonic() - began:.0f} s", ended=True)


def progress(text: str, passing: bool = False, ended: bool = False) -> None:
    """One line that is overwritten on a terminal; elsewhere lines, without the ``passing`` ones."""
    if sys.stdout.isatty():
        print(f"\r\x1b[K{text[:100]}", end="\n" if ended else "", flush=True)
    elif not passing:
        print(text, flush=True)


def install(python: str, extras: str) -> None:
    """Install the extras. The lock's own are checked by their hashes; others take the lock's versions where it has
    them.
    """
    entries = blocks(LOCK.read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "backend.txt").write_text("".join(entries["setuptools"]), encoding="utf-8")
        (folder / "constraints.txt").write_text(unhashed(LOCK.read_text(encoding="utf-8")), encoding="utf-8")
        hashed = ("--require-hashes", "--no-build-isolation", "-r")
        pip_install(python, *hashed, str(folder / "backend.txt"), stage="build backend")
        if set(extras.split(",")) == set(EXTRAS.split(",")):
            pip_install(python, *hashed, str(LOCK), stage="locked packages", packages=len(entries))
            wanted = ["--no-deps", "-e", "."]
        else:
            wanted = ["-c", str(folder / "constraints.txt"), "-e", f".[{extras}]"]
        pip_install(python, "--no-build-isolation", *wanted, stage="rdd-deploy")


if __name__ == "__main__":
    if not OLDEST <= sys.version_info[:2] <= NEWEST:
        sys.exit(
            f"error: this is Python {sys.version_info[0]}.{sys.version_info[1]}, expected 3.{OLDEST[1]} to"
            f" 3.{NEWEST[1]}; remove the environment and name another one, e.g. make install PYTHON=python3.12"
        )
    install(sys.executable, sys.argv[1] if len(sys.argv) > 1 else EXTRAS)
