"""A bundle as one ``.tar``: written so that the same bundle gives the same bytes, read as if a stranger had written it.

Of an archive nothing but the content of files that its manifest names reaches the disk, at places that the manifest
names: no names, links, modes, owners or times of tar's, so that it needs none of tarfile's extraction filters, which
Python 3.10 doesn't always have.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple

from rdd_deploy.errors import BundleError, DiskError
from rdd_deploy.runtime.manifest import (
    LARGEST_MANIFEST,
    MANIFEST,
    Manifest,
    is_inside,
    parse_manifest,
    read_file,
    read_manifest,
)
from rdd_deploy.utils.files import has_utf8_name, remove_parts, replacing, sha256

LARGEST_ARCHIVE = 4 << 30
LARGEST_FILE = 2 << 30
"""As much as an ONNX file may hold."""
MOST_FILES = 250
LARGEST_HEADER, LARGEST_HEADERS = 4 << 10, 1 << 20
"""Bytes of what isn't content (names of files, and what tar says about them): of one file, and of all. Reading it takes memory, and in some
versions of Python time that grows with its square."""
LONGEST_END = 1 << 20
"""Of the zeros that an archive ends with; 1024 at least, tar fills up its last block."""
BLOCK = 1 << 20


class Packed(NamedTuple):
    """A ``.tar`` that was written."""

    files: int
    bytes: int
    sha256: str


def archive_name(manifest: Manifest) -> str:
    """How a bundle's archive and the folder in it are called: ``RUN/PROFILE`` is ``RUN-PROFILE``."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", manifest.name).strip(".-")[:100] or "bundle"


def pack(folder: Path, output: Path) -> Packed:
    """Write a bundle's manifest and the files that it names into a ``.tar``: sorted, of nobody, without times.

    Raises:
        BundleError: the bundle isn't whole. DiskError: the archive can't be written.
    """
    manifest = read_manifest(folder, verify=False)
    whole: dict[str, str | None] = {MANIFEST: None, **manifest.files}
    sizes = [(folder / name).stat().st_size for name in whole]
    if (
        len(sizes) > MOST_FILES
        or max(sizes) > LARGEST_FILE
        or sum(sizes) > LARGEST_ARCHIVE - LONGEST_END - LARGEST_HEADERS
    ):
        raise BundleError(
            f"{folder} has {len(sizes)} files of {sum(sizes)} bytes, expected at most {MOST_FILES} of"
            f" {LARGEST_FILE >> 30} GiB each and just under {LARGEST_ARCHIVE >> 30} GiB together; copy the folder"
            " itself"
        )
    top = archive_name(manifest)
    remove_parts(output.parent, output.name)
    with replacing(output) as part:
        with part.open("wb") as file, tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
            for name, expected in sorted(whole.items()):
                content = read_file(folder / name, expected)  # what was hashed is what is packed
                if name == MANIFEST and parse_manifest(folder / name, content) != manifest:
                    raise BundleError(f"{folder / name} was replaced while it was packed; pack the bundle again")
                member = tarfile.TarInfo(f"{top}/{name}")
                member.size, member.mode = len(content), 0o644
                tar.addfile(member, BytesIO(content))
        return Packed(len(whole), part.stat().st_size, sha256(part))


class Archive:
    """A ``.tar`` of a bundle whose headers and manifest were checked: ``files`` are the members that may be unpacked,
    by the manifest's names.
    """

    def __init__(
        self, path: Path, tar: tarfile.TarFile, manifest: Manifest, content: bytes, files: dict[str, tarfile.TarInfo]
    ) -> None:
        self.path, self.manifest, self.files = path, manifest, files
        self._tar, self._content = tar, content

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(member.size for member in self.files.values())

    def unpack(self, folder: Path, advance: Callable[[int], object] = lambda count: None) -> None:
        """Write manifest and files into an empty folder. Raises BundleError where a file isn't the one that the
        manifest names.
        """
        (folder / MANIFEST).write_bytes(self._content)
        for name, expected in self.manifest.files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            digest, source = hashlib.sha256(), self._tar.extractfile(self.files[name])
            assert source is not None  # it is a regular file
            # It became shorter meanwhile: the hash tells.
            with (
                (folder / name).open("xb") as file,
                suppress(tarfile.TarError),
            ):
                while block := source.read(BLOCK):
                    digest.update(block)
                    file.write(block)
                    advance(len(block))
            if digest.hexdigest() != expected:
                raise BundleError(
                    f"{name} in {self.path} isn't the file that was exported: its SHA-256 is"
                    f" {digest.hexdigest()[:12]}…, its {MANIFEST} says {expected[:12]}…; copy the archive again, or"
                    " pack the bundle again"
                )
        read_manifest(folder, verify=False)


@contextmanager
def opened(path: Path) -> Iterator[Archive]:
    """Open and check a ``.tar`` of a bundle; nothing is written.

    Raises:
        BundleError: it can't be read, or holds anything but one bundle's regular files: links, devices, names that lead
            out of its folder, files that its manifest doesn't name; or one is missing, cut off, or larger than
            LARGEST_FILE.
    """
    with _opened(path) as raw, ExitStack() as stack:
        file = _Metered(raw, LARGEST_HEADERS)
        try:
            tar = stack.enter_context(tarfile.open(fileobj=file, mode="r:"))  # type: ignore[call-overload]
            files = _members(tar, raw)
            file.left = None
            content = _manifest(tar, files)
            manifest = parse_manifest(path / MANIFEST, content)
            _check_named(manifest, files)
        except _Refused as problem:
            raise BundleError(f"{path} {problem}; take the archive as `rdd-deploy bundle pack` wrote it") from problem
        except (tarfile.TarError, ValueError, OverflowError) as error:
            raise BundleError(
                f"{path} isn't a whole, uncompressed tar ({error}); take the archive as `rdd-deploy bundle pack`"
                " wrote it"
            ) from error
        yield Archive(path, tar, manifest, content, files)


@contextmanager
def as_folder(path: Path) -> Iterator[Path]:
    """A bundle's folder: what was given, or of a ``.tar`` a temporary one. Raises BundleError."""
    if not path.is_file():
        yield path
        return
    with opened(path) as archive, ExitStack() as stack:
        try:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rdd-bundle-")))
            archive.unpack(folder)
        except OSError as error:
            raise DiskError(
                f"can't unpack {path} into {tempfile.gettempdir()}: {error.strerror or error}; free some space or set"
                " TMPDIR"
            ) from error
        yield folder


class _Refused(Exception):
    """What is wrong with an archive, to be said after its path."""


class _Metered:
    """A file of which only so many bytes may be read: tarfile takes as much memory as a header asks for."""

    def __init__(self, file: BinaryIO, left: int | None) -> None:
        self._file, self.left = file, left

    def read(self, size: int = -1) -> bytes:
        if self.left is not None:
            self.left -= size
            if not 0 <= size <= LARGEST_HEADER or self.left < 0:
                raise _Refused("says more about its files, beside their content, than a bundle's archive does")
        return self._file.read(size)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """A regular file; never waits for a pipe."""
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
    except (OSError, ValueError) as error:
        raise BundleError(
            f"can't read {path}: {getattr(error, 'strerror', None) or error}; name a bundle's .tar"
        ) from error
    with open(descriptor, "rb") if stat.S_ISREG(os.fstat(descriptor).st_mode) else _nothing(descriptor, path) as file:
        if (size := os.fstat(file.fileno()).st_size) > LARGEST_ARCHIVE:
            raise BundleError(
                f"{path} has {size} bytes, expected a bundle's .tar of at most {LARGEST_ARCHIVE >> 30} GiB"
            )
        yield file


def _nothing(descriptor: int, path: Path) -> BinaryIO:
    os.close(descriptor)
    do = (
        "a bundle's folder is packed already: it needs no unpacking"
        if (path / MANIFEST).is_file()
        else "name a bundle's .tar"
    )
    raise BundleError(f"{path} is a folder, pipe or device, expected a file; {do}")


def _members(tar: tarfile.TarFile, raw: BinaryIO) -> dict[str, tarfile.TarInfo]:
    """The regular files of an archive by their names, and that there is nothing else in it but folders of theirs."""
    end = os.fstat(raw.fileno()).st_size
    files: dict[str, tarfile.TarInfo] = {}
    folders: set[str] = set()
    for member in tar:
        name = PurePosixPath(member.name).as_posix()
        if not has_utf8_name(Path(member.name)):
            raise _Refused(f"holds a file whose name isn't UTF-8 ('{member.name:.80}')")
        if not is_inside(name):
            raise _Refused(f"holds '{member.name:.80}', a name that leads out of its folder")
        if member.isdir():
            folders.add(name)
            continue
        if member.issparse() or member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
            raise _Refused(f"holds '{name:.80}', which is {_kind(member)}, expected regular files only")
        if name in files:
            raise _Refused(f"holds '{name:.80}' twice")
        if not 0 <= member.size <= LARGEST_FILE:
            raise _Refused(f"holds '{name:.80}' of {member.size} bytes, expected at most {LARGEST_FILE >> 30} GiB")
        if member.offset_data + member.size > end:
            raise _Refused(
                f"is cut off: '{name:.80}' should have {member.size} bytes, {max(0, end - member.offset_data)} are"
                " there"
            )
        files[name] = member
        if len(files) > MOST_FILES:
            raise _Refused(f"holds more than {MOST_FILES} files")
    _check_end(tar, raw, end)
    inner = _without_top(files)
    top = "" if MANIFEST in files else f"{next(iter(files)).split('/')[0]}"
    above = {top, "."} | {parent.as_posix() for name in files for parent in PurePosixPath(name).parents}
    for name in sorted(folders - above):
        raise _Refused(f"holds the empty folder '{name:.80}', which isn't named by its {MANIFEST}")
    return inner


def _kind(member: tarfile.TarInfo) -> str:
    if member.issym() or member.islnk():
        return f"a link to '{member.linkname:.80}'"
    if member.issparse():
        return "a file with holes"
    return "a pipe or device" if member.isdev() else "of an unknown kind"


def _check_end(tar: tarfile.TarFile, raw: BinaryIO, size: int) -> None:
    """tarfile takes a damaged header for the end; a whole archive ends with zeros."""
    raw.seek(tar.offset)
    rest = size - tar.offset
    if rest < 2 * tarfile.BLOCKSIZE or rest > LONGEST_END or any(raw.read(LONGEST_END)):
        raise _Refused("is cut off or damaged: it doesn't end as a tar does")


def _without_top(files: dict[str, tarfile.TarInfo]) -> dict[str, tarfile.TarInfo]:
    """Names without the one folder that all files lie in, if there is one."""
    if MANIFEST in files:
        return files
    tops = {name.split("/")[0] for name in files}
    if len(tops) != 1 or f"{next(iter(tops))}/{MANIFEST}" not in files:
        raise _Refused(f"holds no {MANIFEST} at its top or in its one folder, so it isn't a bundle")
    return {name.partition("/")[2]: member for name, member in files.items()}


def _manifest(tar: tarfile.TarFile, files: dict[str, tarfile.TarInfo]) -> bytes:
    member = files.pop(MANIFEST)
    if member.size > LARGEST_MANIFEST:
        raise _Refused(f"holds a {MANIFEST} of {member.size} bytes, expected at most {LARGEST_MANIFEST >> 20} MiB")
    source = tar.extractfile(member)
    assert source is not None  # it is a regular file
    return source.read()


def _check_named(manifest: Manifest, files: dict[str, tarfile.TarInfo]) -> None:
    for name in sorted(set(files) - set(manifest.files)):
        raise _Refused(f"holds '{name:.80}', which isn't named by its {MANIFEST}")
    for name in manifest.files:
        if name not in files:
            raise _Refused(f"has no '{name:.80}', which its {MANIFEST} names")
