"""The guarded teacher boundary: frozen, eval, no gradient, never in a student's checkpoint; live, or from the dense cache.

The dense cache runs the teacher once over whole training frames at its own size, averaged over mirrored and scaled views, and stores
log-probabilities in float16. Each training crop then cuts its window from them, so a better teacher costs the student's run nothing.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rdd_deploy.data.base import Split
from rdd_deploy.data.loader import Batch
from rdd_deploy.data.transforms import cut_logits
from rdd_deploy.errors import DiskError
from rdd_deploy.metrics import batches
from rdd_deploy.models.teachers.base import TeacherModel
from rdd_deploy.models.tta import TestTimeAugmentation, _grid, _stack, tta_logits
from rdd_deploy.outputs import Output
from rdd_deploy.utils import files


class CachedTeacher:
    """Cuts each crop's window from the dense cache."""

    def __init__(self, primary: NDArray[np.float16], auxiliary: NDArray[np.float16] | None, sizes: NDArray[np.int64]) -> None:
        self.primary, self.auxiliary, self.sizes = primary, auxiliary, sizes

    def __call__(self, batch: Batch, auxiliary: bool, maps: Mapping[str, tuple[int, int]] = {}) -> Output:
        """As ``TeacherOutput``. Raises ValueError for maps, which the cache doesn't hold."""
        if maps:
            raise ValueError(f"the teacher's cache holds no maps, asked for {', '.join(sorted(maps))}; set teacher.cache=false")
        second = self._cut(self.auxiliary, batch) if auxiliary and self.auxiliary is not None else None
        return Output(self._cut(self.primary, batch), second)

    def _cut(self, store: NDArray[np.float16], batch: Batch) -> Tensor:
        device = batch.images.device
        index = batch.indices.cpu().numpy()
        logits = torch.from_numpy(store[index]).to(device, non_blocking=True)  # (N, C, h, w)
        height, width = batch.images.shape[-2:]
        sizes = {(int(h), int(w)) for h, w in self.sizes[index]}
        if len(sizes) == 1:
            return cut_logits(logits, batch.windows, sizes.pop(), (height, width))
        cuts = [
            cut_logits(logits[i : i + 1], batch.windows[i : i + 1], (int(h), int(w)), (height, width))
            for i, (h, w) in enumerate(self.sizes[index])
        ]
        return torch.cat(cuts)


def cached_teacher(
    teacher: TeacherModel,
    checkpoint_sha256: str,
    split: Split,
    frames_digest: str,
    views: TestTimeAugmentation,
    folder: Path,
    device: torch.device,
    precision: torch.dtype | None = None,
    advance: Callable[[int], None] = lambda _: None,
) -> CachedTeacher:
    """Open the dense cache for a teacher and a split, filling it first where it isn't there.

    Args:
        checkpoint_sha256, frames_digest: the cache belongs to exactly these weights and frames (in this order), views and precision.
        folder: where caches lie; one sub-folder each.
        advance: called with the number of frames done.

    Raises:
        DiskError: no space; nothing half-written is left behind.
    """
    key = {
        "format": 3, "checkpoint": checkpoint_sha256, "frames": frames_digest, "views": [views.size, views.scales, views.flip],
        "precision": str(precision or torch.float32),
    }  # fmt: skip
    place = folder / hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    names = ["primary", "auxiliary"] if teacher.has_auxiliary else ["primary"]
    if not place.is_dir():
        # Filled elsewhere and renamed: the folder is there whole or not at all, also where two runs fill it at the same time.
        part = files.temporary_beside(place)
        try:
            files.remove_parts(folder)
            part.mkdir(parents=True)
            _fill(teacher, split, views, part, names, device, precision, advance)
            files.write_json(part / "key.json", key | {"sha256": {file.name: files.sha256(file) for file in sorted(part.iterdir())}})
            _rename(part, place)
        except OSError as error:
            raise DiskError(
                f"can't write the teacher cache {place}: {error.strerror or error}; free some space or set teacher.cache=false"
            ) from error
        finally:
            shutil.rmtree(part, ignore_errors=True)
    try:
        stores, sizes = _opened(place, names, (len(split), teacher.classes, *_grid(views)))
    except (OSError, ValueError, EOFError, AttributeError) as error:  # the last: a key of another form
        raise DiskError(f"the teacher cache {place} is damaged ({error}); delete that folder, it is filled again") from error
    return CachedTeacher(stores[0], stores[1] if len(stores) > 1 else None, sizes)


def _opened(place: Path, names: list[str], shape: tuple[int, ...]) -> tuple[list[NDArray[np.float16]], NDArray[np.int64]]:
    """A cache's arrays of logits (frames, classes, height, width) and the frames' sizes.

    Raises:
        OSError, EOFError, ValueError, AttributeError: a file is missing, or isn't what was written.
    """
    key = files.parse_json((place / "key.json").read_bytes())
    for file, expected in key.get("sha256", {}).items():  # caches of earlier versions have none
        if files.sha256(place / file) != expected:
            raise ValueError(f"{file} isn't what was written")
    stores = [np.load(place / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in names]
    sizes = np.load(place / "sizes.npy", allow_pickle=False)
    if any((store.shape, store.dtype) != (shape, np.float16) for store in stores):
        raise ValueError(f"it holds {stores[0].dtype}{list(stores[0].shape)}, expected float16{list(shape)}")
    if (sizes.shape, sizes.dtype) != ((shape[0], 2), np.int64) or sizes.min() < 1:
        raise ValueError("it doesn't hold the size of each frame")
    return stores, sizes


def _rename(part: Path, place: Path) -> None:
    try:
        os.rename(part, place)
    except OSError:
        if not (place / "key.json").is_file():  # else another run was faster, and its cache is the same
            raise


def _fill(
    teacher: TeacherModel,
    split: Split,
    views: TestTimeAugmentation,
    place: Path,
    names: list[str],
    device: torch.device,
    precision: torch.dtype | None,
    advance: Callable[[int], None],
) -> None:
    grid = _grid(views)
    shape = (len(split), teacher.classes, *grid)
    needed = 2 * math.prod(shape) * len(names)
    _check_space(place, needed)
    stores = [np.lib.format.open_memmap(place / f"{name}.npy", mode="w+", dtype=np.float16, shape=shape) for name in names]
    for name in names:
        _reserve(place / f"{name}.npy")
    sizes = np.zeros((len(split), 2), np.int64)
    teacher.eval()
    teacher.to(device)
    for indices in batches(len(split), 4):
        frames = [split.frame(i) for i in indices]
        sizes[indices.start : indices.stop] = [frame.shape[:2] for frame in frames]
        with torch.inference_mode():
            output = tta_logits(teacher, _stack(frames, views.size).to(device), views, grid, precision)
        for store, logits in zip(stores, output[:2], strict=False):
            assert logits is not None
            store[indices.start : indices.stop] = logits.clamp(-60000, 60000).half().cpu().numpy()
        advance(len(indices))
    for store in stores:
        store.flush()
    np.save(place / "sizes.npy", sizes, allow_pickle=False)


def _reserve(path: Path) -> None:
    """Take a sparse file's space now: a memory map on a full disk ends in SIGBUS, not in an exception."""
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


def _check_space(place: Path, needed: int) -> None:
    """Look first, so that the error can say how much is needed."""
    free = shutil.disk_usage(place).free
    if free < needed * 1.05:
        raise DiskError(
            f"the teacher cache needs {needed / 1e9:.1f} GB in {place}, {free / 1e9:.1f} GB are free; free some space or set teacher.cache=false"
        )
