"""The shards of a teacher's cache: which frames each holds, where it lies, and whether it is what was written."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rdd_deploy import console
from rdd_deploy.training.compact import Form
from rdd_deploy.utils import files
from rdd_deploy.utils.sharing import claimed

SHARD = 64
"""Frames of a shard: what a killed process loses, and the least that a process takes."""
READERS = 4
"""Threads that look whether files are what was written."""


class Shard(NamedTuple):
    """Some frames that follow each other in a split.

    Attributes:
        name: of its folder, by what its frames are. first, frames: the first one, and how many.
    """

    name: str
    first: int
    frames: int


def shards_of(count: int, digest: str, digests: Sequence[str] | None = None) -> list[Shard]:
    """The shards of a split.

    Args:
        count: frames of the split. digest: of all of them.
        digests: of each frame; with them a shard belongs to its own frames alone, and stays when others follow.
    """
    shards = []
    for first in range(0, count, SHARD):
        size = min(SHARD, count - first)
        known = " ".join(digests[first : first + size]) if digests is not None else f"{digest} {first} {size}"
        shards.append(Shard(hashlib.sha256(known.encode()).hexdigest()[:24], first, size))
    return shards


class Wanted(NamedTuple):
    """A file that a run needs.

    Attributes:
        name: of the file. shape: (planes, height, width); None: the teacher's own map says.
    """

    name: str
    form: Form
    shape: tuple[int, int, int] | None


class Folder(NamedTuple):
    """Files that lie in one folder, a shard in a folder inside, and what they depend on."""

    path: Path
    key: dict[str, Any]
    files: list[Wanted]

    def holds(self, shard: Shard) -> bool:
        return (self.path / shard.name / "shard.json").is_file()

    def pieces(self, shards: Sequence[Shard]) -> list[tuple[Path, int]]:
        """Where the frames of all shards lie: (folder, how many), in their order."""
        return [(self.path / shard.name, shard.frames) for shard in shards]


def remove_damaged(folders: Sequence[Folder], shards: Sequence[Shard]) -> None:
    """Take away what isn't what was written, with a warning, so that it is filled again."""
    count = sum(folder.holds(shard) for folder in folders for shard in shards)
    with ThreadPoolExecutor(READERS) as pool, console.progress("teacher cache: check", count) as bar:
        for folder in folders:
            there = [shard for shard in shards if folder.holds(shard)]
            problems = []
            for problem in pool.map(lambda shard, folder=folder: _problem(folder, shard), there):
                problems.append(problem)
                bar.advance(1)
            damaged = [(shard, problem) for shard, problem in zip(there, problems, strict=True) if problem]
            for shard, _ in damaged:
                with claimed(folder.path, shard.name) as mine:
                    if mine and _problem(folder, shard):  # still: another process may have filled it again meanwhile
                        _take_away(folder, shard)
            if damaged:
                console.warn(
                    f"the teacher cache {folder.path} is damaged ({damaged[0][1]}): {len(damaged)} of {len(there)}"
                    " shards will be filled again"
                )


def _take_away(folder: Folder, shard: Shard) -> None:
    aside = files.temporary_beside(folder.path / shard.name)
    os.rename(folder.path / shard.name, aside)
    shutil.rmtree(aside, ignore_errors=True)


def _problem(folder: Folder, shard: Shard) -> str:
    """What is wrong with a shard that is there; empty where it is what was written."""
    place = folder.path / shard.name
    try:
        told = files.parse_json((place / "shard.json").read_bytes())
        hashes = told.get("sha256", {})
        names = {"sizes.npy", *(f"{one.name}.npy" for one in folder.files)}
        if not names <= set(hashes):
            return "it doesn't say what was written"
        for name in sorted(names):
            if files.sha256(place / name) != hashes[name]:
                return f"{name} isn't what was written"
        _check_arrays(folder, place, shard.frames)
    except (OSError, ValueError, EOFError, AttributeError, TypeError) as error:  # the last ones: a key of another form
        return str(error)
    return ""


def _check_arrays(folder: Folder, place: Path, frames: int) -> None:
    """Raise ValueError where arrays haven't the shape and type that they should have."""
    for one in folder.files:
        array, dtype = np.load(place / f"{one.name}.npy", mmap_mode="r", allow_pickle=False), np.dtype(one.form.dtype)
        shape = (frames, *(one.shape or array.shape[1:]))
        if (array.shape, array.dtype, array.ndim) != (shape, dtype, 4):
            raise ValueError(f"it holds {array.dtype}{list(array.shape)}, expected {dtype}{list(shape)}")
    sizes = np.load(place / "sizes.npy", allow_pickle=False)
    if (sizes.shape, sizes.dtype) != ((frames, 2), np.int64) or sizes.min() < 1:
        raise ValueError("it doesn't hold the size of each frame")
