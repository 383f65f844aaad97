"""A bundle is whole or absent: it is written beside its place and renamed, whatever ends the export."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rdd_deploy.errors import DiskError
from rdd_deploy.files import sha256
from rdd_deploy.runtime.manifest import MANIFEST, Manifest, write_manifest


@contextmanager
def new_bundle(target: Path) -> Iterator[Path]:
    """Yield an empty folder beside ``target``; on success it takes its place, on failure it is removed and ``target`` stays as it was.

    Raises:
        DiskError: it can't be written.
    """
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        check_place(target)
        _sweep(target)
        part.mkdir(parents=True)
        yield part
        for file in part.iterdir():
            with file.open("rb") as written:
                os.fsync(written.fileno())
        old = target.with_name(f".{target.name}.{os.getpid()}.old")
        if target.exists():
            target.rename(old)  # a folder can't be renamed over one that holds files
        part.rename(target)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise DiskError(
            f"can't write the bundle {target}: {error.strerror or error}; free some space or choose another folder with --output. "
            "Nothing was changed there"
        ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def check_place(target: Path) -> None:
    """DiskError unless a bundle may be written there: nothing but an older bundle is replaced."""
    if target.is_dir() and any(target.iterdir()) and not (target / MANIFEST).is_file():
        raise DiskError(
            f"{target} holds other files and no {MANIFEST}; it isn't overwritten. Move it, or choose another folder with --output"
        )
    parent = next(parent for parent in target.absolute().parents if parent.exists())
    if (target.exists() and not target.is_dir()) or not parent.is_dir() or not os.access(parent, os.W_OK):
        raise DiskError(
            f"can't write the bundle {target}: a file is in its way, or {parent} can't be written; choose another with --output"
        )


def _sweep(target: Path) -> None:
    """Remove what exports that were killed left behind, and put an old bundle back that lost its place to one."""
    for leftover in target.parent.glob(f".{target.name}.*"):
        match = re.fullmatch(r".+\.(\d+)\.(part|old)", leftover.name)
        if not match or _alive(int(match[1])):
            continue
        if match[2] == "old" and not target.exists():
            leftover.rename(target)
        else:
            shutil.rmtree(leftover, ignore_errors=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def describe(folder: Path, **fields: Any) -> Manifest:
    """Hash the folder's files and write its manifest. ``fields`` are those of ``Manifest``."""
    hashes = {file.name: sha256(file) for file in sorted(folder.iterdir()) if file.name != MANIFEST}
    manifest = Manifest.model_validate(fields | {"files": hashes})
    write_manifest(folder, manifest)
    return manifest
