"""A run as a process of its own: started, told to save and end, and what it said last. It ends with the study, however
that ends.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import IO, Protocol

from rdd_deploy.errors import DiskError

_LAST_BYTES = 64 << 10
_LONGEST_SENTENCE = 600
_PR_SET_PDEATHSIG = 1


class Child(Protocol):
    """What of ``subprocess.Popen`` is used."""

    pid: int

    def poll(self) -> int | None: ...
    def wait(self) -> int: ...


def start(words: list[str], environment: dict[str, str], log: IO[bytes]) -> Child:
    """Start ``python`` with these words, in a process group of its own: Ctrl-C reaches the study alone, which passes it
    on once.
    """
    return subprocess.Popen(
        [sys.executable, *words], env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
        preexec_fn=end_with_parent if sys.platform == "linux" else None,
    )  # fmt: skip


def end_with_parent() -> None:
    """In a new process: have the system send SIGTERM, by which a training saves its state, when the parent dies."""
    import ctypes

    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM))


def open_log(path: Path) -> IO[bytes]:
    """A run's log, to be added to."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("ab")
    except OSError as error:
        raise DiskError(
            f"can't write {path}: {error.strerror or error}; free some space or choose another folder with --output"
        ) from error


def ask_to_end(child: Child) -> None:
    """SIGTERM: a training saves its state at the end of its step, and ends."""
    with suppress(ProcessLookupError):
        os.kill(child.pid, signal.SIGTERM)


def kill(child: Child) -> None:
    """End a child at once, and what it has started."""
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)


def last_error(log: Path, begin: int, code: int) -> str:
    """The sentence that a run failed with, from what it wrote into its log after byte ``begin``."""
    try:
        with log.open("rb") as file:
            file.seek(max(begin, log.stat().st_size - _LAST_BYTES))
            lines = [
                line.rstrip() for line in file.read().decode("utf-8", errors="replace").splitlines() if line.strip()
            ]
    except OSError:
        lines = []
    at = next((number for number in reversed(range(len(lines))) if lines[number].startswith("error: ")), None)
    if at is not None:
        details = [line.strip() for line in lines[at + 1 :] if line.startswith("  ")]
        return " ".join([lines[at].removeprefix("error: "), *details])[:_LONGEST_SENTENCE]
    if code < 0:
        with suppress(ValueError):
            return f"killed by {signal.Signals(-code).name}"
    return (lines[-1] if lines else f"ended with exit code {code} and said nothing")[:_LONGEST_SENTENCE]
