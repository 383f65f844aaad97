"""What each of many frames is: its perceptual hash, a digest of its content, its size; found out once and kept. No
torch here.

Images of a folder are looked at in blocks, each kept in a small file under the names, sizes and times of its images.
Any number of processes share the blocks, and a later start reads what is there: of a million images only the new ones
are decoded.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from rdd_deploy import console
from rdd_deploy.data.base import Frame, Split
from rdd_deploy.data.image_file import content
from rdd_deploy.data.listing import IMAGES, OTHERS, is_hidden
from rdd_deploy.data.reader import read_frame
from rdd_deploy.data.similar import fingerprint
from rdd_deploy.errors import DataError, DiskError
from rdd_deploy.utils import files
from rdd_deploy.utils.sharing import claimed, share

VIDEOS = (
    ".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".ts", ".mts", ".m2ts", ".3gp", ".flv", ".ogv",
)  # fmt: skip
"""Endings of files in a folder that are videos; one that is named itself may have any."""
BLOCK = 512
"""Images that are looked at between two files."""
RECORD = np.dtype([("hash", "<u8"), ("digest", "V16"), ("height", "<u4"), ("width", "<u4")])
"""Of each frame; its height is 0 where it can't be read."""
READERS = min(8, os.cpu_count() or 1)
PASSING = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO, errno.ESTALE, errno.EAGAIN, errno.ETIMEDOUT}
"""Errors of the machine, not of a file."""


class Source(Protocol):
    """Frames of one origin, in their order."""

    title: str
    is_thinned: bool
    """Whether ``data.thin.every`` was applied already."""

    def __len__(self) -> int: ...

    def name(self, index: int) -> str: ...

    def frame(self, index: int) -> Frame:
        """Raises DataError."""
        ...

    def file(self, index: int) -> Path | None:
        """The file that a frame is in; None for one that is made."""
        ...

    def some(self, which: slice) -> Source:
        """A part of it."""
        ...


class FileSource:
    """Image files below a folder, by their names relative to it."""

    def __init__(self, folder: Path, names: Sequence[str], title: str = "", is_thinned: bool = False) -> None:
        self.folder, self.names, self.title, self.is_thinned = folder, names, title or str(folder), is_thinned

    def __len__(self) -> int:
        return len(self.names)

    def name(self, index: int) -> str:
        return f"{Path(self.title).name}/{os.path.splitext(self.names[index])[0]}"

    def frame(self, index: int) -> Frame:
        return read_frame(self.folder / self.names[index])

    def file(self, index: int) -> Path | None:
        return self.folder / self.names[index]

    def some(self, which: slice) -> FileSource:
        return FileSource(self.folder, self.names[which], self.title, is_thinned=True)

    def without(self, paths: Collection[str]) -> FileSource:
        """All but the files at absolute ``paths``."""
        folder = os.path.abspath(self.folder)
        names = [name for name in self.names if os.path.join(folder, name) not in paths]
        return FileSource(self.folder, names, self.title, self.is_thinned)


class SplitSource:
    """Some frames of a data set's split."""

    is_thinned = False

    def __init__(self, split: Split, indices: NDArray[np.int64]) -> None:
        self.split, self.indices, self.title = split, indices, "the data set's own frames"

    def __len__(self) -> int:
        return len(self.indices)

    def name(self, index: int) -> str:
        return self.split.names[int(self.indices[index])]

    def frame(self, index: int) -> Frame:
        return self.split.frame(int(self.indices[index]))

    def file(self, index: int) -> Path | None:
        pairs = getattr(self.split, "pairs", None)
        return Path(pairs[int(self.indices[index])][0]) if pairs else None

    def some(self, which: slice) -> SplitSource:
        return SplitSource(self.split, self.indices[which])


@dataclass
class SourceListing:
    """Images and videos below a folder, sorted by name.

    Attributes:
        names: of images, relative to the folder. others: names of pictures of kinds that aren't read. links: folders
            that are links.
    """

    folder: Path
    names: list[str] = field(default_factory=list)
    videos: list[Path] = field(default_factory=list)
    hidden: int = 0
    others: list[str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)

    def notes(self) -> list[str]:
        """A sentence about each kind of thing that was left out."""
        said = {
            "hidden or system files or folders": (self.hidden, "passed over"),
            "pictures of kinds that aren't read": (len(self.others), f"left out, the first is {(self.others or [''])[0]}: convert them to use them"),
            "sub-folders that are links": (len(self.links), f"not followed, the first is {(self.links or [''])[0]}: name their targets to use them"),
        }  # fmt: skip
        return [
            f"data.unlabelled: {count} {what} in {self.folder} {why}" for what, (count, why) in said.items() if count
        ]


def list_source(place: Path) -> SourceListing:
    """What ``data.unlabelled`` names: a folder with everything below it, or one video. Raises DataError."""
    if place.is_dir():
        listing = SourceListing(place)
        _list(place, "", listing)
        if not listing.names and not listing.videos:
            notes = "".join(f"; {note}" for note in listing.notes())
            raise DataError(
                f"data.unlabelled: {place} holds no images or videos; expected files ending in"
                f" {', '.join((*IMAGES, *VIDEOS))}{notes}"
            )
        return listing
    if not place.exists():
        raise DataError(
            f"data.unlabelled: there is no {place}; expected a folder of images or videos, a video, or 'rest'"
        )
    if not place.is_file():
        raise DataError(
            f"data.unlabelled: {place} is neither a file nor a folder; expected a folder of images or videos, or a"
            " video"
        )
    if place.suffix.lower() in (*IMAGES, *OTHERS):
        raise DataError(f"data.unlabelled: {place} is a single image; name the folder that it lies in")
    return SourceListing(place.parent, videos=[place])


def _list(folder: Path, below: str, listing: SourceListing) -> None:
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(
            f"data.unlabelled: can't list {folder}: {error.strerror or error}; check its permissions"
        ) from error
    for entry in entries:
        suffix = os.path.splitext(entry.name)[1].lower()
        if is_hidden(entry.name):
            listing.hidden += 1
        elif entry.is_dir(follow_symlinks=False):
            _list(Path(entry.path), f"{below}{entry.name}/", listing)
        elif entry.is_symlink() and entry.is_dir():
            listing.links.append(below + entry.name)
        elif suffix in IMAGES:
            listing.names.append(below + entry.name)
        elif suffix in VIDEOS:
            listing.videos.append(Path(entry.path))
        elif suffix in OTHERS:
            listing.others.append(below + entry.name)


def index_of(source: Source, scratch: Path) -> NDArray[Any]:
    """What each frame of a source is, ``RECORD`` (N,).

    Args:
        scratch: folder where it is kept, for frames that are files.

    Raises:
        DiskError: that can't be written.
    """
    blocks = {}
    with console.progress(f"frames of {source.title}", len(source), enabled=console.process_rank() == 0) as bar:
        for first in range(0, len(source), BLOCK):
            indices = range(first, min(first + BLOCK, len(source)))
            blocks[_key(source, indices) or f"made {first}"] = indices
        folder = scratch / "index"
        found: dict[str, NDArray[Any]] = {}

        def is_done(key: str) -> bool:
            if key not in found and (records := _read(folder / f"{key}.npy", len(blocks[key]))) is not None:
                found[key] = records
                bar.advance(len(records))
            return key in found

        def work(key: str) -> bool:
            if key.startswith("made"):
                found[key] = _looked(source, blocks[key])
                bar.advance(len(found[key]))
            elif not is_done(key):
                with claimed(folder, key) as mine:
                    if mine and not is_done(key):
                        _write(folder / f"{key}.npy", _looked(source, blocks[key]))
            return is_done(key)

        try:
            share(
                list(blocks),
                work,
                is_done,
                lambda count: console.info(f"waiting for other processes, which look at {source.title} as well"),
            )
        except OSError as error:
            raise DiskError(
                f"can't write {folder}: {error.strerror or error}; choose another folder with data.scratch"
            ) from error
    # Files that are alike to the letter, block by block, are one block.
    keys = [
        _key(source, range(first, min(first + BLOCK, len(source)))) or f"made {first}"
        for first in range(0, len(source), BLOCK)
    ]
    return np.concatenate([found[key] for key in keys]) if keys else np.empty(0, RECORD)


def _key(source: Source, indices: range) -> str:
    """What a block's frames depend on; empty where they aren't files."""
    stamps = []
    for index in indices:
        file = source.file(index)
        if file is None:
            return ""
        try:
            status = file.stat()
            stamps.append((os.path.abspath(file), status.st_size, status.st_mtime_ns))
        except OSError:  # reading it says so
            stamps.append((os.path.abspath(file), -1, -1))
    return hashlib.sha256(json.dumps(["frames 1", stamps]).encode()).hexdigest()[:32]


def _looked(source: Source, indices: range) -> NDArray[Any]:
    with ThreadPoolExecutor(READERS) as pool:
        return np.array(list(pool.map(lambda index: _record(source, index), indices)), RECORD)


def _record(source: Source, index: int) -> tuple[int, bytes, int, int]:
    try:
        frame = source.frame(index)
        file = source.file(index)
        known = content(file) if file is not None else np.ascontiguousarray(frame).data
    except (DataError, OSError, ValueError) as error:
        cause = error.__cause__ if isinstance(error, DataError) else error
        if isinstance(cause, OSError) and cause.errno in PASSING:  # the frame itself may be good
            raise DataError(
                f"data.unlabelled: {source.name(index)} can't be read now ({cause.strerror}); start again once that is"
                " over, what was looked at until then is kept"
            ) from error
        return 0, bytes(16), 0, 0
    return fingerprint(frame), hashlib.blake2b(known, digest_size=16).digest(), frame.shape[0], frame.shape[1]


def _write(path: Path, records: NDArray[Any]) -> None:
    buffer = io.BytesIO()
    np.save(buffer, records, allow_pickle=False)
    files.write_bytes(path, buffer.getvalue())


def _read(path: Path, count: int) -> NDArray[Any] | None:
    """What was kept; None where it isn't there, or damaged, so that it is found out again."""
    with suppress(OSError, ValueError, EOFError):
        records: NDArray[Any] = np.load(path, allow_pickle=False)
        if records.dtype == RECORD and records.shape == (count,):
            return records
    return None
