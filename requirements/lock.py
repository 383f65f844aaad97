"""Refreshes requirements/lock.txt from pyproject.toml's ranges and prints what changed: `make lock`."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOCK = ROOT / "requirements" / "lock.txt"
EXTRAS = "train,teachers,data,weights,cpu,rtx,openvino,report,dev"
"""What the lock holds. The extra gpu isn't among them: its onnxruntime-gpu overwrites onnxruntime's files."""
UV = "uv==0.13.9"
HEADLESS = ROOT / "requirements" / "headless.txt"
"""The extra `headless` alone, at the lock's versions: what a device without a display, and the image of apps/service/Dockerfile, installs."""
HEADLESS_HEADER = """\
# Written by `make lock`: the extra `headless` at the versions of lock.txt, for x86-64 and aarch64 Linux, Python 3.10 to
# 3.14. pip install --require-hashes -r requirements/headless.txt && pip install --no-deps .
"""
HEADER = """\
# Written by `make lock`, installed by `make install`: x86-64 and aarch64 Linux, Python 3.10 to 3.14.
# The ranges are in pyproject.toml, what is held beside them in lock.in.
"""


def blocks(text: str) -> dict[str, list[str]]:
    """The lock's entries by package: one entry, with its hashes, for each environment that has a version of its own."""
    found: dict[str, list[str]] = {}
    for entry in re.split(r"^(?=[A-Za-z0-9])", text, flags=re.MULTILINE):
        if name := re.match(r"([A-Za-z0-9][\w.-]*)==", entry):
            found.setdefault(name[1].lower().replace("_", "-"), []).append(entry)
    return found


def unhashed(text: str) -> str:
    """The lock without hashes, as pip takes constraints."""
    return "".join(entry.split("\\\n")[0].strip() + "\n" for entries in blocks(text).values() for entry in entries)


def versions(text: str) -> dict[str, list[str]]:
    """Package -> its versions, the oldest Python's first."""
    return {name: [re.split(r"[=;\s\\]+", entry)[1] for entry in entries] for name, entries in blocks(text).items()}


def changes(old: str, new: str) -> list[str]:
    """What differs between two locks, a line for each package: `name old -> new`."""
    before, after = versions(old), versions(new)
    return [
        f"{name} {', '.join(before.get(name, ['none']))} -> {', '.join(after.get(name, ['none']))}"
        for name in sorted(before | after)
        if before.get(name) != after.get(name)
    ]


def compile_with_uv(*words: str, extras: str = EXTRAS) -> str:
    """What `uv pip compile` resolves; uv comes into a folder of its own that is removed again."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        subprocess.run(
            [f"{folder}/bin/python", "-m", "pip", "install", "-qq", "--disable-pip-version-check", UV], check=True
        )
        wanted = [word for extra in extras.split(",") for word in ("--extra", extra)]
        command = [
            f"{folder}/bin/uv",
            "pip",
            "compile",
            "--quiet",
            "--no-emit-index-url",
            "--no-header",
            "--no-annotate",
            *wanted,
            *words,
        ]
        return subprocess.run(
            [*command, "pyproject.toml"], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True
        ).stdout


def headless(lock: str) -> str:
    """The text of headless.txt that goes with a lock."""
    with tempfile.TemporaryDirectory() as folder:
        constraints = Path(folder) / "constraints.txt"
        constraints.write_text(unhashed(lock), encoding="utf-8")
        words = ("--universal", "--generate-hashes", "--python-version", "3.10", "--constraints", str(constraints))
        return HEADLESS_HEADER + compile_with_uv(*words, extras="headless")


def main() -> None:
    old = LOCK.read_text(encoding="utf-8") if LOCK.exists() else ""
    try:
        new = compile_with_uv(
            "requirements/lock.in", "--universal", "--generate-hashes", "--upgrade", "--python-version", "3.10"
        )
        small = headless(new)
    except subprocess.CalledProcessError as error:
        sys.exit(f"error: {Path(error.cmd[0]).name} failed, for the reason given above; {LOCK.name} is as it was")
    lines = changes(old, new)
    for file, text in ((LOCK, HEADER + new), (HEADLESS, small)):
        written = file.with_suffix(".new")
        written.write_text(text, encoding="utf-8")
        written.replace(file)
    print("\n".join(lines) or "nothing changed")
    if lines:
        print(
            f"{len(lines)} packages changed; now `make test`, then commit {LOCK.relative_to(ROOT)} and {HEADLESS.name}"
        )


if __name__ == "__main__":
    main()
