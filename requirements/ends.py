"""Runs the core of the tests at one end of pyproject.toml's ranges and names the package that broke: `make
test-oldest`, `make test-latest`.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

from core import pytest_command
from install import pip_install
from lock import EXTRAS, LOCK, ROOT, compile_with_uv, versions

OLDEST_PYTHON = "python3.10"
ASK = """
import importlib.metadata as m, json
found = {d.metadata["Name"].lower().replace("_", "-"): d.version for d in m.distributions()}
print(json.dumps([found, {k: v[0].lower().replace("_", "-") for k, v in m.packages_distributions().items()}]))
"""


def environment(end: str) -> str:
    """A Python of its own for this end; the oldest one takes Python 3.10 where the machine has it."""
    folder = ROOT / f".venv-{end}"
    python = str(folder / "bin" / "python")
    if not Path(python).exists():
        base = OLDEST_PYTHON if end == "oldest" and runs(OLDEST_PYTHON) else sys.executable
        subprocess.run([base, "-m", "venv", str(folder)], check=True)
    return python


def runs(python: str) -> bool:
    """Whether this command is a Python that starts."""
    try:
        return subprocess.run([python, "-c", ""], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def install_end(python: str, end: str) -> None:
    """The newest versions that pip takes within the ranges, or the lowest ones of pyproject.toml with
    what these allow.
    """
    backend = re.findall(r'requires = \["(.+?)"\]', (ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    pip_install(python, *backend, stage="build backend")
    if end == "oldest":
        version = subprocess.run(
            [python, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        wanted = ROOT / f".venv-{end}" / "requirements.txt"
        # With hashes, or pip would also take a build of the same version that lies on this machine, such as torch's for
        # CPUs alone.
        lowest = ("--resolution", "lowest-direct", "--generate-hashes", "--python-version", version.stdout.strip())
        wanted.write_text(compile_with_uv(*lowest), encoding="utf-8")
        words = ["--require-hashes", "--no-build-isolation", "-r", str(wanted)]
    else:
        words = ["--upgrade", "--upgrade-strategy", "eager", f".[{EXTRAS}]"]
    pip_install(python, *words, stage=f"{end} versions within the ranges")
    pip_install(python, "--no-deps", "--no-build-isolation", "-e", ".", stage="rdd-deploy")


def blamed(output: str, owners: dict[str, str]) -> Counter[str]:
    """Distribution -> in how many of pytest's failures its files are named last."""
    failures = re.split(r"^_{5,} .+ _{5,}$", output, flags=re.MULTILINE)[1:] or [output]
    found: Counter[str] = Counter()
    for failure in failures:
        named = [owners[top] for top in re.findall(r"site-packages/([A-Za-z0-9_]+)", failure) if top in owners]
        missing = [owners.get(top, top) for top in re.findall(r"No module named '([A-Za-z0-9_]+)", failure)]
        if last := (
            missing or [name for name in named if name not in ("pytest", "pluggy", "hypothesis", "pytest-timeout")]
        )[-1:]:
            found[last[0]] += 1
    return found


def verdict(output: str, installed: dict[str, str], owners: dict[str, str], locked: dict[str, list[str]]) -> list[str]:
    """What to look at after a failure: the packages that its tracebacks end in, then all that differ from the lock."""
    lines = []
    for name, count in blamed(output, owners).most_common(3):
        was = ", ".join(locked.get(name, ["none"]))
        lines.append(f"{count} of the failures end in {name} {installed.get(name, 'none')} (the lock has {was})")
    different = [name for name in sorted(installed) if name in locked and installed[name] not in locked[name]]
    lines += ["these differ from the lock:"] + [
        f"  {name} {', '.join(locked[name])} -> {installed[name]}" for name in different
    ]
    return lines


def main(end: str, *words: str) -> int:
    python = environment(end)
    install_end(python, end)
    lines = []
    with subprocess.Popen(
        pytest_command(python, *words), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as tests:
        assert tests.stdout is not None
        for line in tests.stdout:
            print(line, end="", flush=True)
            lines.append(line)
    asked = subprocess.run([python, "-c", ASK], stdout=subprocess.PIPE, text=True, check=True)
    installed, owners = json.loads(asked.stdout)
    if tests.returncode:
        print(*verdict("".join(lines), installed, owners, versions(LOCK.read_text(encoding="utf-8"))), sep="\n")
    return tests.returncode


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
