"""Files that are whole or absent: everything is written beside its place and renamed."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from rdd_deploy.errors import DiskError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder; on success it replaces ``path`` in one rename, on failure it is removed.

    Raises:
        DiskError: the folder or file can't be written (no space left, no permission).
    """
    path = Path(path)
    if path.is_symlink():  # the link stays
        path = Path(os.path.realpath(path))
    if path.exists() and not path.is_file() and not path.is_dir():  # a device or pipe is written to, not replaced
        try:
            yield path
        except OSError as error:
            raise DiskError(f"can't write {path}: {error.strerror or error}; choose another file") from error
        return
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        with part.open("rb") as written:
            os.fsync(written.fileno())
        os.replace(part, path)
    except OSError as error:
        raise DiskError(
            f"can't write {path}: {error.strerror or error}; free some space or choose another folder. Nothing was changed there"
        ) from error
    finally:
        with suppress(OSError):  # where the folder itself couldn't be made there is nothing to remove, and the error above says more
            part.unlink(missing_ok=True)


def remove_parts(folder: Path) -> None:
    """Remove what killed processes left half-written in a folder; a part whose process still runs is left alone."""
    for part in folder.glob(".*.part"):
        process = part.suffixes[-2][1:] if len(part.suffixes) > 1 else ""
        if process.isdigit() and not _runs(int(process)):
            shutil.rmtree(part, ignore_errors=True) if part.is_dir() else part.unlink(missing_ok=True)


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it is someone else's
        return True
    return True


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text, whole or not at all. What UTF-8 can't hold, bytes of a file's name, is written as JSON and Python do: \\udcff."""
    write_bytes(path, encoded(text))


def write_bytes(path: Path, content: bytes) -> None:
    """Write bytes, whole or not at all."""
    write_together({path: content})


def write_together(contents: Mapping[Path, bytes]) -> None:
    """Write several files: all are there, beside their places, before the first one is replaced. Raises DiskError."""
    with ExitStack() as stack:
        for path, content in contents.items():
            stack.enter_context(replacing(path)).write_bytes(content)


def write_json(path: Path, value: Any) -> None:
    """Write JSON with two spaces of indentation; NaN is refused, since it isn't JSON."""
    write_text(path, json_text(value))


def json_text(value: Any) -> str:
    """As ``write_json`` writes it."""
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def encoded(text: str) -> bytes:
    """As ``write_text`` writes it."""
    return text.encode("utf-8", errors="backslashreplace")


def has_utf8_name(path: Path) -> bool:
    """Whether a path is safe to give to OpenCV, which crashes at any other."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def sha256(path: Path) -> str:
    """Hex SHA-256 of a file's content."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
