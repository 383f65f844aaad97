"""Filling a teacher's cache: shards of some frames each, by as many processes and machines as there are, each shard
written elsewhere and renamed.

A process that is killed loses the shard that it was at; a later start goes on. Processes that train together share the
shards, and so do those that were started each by itself on a common file system.
"""

from __future__ import annotations

import errno
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import Tensor

from rdd_deploy import console
from rdd_deploy.data.base import Frame, Split
from rdd_deploy.errors import DiskError, WeightsError
from rdd_deploy.losses.rdd import Divergence, teacher_full_evaluated
from rdd_deploy.metrics import batches
from rdd_deploy.models.teachers.base import TeacherModel
from rdd_deploy.models.tta import TestTimeAugmentation, cache_grid, stacked, tta_logits
from rdd_deploy.training.forecast import in_words
from rdd_deploy.training.teacher_shards import Folder, Shard, remove_damaged
from rdd_deploy.utils import files
from rdd_deploy.utils.sharing import claimed, share

AT_ONCE = 4
"""Frames of a batch; shards are whole batches, so that a file doesn't depend on the number of processes."""


class Source(NamedTuple):
    """The teacher and the frames that a cache is filled from."""

    teacher: TeacherModel
    split: Split
    views: TestTimeAugmentation
    device: torch.device
    precision: torch.dtype | None
    divergence: Divergence

    def values(self, frames: Sequence[Frame], names: Sequence[str]) -> dict[str, Tensor]:
        """What the teacher says of whole frames, by stores' names, each (N, D, h, w)."""
        pictures = stacked(list(frames), self.views.size).to(self.device)
        maps = [name.removeprefix("map_") for name in names if name.startswith("map_")]
        found: dict[str, Tensor] = {}
        with torch.inference_mode():
            if len(maps) < len(names):
                output = tta_logits(self.teacher, pictures, self.views, cache_grid(self.views), self.precision)
                found["primary"] = output.primary
                if output.auxiliary is not None:
                    found["auxiliary"] = output.auxiliary
                if "agreement" in names:
                    assert output.auxiliary is not None
                    found["agreement"] = teacher_full_evaluated(
                        output.primary, output.auxiliary, divergence=self.divergence
                    )[:, None]
            if maps:
                with torch.autocast(self.device.type, dtype=self.precision, enabled=self.precision is not None):
                    features = self.teacher.logits_at_stride(pictures, maps).features
                found |= {f"map_{name}": features[name].float() for name in maps}
        return found


@contextmanager
def together(fabric: Fabric | None, what: str) -> Iterator[None]:
    """A block that each of several processes runs: where it fails in one, all raise, instead of waiting for that one
    for ever.
    """
    failure: Exception | None = None
    try:
        yield
    except Exception as error:
        failure = error
    if fabric is not None and fabric.world_size > 1:
        failed = fabric.all_reduce(torch.tensor(float(failure is not None), device=fabric.device), reduce_op="max")
        if failure is None and float(failed):  # type: ignore[arg-type]
            raise DiskError(f"another of the processes that train together couldn't {what}; its own message says why")
    if failure is not None:
        raise failure


def fill(
    source: Source,
    folders: Sequence[Folder],
    shards: Sequence[Shard],
    advance: Callable[[int], None],
    fabric: Fabric | None,
) -> None:
    """Fill those shards of folders that aren't there, or aren't what was written; see ``cached_teacher``.

    Raises:
        DiskError, ValueError, WeightsError: as ``cached_teacher``; nothing half-written is left behind.
    """
    with together(fabric, "read the teacher cache"), _disk_errors(folders[0].path):
        # The first process of a machine looks for all: each would read every byte of what may be many GB.
        if fabric is None or fabric.local_rank == 0:
            remove_damaged(folders, shards)
    with together(fabric, "fill the teacher cache"), _disk_errors(folders[0].path):
        _Filling(source, folders, shards, advance, 1 if fabric is None else fabric.world_size).run()


@contextmanager
def _disk_errors(place: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        blocked = error.errno in (errno.EEXIST, errno.ENOTDIR)
        way_out = f"{error.filename or place} is in its way, remove it" if blocked else "free some space"
        raise DiskError(
            f"can't write the teacher cache {place}: {error.strerror or error}; {way_out} or set teacher.cache=false."
            " What was filled stays: the same command goes on"
        ) from error


class _Filling:
    """One process's part in filling a cache, and in waiting for the others."""

    def __init__(
        self,
        source: Source,
        folders: Sequence[Folder],
        shards: Sequence[Shard],
        advance: Callable[[int], None],
        processes: int,
    ) -> None:
        self.source, self.folders, self.advance, self.processes = source, folders, advance, processes
        self.total = sum(shard.frames for shard in shards)
        self.missing = {shard.name: shard for shard in shards if not self._is_there(shard)}
        self.left = sum(shard.frames for shard in self.missing.values())
        self.counted: dict[str, int] = {}
        self.told_time = False

    def _is_there(self, shard: Shard) -> bool:
        return all(folder.holds(shard) for folder in self.folders)

    def run(self) -> None:
        if not self.missing:
            return
        self.source.teacher.eval()
        self.source.teacher.to(self.source.device)
        self._check_room()
        if self.total > self.left:
            self.advance(self.total - self.left)
        share(list(self.missing), self._work, self._is_done, self._waiting)

    def _is_done(self, name: str) -> bool:
        """Whether other processes have filled a shard."""
        shard = self.missing[name]
        if there := self._is_there(shard):
            self._did(shard, shard.frames)
        return there

    def _did(self, shard: Shard, frames: int) -> None:
        """Count a shard's frames up to so many: each once, though a shard may lie in several folders, or another
        process finish it.
        """
        count = frames - self.counted.get(shard.name, 0)
        if count > 0:
            self.counted[shard.name] = frames
            self.left -= count
            self.advance(count)

    def _waiting(self, count: int) -> None:
        console.info(
            f"teacher cache: waiting for other processes, which fill the last {count} shard{'s' if count > 1 else ''}"
        )

    def _work(self, name: str) -> bool:
        shard = self.missing[name]
        if self._is_done(name):
            return True
        with ExitStack() as stack:
            mine = [
                folder
                for folder in self.folders
                if not folder.holds(shard)
                and stack.enter_context(claimed(folder.path, name))
                and not folder.holds(shard)
            ]
            if not mine:
                return self._is_done(name)
            self._write(mine, shard)
        return self._is_there(shard)  # else another process is at one of its folders

    def _check_room(self) -> None:
        """Look whether there is room for what is missing, so that an error can say how much is needed."""
        every = [one for folder in self.folders for one in folder.files]
        unknown = [one.name for one in every if one.shape is None]
        blank = np.zeros((*self.source.views.size, 3), np.uint8)
        shapes = (
            {name: tuple(value.shape[1:]) for name, value in self.source.values([blank], unknown).items()}
            if unknown
            else {}
        )
        beside = self.folders[0].path.parent
        beside.mkdir(parents=True, exist_ok=True)
        needed = sum(
            shard.frames * math.prod(one.shape or shapes[one.name]) * np.dtype(one.form.dtype).itemsize
            for folder in self.folders
            for one in folder.files
            for shard in self.missing.values()
            if not folder.holds(shard)
        )
        free = shutil.disk_usage(beside).free
        if free < needed * 1.05 + (64 << 10):  # a few small files come with them
            raise DiskError(
                f"the teacher cache needs {_size(needed)} in {beside}, {_size(free)} are free; free some space or set"
                " teacher.cache=false"
            )
        console.info(f"teacher cache: {_size(needed)} to be written in {beside}, {_size(free)} are free")

    def _write(self, folders: Sequence[Folder], shard: Shard) -> None:
        """Write one shard of some folders elsewhere and rename it: it is there whole or not at all, also where two
        processes write it.
        """
        parts = [files.temporary_beside(folder.path / shard.name) for folder in folders]
        try:
            for part in parts:
                part.mkdir()
            self._write_frames(folders, parts, shard)
            for folder, part in zip(folders, parts, strict=True):
                hashes = {file.name: files.sha256(file) for file in sorted(part.iterdir())}
                files.write_json(part / "shard.json", {"key": folder.key, "frames": shard.frames, "sha256": hashes})
                with suppress(FileNotFoundError):  # one that has no description is none
                    if not folder.holds(shard):
                        shutil.rmtree(folder.path / shard.name)
                os.rename(part, folder.path / shard.name)
        except OSError:
            if not self._is_there(shard):  # else another process was faster, and what it wrote is the same
                raise
        finally:
            for part in parts:
                shutil.rmtree(part, ignore_errors=True)

    def _write_frames(self, folders: Sequence[Folder], parts: Sequence[Path], shard: Shard) -> None:
        split = self.source.split
        arrays = {
            one: _Rows(part / f"{one.name}.npy", shard.frames)
            for folder, part in zip(folders, parts, strict=True)
            for one in folder.files
        }
        sizes = []
        try:
            for inside in batches(shard.frames, AT_ONCE):
                began = time.perf_counter()
                indices = [shard.first + i for i in inside]
                frames = [split.frame(i) for i in indices]
                values = self.source.values(frames, [one.name for one in arrays])
                for one, array in arrays.items():
                    # NaN is the largest of all; a class of probability 0 may be -inf.
                    if not values[one.name].amax(1).isfinite().all():
                        names = ", ".join(split.names[i] for i in indices)
                        what = f"map '{one.name.removeprefix('map_')}'" if one.name.startswith("map_") else "logits"
                        raise WeightsError(
                            f"the teacher's {what} of {names} can't be kept: they hold NaN or infinity; train the"
                            " teacher again, or look at these frames"
                        )
                    array.put(one.form.encoded(values[one.name]).cpu().numpy())
                sizes += [frame.shape[:2] for frame in frames]
                self._did(shard, inside[-1] + 1)
                if not self.told_time and self.left > 0:
                    seconds = math.ceil(self.left / AT_ONCE) * (time.perf_counter() - began) / self.processes
                    console.info(f"teacher cache: about {in_words(seconds)}")
                self.told_time = True
        finally:
            for array in arrays.values():
                array.close()
        for part in parts:
            with (part / "sizes.npy").open("xb") as file:
                np.save(file, np.array(sizes, np.int64), allow_pickle=False)
                file.flush()
                os.fsync(file.fileno())


class _Rows:
    """A ``.npy`` file of a known number of rows that is written from the first on, without a memory map: its pages
    would count as this process's memory, and a full disk end in SIGBUS instead of an exception."""

    def __init__(self, path: Path, count: int) -> None:
        self._file, self._count = path.open("xb"), count
        self._begun = False

    def put(self, rows: NDArray[Any]) -> None:
        if not self._begun:
            np.lib.format.write_array_header_1_0(  # type: ignore[no-untyped-call]
                self._file,
                {
                    "shape": (self._count, *rows.shape[1:]),
                    "fortran_order": False,
                    "descr": np.lib.format.dtype_to_descr(rows.dtype),
                },
            )
            self._begun = True
        self._file.write(np.ascontiguousarray(rows).data)

    def close(self) -> None:
        with self._file:
            self._file.flush()
            os.fsync(self._file.fileno())


def _size(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.3g} MB"
