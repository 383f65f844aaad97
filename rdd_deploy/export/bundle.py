"""Write a bundle whole or not at all: beside its place, then renamed."""

from __future__ import annotations

import ctypes
import errno
import os
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rdd_deploy.errors import DiskError
from rdd_deploy.export.readme import readme_text
from rdd_deploy.runtime.facts import Facts
from rdd_deploy.runtime.manifest import MANIFEST, README, Manifest, write_manifest
from rdd_deploy.utils.files import runs, sha256, write_text

PLAN, RANGES, PROFILE = "plan.yaml", "ranges.json", "profile.yaml"
"""Files beside a bundle's model: how it was quantised, its activations' ranges, and the profile that an engine is built by."""

_HERE, _EXCHANGE = -100, 2
"""AT_FDCWD and RENAME_EXCHANGE of Linux."""


@contextmanager
def new_bundle(target: Path, choose: str = "with --output") -> Iterator[Path]:
    """Yield an empty folder beside ``target``; on success it takes its place, on failure it is removed and ``target``
    stays as it was.

    Args:
        choose: how the user names another folder.

    Raises:
        DiskError: it can't be written.
    """
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        check_place(target, choose)
        _sweep(target)
        part.mkdir(parents=True)
        yield part
        for file in part.rglob("*"):
            if file.is_file():
                with file.open("rb") as written:
                    os.fsync(written.fileno())
        _replace(target, part)
    except OSError as error:
        raise DiskError(
            f"can't write the bundle {target}: {error.strerror or error}; free some space or choose another folder"
            f" {choose}. Nothing was changed there"
        ) from error
    finally:
        _remove(part)


def _replace(target: Path, part: Path) -> None:
    """Put ``part`` in the place of ``target``, which is left at ``part`` or removed. Whoever looks finds one of the
    two, whole.
    """
    if not target.exists() and not target.is_symlink():
        part.rename(target)
    elif not _exchange(target, part):
        # A folder can't be renamed over one that holds files. A process that is killed between the two leaves the old
        # one to ``_sweep``.
        old = target.with_name(f".{target.name}.{os.getpid()}.old")
        target.rename(old)
        try:
            part.rename(target)
        except OSError:
            old.rename(target)
            raise
        _remove(old)


def _exchange(one: Path, other: Path) -> bool:
    """Swap two names at once; False where the system or the file system can't (Linux can, but for some network mounts
    and FUSE).
    """
    function = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None) if sys.platform == "linux" else None
    if function is None:
        return False
    if function(_HERE, os.fsencode(one), _HERE, os.fsencode(other), _EXCHANGE) == 0:
        return True
    # EPERM: a sandbox that doesn't know the call.
    if ctypes.get_errno() in (
        errno.EINVAL,
        errno.ENOSYS,
        errno.EOPNOTSUPP,
        errno.EPERM,
    ):
        return False
    raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _remove(path: Path) -> None:
    """A folder with what it holds, or a link to one; nothing where there is none."""
    if path.is_symlink():
        path.unlink()
    else:
        shutil.rmtree(path, ignore_errors=True)


def check_place(target: Path, choose: str = "with --output") -> None:
    """DiskError unless a bundle may be written there: nothing but an older bundle is replaced."""
    if target.is_dir() and any(target.iterdir()) and not (target / MANIFEST).is_file():
        raise DiskError(
            f"{target} holds other files and no {MANIFEST}; it isn't overwritten. Move it, or choose another folder"
            f" {choose}"
        )
    parent = next(parent for parent in target.absolute().parents if parent.exists())
    if (target.exists() and not target.is_dir()) or not parent.is_dir() or not os.access(parent, os.W_OK):
        raise DiskError(
            f"can't write the bundle {target}: a file is in its way, or {parent} can't be written; choose another"
            f" {choose}"
        )


def _sweep(target: Path) -> None:
    """Remove what exports that were killed left behind, and put an old bundle back that lost its place to one."""
    if not target.parent.is_dir():
        return
    for leftover in target.parent.iterdir():
        # Of this very bundle: beside int8 there may be int8.v2.
        match = re.fullmatch(rf"\.{re.escape(target.name)}\.(\d+)\.(part|old)", leftover.name)
        if not match or runs(int(match[1])):
            continue
        if match[2] == "old" and not target.exists():
            leftover.rename(target)
        else:
            _remove(leftover)


def facts(fields: Mapping[str, Any]) -> dict[str, Any]:
    """What an ONNX file says about itself in its metadata: of the same ``fields`` that ``describe`` takes."""
    known = {key: fields[key] for key in Facts.model_fields if key in fields}
    return Facts.model_validate(known).model_dump(mode="json")


def describe(folder: Path, **fields: Any) -> Manifest:
    """Hash the folder's files, and write its README and its manifest. ``fields`` are those of ``Manifest``."""
    hashes = {file.name: sha256(file) for file in sorted(folder.iterdir()) if file.name not in (MANIFEST, README)}
    write_text(folder / README, readme_text(Manifest.model_validate(fields | {"files": hashes})))
    manifest = Manifest.model_validate(fields | {"files": hashes | {README: sha256(folder / README)}})
    write_manifest(folder, manifest)
    return manifest
