"""One process trains in a run folder: a second one is refused, and a killed one leaves nothing that has to be cleaned
up.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rdd_deploy.errors import DiskError, RddError
from rdd_deploy.utils.launchers import process_rank


class InUseError(RddError):
    """Another process trains in a folder."""


try:
    import fcntl
except ImportError:  # Windows, where nothing is locked
    fcntl = None  # type: ignore[assignment]


_held: set[int] = set()
"""File descriptors of this process's locks."""


def _forget() -> None:
    """A forked child, such as a loader's worker, shares its parent's lock and would keep it after the parent was
    killed.
    """
    for file in _held:
        with suppress(OSError):
            os.close(file)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def _place(folder: Path) -> Path:
    """Beside the folder, not in it: a run that is moved aside would take the lock along."""
    return folder.with_name(f".{folder.name}.lock")


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes from training in ``folder`` until the block ends, or the process does, however it does.

    Of several processes that train together only the first locks.

    Raises:
        InUseError: another process trains there.
        DiskError: the folder's own folder can't be written.
    """
    if fcntl is None or process_rank() != 0:
        yield
        return
    path = _place(folder)
    file = _taken(path, folder)
    _held.add(file)
    try:
        yield
    finally:
        with suppress(OSError):
            path.unlink()  # before it is unlocked, or the file of the next one might be removed
        _held.discard(file)
        fcntl.flock(file, fcntl.LOCK_UN)
        os.close(file)


def _taken(path: Path, folder: Path) -> int:
    """The locked file's descriptor."""
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        except OSError as error:
            raise DiskError(
                f"can't write {path}: {error.strerror or error}; free some space or choose another folder. Nothing was"
                " changed there"
            ) from error
        if not _locks(file):
            who = _who(file)
            os.close(file)
            raise _in_use(folder, who)
        # The one who held it may have removed the file between opening and locking: then the lock is on a file that
        # nobody else finds.
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file), os.stat(path)):
                break
        os.close(file)
    with suppress(OSError):  # who it is, for the other's sentence; a full disk is told by what needs its space
        os.ftruncate(file, 0)
        os.write(file, str(os.getpid()).encode())
    return file


def _locks(file: int, shared: bool = False) -> bool:
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system that knows no locks: then it is as it was without them
        return True
    return True


def check_unlocked(folder: Path) -> None:
    """Raise InUseError where another process trains in ``folder``; changes nothing there."""
    if fcntl is None:
        return
    try:
        file = os.open(_place(folder), os.O_RDWR | os.O_NOFOLLOW)
    except OSError:
        return
    try:
        if not _locks(file, shared=True):  # two that look at the same time don't take each other for one that trains
            raise _in_use(folder, _who(file))
    finally:
        os.close(file)


def holder(folder: Path) -> str:
    """The number of the process that locked ``folder`` last, as text; empty where none is known. Unlike
    ``check_unlocked`` it is never in the way of one that is just locking it."""
    try:
        file = os.open(_place(folder), os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return ""
    try:
        return _who(file)
    finally:
        os.close(file)


def _who(file: int) -> str:
    with suppress(OSError):
        return os.pread(file, 20, 0).decode(errors="replace")
    return ""


def _in_use(folder: Path, process: str) -> InUseError:
    who = f"process {process}" if process.isdigit() else "another process"
    return InUseError(f"{who} is training in {folder}; wait until it ends, or train under another name with --name")
