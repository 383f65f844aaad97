"""Work in parts that any number of processes share, on one machine or on several with a common file system, without
knowing of each other.

A part is done once its result is there, in its own place; whoever works on one holds a lock on its number in a file
beside the results. The system takes the lock back when the process ends, however it does, so what a killed one had
begun is begun again by another.
"""

from __future__ import annotations

import errno
import glob
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
# Windows: nothing is locked, and two processes may do the same part; the second result replaces nothing.
except ImportError:
    fcntl = None  # type: ignore[assignment]

CLAIMS = "claims"
"""Name of the file that is locked, a byte a part."""
LOOK_EVERY = 0.2
"""Seconds between two looks at what others work on, at first; up to ten times as many."""


@contextmanager
def claimed(folder: Path, part: str) -> Iterator[bool]:
    """Yield whether this process is the one that works on ``part`` of what lies in ``folder``, until the block ends.

    What killed processes left half-written of that part, as ``files.temporary_beside`` names it, is removed first. A
    file system that knows no locks lets everybody work on everything.

    Raises:
        OSError: the folder can't be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if fcntl is None:
        yield True
        return
    file = os.open(folder / CLAIMS, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o644)
    try:
        # By the part's name: runs that share a folder may count its parts differently.
        number = int.from_bytes(hashlib.sha256(part.encode()).digest()[:6], "big")
        locked = None
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, number)
            locked = True
        except OSError as error:
            locked = False if error.errno in (errno.EACCES, errno.EAGAIN) else None
        if locked:
            for left in folder.glob(f".{glob.escape(part[:40])}.*.part"):
                with suppress(OSError):
                    shutil.rmtree(left) if left.is_dir() and not left.is_symlink() else left.unlink(missing_ok=True)
        yield locked is not False
    finally:
        os.close(file)  # and the lock with it


def share(
    parts: Sequence[str], work: Callable[[str], bool], is_done: Callable[[str], bool], waiting: Callable[[int], None]
) -> None:
    """Work until all parts are done, by this process or by others.

    Args:
        work: does a part unless somebody else is at it; returns whether it is done now.
        is_done: looks whether a part's result is there.
        waiting: called once with the number of parts that others still work on.
    """
    left = [part for part in parts if not work(part)]
    pause, told = LOOK_EVERY, False
    while left:
        if not told:
            waiting(len(left))
            told = True
        time.sleep(pause)
        pause = min(pause * 1.5, 10 * LOOK_EVERY)
        left = [part for part in left if not is_done(part) and not work(part)]
