"""Filling a teacher's cache: by all processes together, each its share of the frames, elsewhere first and then renamed."""

from __future__ import annotations

import math
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
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
from rdd_deploy.training.compact import Form
from rdd_deploy.training.forecast import in_words
from rdd_deploy.utils import files

AT_ONCE = 4
"""Frames of a batch; whole batches are shared out, so that a file doesn't depend on the number of processes."""


class Wanted(NamedTuple):
    """A file that a run needs.

    Attributes:
        name: of the file. shape: (planes, height, width); None: the teacher's own map says.
    """

    name: str
    form: Form
    shape: tuple[int, int, int] | None


class Folder(NamedTuple):
    """Files that lie in one folder, and what they depend on."""

    path: Path
    key: dict[str, Any]
    files: list[Wanted]


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
                    found["agreement"] = teacher_full_evaluated(output.primary, output.auxiliary, divergence=self.divergence)[:, None]
            if maps:
                with torch.autocast(self.device.type, dtype=self.precision, enabled=self.precision is not None):
                    features = self.teacher.logits_at_stride(pictures, maps).features
                found |= {f"map_{name}": features[name].float() for name in maps}
        return found


@contextmanager
def together(fabric: Fabric | None, what: str) -> Iterator[None]:
    """A block that each of several processes runs: where it fails in one, all raise, instead of waiting for that one for ever."""
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


def fill(source: Source, folders: Sequence[Folder], advance: Callable[[int], None], fabric: Fabric | None) -> None:
    """Fill those folders that aren't there; see ``cached_teacher``.

    Raises:
        DiskError, ValueError, WeightsError: as ``cached_teacher``; nothing half-written is left behind.
    """
    missing = _missing(folders) if _is_first(fabric) else []
    missing = missing if fabric is None else fabric.broadcast(missing)
    if missing:
        _fill(source, [folders[i] for i in missing], advance, fabric)
    with together(fabric, "fill the teacher cache"):
        if own := _missing(folders):  # on another machine, without a file system in common
            _fill(source, [folders[i] for i in own], advance, None)


def _is_first(fabric: Fabric | None) -> bool:
    return fabric is None or fabric.global_rank == 0


def _missing(folders: Sequence[Folder]) -> list[int]:
    return [i for i, folder in enumerate(folders) if not folder.path.is_dir()]


def _fill(source: Source, folders: Sequence[Folder], advance: Callable[[int], None], fabric: Fabric | None) -> None:
    """Fill folders elsewhere and rename them: each is there whole or not at all, also where two runs fill it at the same time."""
    first, what, place = _is_first(fabric), "fill the teacher cache", folders[0].path
    parts = [files.temporary_beside(folder.path) for folder in folders]
    parts = parts if fabric is None else fabric.broadcast(parts)
    there = [folder._replace(path=part) for folder, part in zip(folders, parts, strict=True)]
    try:
        with together(fabric, what), _disk_errors(place):
            if first:
                _make(source, there)
        share = _share(all((part / "sizes.npy").is_file() for part in parts), fabric)
        with together(fabric, what), _disk_errors(place):
            if share:
                _write(source, there, share, advance)
        with together(fabric, what), _disk_errors(place):
            if first:
                for part, folder in zip(parts, folders, strict=True):
                    hashes = {file.name: files.sha256(file) for file in sorted(part.iterdir())}
                    files.write_json(part / "key.json", folder.key | {"sha256": hashes})
                    _rename(part, folder.path)
    finally:
        if first:
            for part in parts:
                shutil.rmtree(part, ignore_errors=True)


@contextmanager
def _disk_errors(place: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DiskError(
            f"can't write the teacher cache {place}: {error.strerror or error}; free some space or set teacher.cache=false"
        ) from error


def _share(sees: bool, fabric: Fabric | None) -> tuple[int, int] | None:
    """This process's number among those that see the first one's files, and how many they are; None where it doesn't see them."""
    if fabric is None or fabric.world_size == 1:
        return 0, 1
    every = [bool(one) for one in fabric.all_gather(torch.tensor(float(sees), device=fabric.device)).flatten()]  # type: ignore[union-attr]
    return (sum(every[: fabric.global_rank]), sum(every)) if sees else None


class _Array:
    """A ``.npy`` file that is written in pieces, without a memory map: its pages would count as this process's memory, and a full disk end in
    SIGBUS instead of an exception."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("r+b")
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        self._start, self._row = array.offset, array[:1].nbytes

    @staticmethod
    def make(path: Path, shape: tuple[int, ...], dtype: Any) -> None:
        """A file of zeros, whose space is taken now."""
        with path.open("xb") as file:
            np.lib.format.write_array_header_1_0(  # type: ignore[no-untyped-call]
                file, {"shape": shape, "fortran_order": False, "descr": np.lib.format.dtype_to_descr(np.dtype(dtype))}
            )
            size = file.tell() + math.prod(shape) * np.dtype(dtype).itemsize
            file.truncate(size)
            file.flush()
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)

    def put(self, first: int, rows: NDArray[Any]) -> None:
        self._file.seek(self._start + first * self._row)
        self._file.write(np.ascontiguousarray(rows).data)

    def close(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()


def _make(source: Source, folders: Sequence[Folder]) -> None:
    """Files of zeros, after a look whether there is room for them."""
    beside = folders[0].path.parent
    beside.mkdir(parents=True, exist_ok=True)
    files.remove_parts(beside)
    source.teacher.eval()
    source.teacher.to(source.device)
    every = [one for folder in folders for one in folder.files]
    unknown = [one.name for one in every if one.shape is None]
    blank = np.zeros((*source.views.size, 3), np.uint8)
    shapes = {name: tuple(value.shape[1:]) for name, value in source.values([blank], unknown).items()} if unknown else {}
    shapes |= {one.name: one.shape for one in every if one.shape is not None}
    count = len(source.split)
    needed = sum(count * math.prod(shapes[one.name]) * np.dtype(one.form.dtype).itemsize for one in every)
    free = shutil.disk_usage(beside).free
    if free < needed * 1.05 + (64 << 10):  # looked at first, so that the error can say how much is needed; a few small files come with them
        raise DiskError(
            f"the teacher cache needs {_size(needed)} in {beside}, {_size(free)} are free; free some space or set teacher.cache=false"
        )
    console.info(f"teacher cache: {_size(needed)} to be written in {beside}, {_size(free)} are free")
    for folder in folders:
        folder.path.mkdir()
        for one in folder.files:
            _Array.make(folder.path / f"{one.name}.npy", (count, *shapes[one.name]), one.form.dtype)
        _Array.make(folder.path / "sizes.npy", (count, 2), np.int64)


def _size(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.3g} MB"


def _write(source: Source, folders: Sequence[Folder], share: tuple[int, int], advance: Callable[[int], None]) -> None:
    """Write this process's share of the frames, every so many batches of them."""
    number, count = share
    mine = list(batches(len(source.split), AT_ONCE))[number::count]
    source.teacher.eval()
    source.teacher.to(source.device)
    arrays = {one: _Array(folder.path / f"{one.name}.npy") for folder in folders for one in folder.files}
    sizes = [_Array(folder.path / "sizes.npy") for folder in folders]
    began = time.perf_counter()
    for done, indices in enumerate(mine):
        frames = [source.split.frame(i) for i in indices]
        values = source.values(frames, [one.name for one in arrays])
        for one, array in arrays.items():
            try:
                kept = one.form.encoded(values[one.name])
            except ValueError as error:
                names = ", ".join(source.split.names[i] for i in indices)
                raise WeightsError(
                    f"the teacher's logits of {names} can't be kept: {error}; train the teacher again, or look at these frames"
                ) from error
            array.put(indices.start, kept.cpu().numpy())
        for written in sizes:
            written.put(indices.start, np.array([frame.shape[:2] for frame in frames], np.int64))
        advance(len(indices) * count)
        if done == 0 and len(mine) > 1:
            console.info(f"teacher cache: about {in_words((len(mine) - 1) * (time.perf_counter() - began))}")
    for array in (*arrays.values(), *sizes):
        array.close()


def _rename(part: Path, place: Path) -> None:
    try:
        os.rename(part, place)
    except OSError:
        if not (place / "key.json").is_file():  # else another run was faster, and its cache is the same
            raise
