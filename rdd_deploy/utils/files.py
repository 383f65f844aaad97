"""Files that are whole or absent: everything is written beside its place and renamed."""

from __future__ import annotations

import errno
import glob
import hashlib
import json
import math
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import yaml

from rdd_deploy.errors import DiskError
from rdd_deploy.utils.text import shown

_PART = re.compile(r"\.(\d+)(?:-[0-9a-f]+)?\.part(?:\.\w+)?$")
"""How the name of a part ends: its process, then what nobody can guess."""
_PROBE = 64 << 10


def temporary_beside(path: Path, suffix: str = "") -> Path:
    """A new name in the same folder for what will replace ``path``; make it with O_EXCL, ``mkdir`` or ``symlink_to``,
    which follow no link.

    Nobody can guess it, so nobody can have put a link there. It holds the number of this process, by which
    ``remove_parts`` finds what killed ones left.

    Args:
        suffix: behind all else, where a writer goes by it, e.g. ``.mp4``.
    """
    return path.with_name(f".{path.name[:40]}.{os.getpid()}-{secrets.token_hex(8)}.part{suffix}")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a new, empty file in the same folder; on success it replaces ``path`` in one rename, on failure it is
    removed.

    A link in the place of ``path`` stays, and what it points to is replaced.

    Raises:
        DiskError: the folder or file can't be written (no space left, no permission).
    """
    path = Path(path)
    if not path.name:
        raise DiskError(f"'{path}' names no file; give the file's name as well")
    with _disk_errors(path):
        path = behind_link(path)
        if path.exists() and not path.is_file() and not path.is_dir():  # a device or pipe is written to, not replaced
            yield path
            return
        part = temporary_beside(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        made = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_LINK, 0o666)
        try:
            try:
                yield part
                if not os.path.samestat(os.fstat(made), os.lstat(part)):
                    raise OSError(errno.ESTALE, "somebody else put another file in its place meanwhile")
                os.fsync(made)
            finally:
                os.close(made)
            os.replace(part, path)
        finally:
            with suppress(OSError):  # the error itself says more
                part.unlink(missing_ok=True)


def behind_link(path: Path) -> Path:
    """What is to be replaced: the end of a link, which itself stays. Raises OSError for a link that leads to itself."""
    target = Path(os.path.realpath(path)) if path.is_symlink() else path
    if target.is_symlink():
        raise OSError(errno.ELOOP, "it is a link that leads to itself")
    return target


_NO_LINK = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)


@contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DiskError(
            f"can't write {path}: {error.strerror or error}; free some space or choose another folder. Nothing was"
            " changed there"
        ) from error


def check_writable(path: Path) -> None:
    """Find out before the work whether a file, or files in a folder, can be written there later; leaves nothing behind.
    Raises DiskError.

    A file of 64 KiB is written and removed, in ``path`` if it is a folder, else in the nearest folder above that is
    there: permissions alone know nothing of file systems that are full or read-only.
    """
    path = Path(path)
    with _disk_errors(path):
        place = target = Path(os.path.realpath(behind_link(path)))
        while not place.is_dir():
            if place.exists() and place != target:
                raise OSError(errno.ENOTDIR, f"{place} is no folder")
            if place.exists() and not place.is_file():
                return  # a device or pipe
            place = place.parent
        probe = temporary_beside(place / "probe")
        try:
            with probe.open("xb") as file:
                file.write(bytes(_PROBE))
                file.flush()
                os.fsync(file.fileno())
        finally:
            probe.unlink(missing_ok=True)


def check_file(path: Path | None) -> None:
    """``check_writable`` of one file, e.g. what ``--json`` names; None is none. Raises DiskError."""
    if path is None:
        return
    if not path.name or path.is_dir():
        raise DiskError(f"can't write '{path}': it is a folder; give the file's name as well")
    check_writable(path)


def remove_parts(folder: Path, name: str = "") -> None:
    """Remove what killed processes left half-written in a folder; a part whose process still runs is left alone.

    Args:
        name: only of the file that is called so.
    """
    for part in folder.glob(f".{glob.escape(name[:40]) + '.' if name else ''}*.part*"):
        found = _PART.search(part.name)
        if found and not runs(int(found[1])):
            with suppress(OSError):  # it is somebody else's
                (
                    shutil.rmtree(part, ignore_errors=True)
                    if part.is_dir() and not part.is_symlink()
                    else part.unlink(missing_ok=True)
                )


def _regular(path: Path) -> BinaryIO:
    """A file that is open for reading. Raises OSError also for a folder, pipe or device, without waiting for it."""
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is a folder, pipe or device, not a file", str(path))
    return open(descriptor, "rb")


def read_file(path: Path, at_most: int) -> bytes:
    """The content of a regular file of at most so many bytes; never waits for a pipe. Raises OSError, whose
    ``strerror`` says what is wrong.
    """
    with _regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        content = file.read(min(size, at_most) + 1)  # so much memory is taken at once, whatever the file holds
        if len(content) > size:  # it grows, or is one of /proc
            content += file.read(at_most + 1 - len(content))
    if len(content) > at_most:
        raise OSError(errno.EFBIG, f"it is larger than {at_most // 1024} KiB", str(path))
    return content


def read_head(path: Path, count: int) -> bytes:
    """The first bytes of a regular file. Raises OSError."""
    with _regular(path) as file:
        return file.read(count)


def read_text(path: Path, at_most: int, encoding: str = "utf-8") -> str:
    """``read_file`` as text. Raises OSError, whose ``strerror`` says what is wrong, also where it isn't in that
    encoding.
    """
    try:
        return read_file(path, at_most).decode(encoding)
    except UnicodeDecodeError as error:
        raise OSError(errno.EILSEQ, str(error), str(path)) from error


def parse_json(content: bytes) -> Any:
    """What strict JSON says. Raises ValueError: not UTF-8 or JSON, nested too deep, or a number that is infinite, NaN
    or endlessly long.
    """
    try:
        return json.loads(content.decode("utf-8"), parse_int=_whole, parse_float=_finite, parse_constant=_finite)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def _whole(digits: str) -> int:
    if len(digits) > 40:
        raise ValueError(f"a number has {len(digits)} digits")
    return int(digits)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:20]} is no finite number")
    return value


def runs(process: int) -> bool:
    """Whether a process of that number is alive, whoever's."""
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):  # no process has such a number
        return False
    except OSError:  # it is someone else's
        return True
    return True


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text, whole or not at all. What UTF-8 can't hold, bytes of a file's name, is written as JSON and
    Python do: \\udcff.
    """
    write_bytes(path, encoded(text))


def write_bytes(path: Path, content: bytes) -> None:
    """Write bytes, whole or not at all."""
    write_together({path: content})


def write_together(contents: Mapping[Path, bytes]) -> None:
    """Write several files: all are there, beside their places, before the first one is replaced. Raises DiskError."""
    with ExitStack() as stack:
        for path, content in contents.items():
            part = stack.enter_context(replacing(path))
            with open(_opened(part), "wb") as file:
                file.write(content)


def _opened(path: Path) -> int:
    """To write into a part, or into a device or pipe; never waits for somebody to read a pipe."""
    if path.is_file():
        return os.open(path, os.O_WRONLY | _NO_LINK)
    with _disk_errors(path):
        try:
            descriptor = os.open(path, os.O_WRONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
        except OSError as error:
            if error.errno == errno.ENXIO:
                error.strerror = "nobody reads from it"
            raise
    os.set_blocking(descriptor, True)
    return descriptor


def write_json(path: Path, value: Any) -> None:
    """Write JSON with two spaces of indentation; NaN is refused, since it isn't JSON."""
    write_text(path, json_text(value))


def json_text(value: Any) -> str:
    """As ``write_json`` writes it. What steers a terminal is escaped; all else, such as an ä, stands as it is."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    return "\n".join(line if line.isprintable() else _escaped(line) for line in text.split("\n")) + "\n"


def _escaped(line: str) -> str:
    return "".join(one if shown(one) == one else json.dumps(one)[1:-1] for one in line)


def yaml_text(tree: Any) -> str:
    """As a recipe or plan is written: in the order of its keys, letters as they are unless one of them steers a
    terminal.
    """
    text = yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, width=140)
    if all(shown(line) == line for line in text.split("\n")):
        return text
    return yaml.safe_dump(tree, sort_keys=False, width=140)


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
    """Hex SHA-256 of a regular file's content; never waits for a pipe. Raises OSError."""
    digest = hashlib.sha256()
    with _regular(path) as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
