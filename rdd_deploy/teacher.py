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
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from rdd_deploy import files
from rdd_deploy.data.base import Frame, Labels, Split
from rdd_deploy.data.loader import Batch
from rdd_deploy.data.transforms import cut_logits
from rdd_deploy.errors import DiskError
from rdd_deploy.evaluate import Predict, batches
from rdd_deploy.frames import resize_frame, resize_labels
from rdd_deploy.models.heads import resized
from rdd_deploy.models.segmenter import Output, Segmenter

TeacherOutput = Callable[[Batch, bool], Output]
"""(batch, whether the auxiliary logits are needed) -> logits at the crops' size."""


@dataclass(frozen=True)
class Views:
    """Which views of a frame a teacher is averaged over.

    Args:
        size: (height, width) of the teacher's own frames; scale 1.
        scales: factors of that size. flip: also mirrored.
    """

    size: tuple[int, int]
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False

    @property
    def single(self) -> bool:
        """Whether there is nothing to average."""
        return len(self.scales) == 1 and not self.flip


class LiveTeacher:
    """Runs the teacher on the student's own crops, as the paper does, in the student's precision (``dtype`` None: float32)."""

    def __init__(self, segmenter: Segmenter, dtype: torch.dtype | None = None) -> None:
        self.segmenter, self.dtype = segmenter.eval().requires_grad_(False), dtype

    def __call__(self, batch: Batch, auxiliary: bool) -> Output:
        with torch.no_grad(), torch.autocast(batch.images.device.type, dtype=self.dtype, enabled=self.dtype is not None):
            return self.segmenter(batch.images)  # type: ignore[no-any-return]


class CachedTeacher:
    """Cuts each crop's window from the dense cache."""

    def __init__(self, primary: NDArray[np.float16], auxiliary: NDArray[np.float16] | None, sizes: NDArray[np.int64]) -> None:
        self.primary, self.auxiliary, self.sizes = primary, auxiliary, sizes

    def __call__(self, batch: Batch, auxiliary: bool) -> Output:
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


def averaged(segmenter: Segmenter, frames: Tensor, views: Views, grid: tuple[int, int], precision: torch.dtype | None = None) -> Output:
    """Logits of whole frames on a grid; over several views, the log of their mean probability.

    Args:
        frames: uint8 (N, 3, *views.size).
        grid: (height, width) of the result.

    Returns:
        float32 logits (N, C, *grid), auxiliary likewise or None.
    """
    sums: list[list[Tensor]] = [[], []]
    for scale in views.scales:
        size = [max(32, round(side * scale)) for side in views.size]
        scaled = frames if scale == 1 else resized(frames.float(), size).round_().to(torch.uint8)
        for mirrored in (False, True) if views.flip else (False,):
            view = scaled.flip(-1) if mirrored else scaled
            with torch.autocast(view.device.type, dtype=precision, enabled=precision is not None):
                output = segmenter.small(view)
            for kept, logits in zip(sums, output, strict=True):
                if logits is not None:
                    straight = logits.float().flip(-1) if mirrored else logits.float()
                    kept.append(resized(straight, grid) if views.single else F.log_softmax(resized(straight, grid), 1))
    primary, auxiliary = (torch.logsumexp(torch.stack(kept), 0) - math.log(len(kept)) if kept else None for kept in sums)
    assert primary is not None
    return Output(primary, auxiliary)


def averaged_predictor(segmenter: Segmenter, views: Views, device: torch.device | str, precision: torch.dtype | None = None) -> Predict:
    """A predictor over averaged views, so that a teacher is evaluated exactly as it teaches."""
    grid = _grid(views)

    def predict(frames: list[Frame]) -> list[Labels]:
        with torch.inference_mode():
            logits = averaged(segmenter, _stack(frames, views.size).to(device), views, grid, precision).primary
            labels = resized(logits, views.size).argmax(1).to(torch.uint8).cpu().numpy()
        return [resize_labels(one, frame.shape[:2]) for one, frame in zip(labels, frames, strict=True)]

    return predict


def _grid(views: Views) -> tuple[int, int]:
    """The cache's resolution: stride 2 of the teacher's frame where finer views are averaged in, else stride 4, the heads' own."""
    stride = 2 if max(views.scales) > 1 else 4
    return math.ceil(views.size[0] / stride), math.ceil(views.size[1] / stride)


def _stack(frames: list[Frame], size: tuple[int, int]) -> Tensor:
    return torch.from_numpy(np.stack([resize_frame(frame, size) for frame in frames])).permute(0, 3, 1, 2).contiguous()


def cached_teacher(
    segmenter: Segmenter,
    checkpoint_sha256: str,
    split: Split,
    frames_digest: str,
    views: Views,
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
    names = ["primary", "auxiliary"] if segmenter.auxiliary is not None else ["primary"]
    if not place.is_dir():
        # Filled elsewhere and renamed: the folder is there whole or not at all, also where two runs fill it at the same time.
        part = files.temporary_beside(place)
        try:
            files.remove_parts(folder)
            part.mkdir(parents=True)
            _fill(segmenter, split, views, part, names, device, precision, advance)
            files.write_json(part / "key.json", key | {"sha256": {file.name: files.sha256(file) for file in sorted(part.iterdir())}})
            _rename(part, place)
        except OSError as error:
            raise DiskError(
                f"can't write the teacher cache {place}: {error.strerror or error}; free some space or set teacher.cache=false"
            ) from error
        finally:
            shutil.rmtree(part, ignore_errors=True)
    try:
        stores, sizes = _opened(place, names, (len(split), segmenter.classes, *_grid(views)))
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
    segmenter: Segmenter,
    split: Split,
    views: Views,
    place: Path,
    names: list[str],
    device: torch.device,
    precision: torch.dtype | None,
    advance: Callable[[int], None],
) -> None:
    grid = _grid(views)
    shape = (len(split), segmenter.classes, *grid)
    needed = 2 * math.prod(shape) * len(names)
    _check_space(place, needed)
    stores = [np.lib.format.open_memmap(place / f"{name}.npy", mode="w+", dtype=np.float16, shape=shape) for name in names]
    for name in names:
        _reserve(place / f"{name}.npy")
    sizes = np.zeros((len(split), 2), np.int64)
    segmenter = segmenter.eval().to(device)
    for indices in batches(len(split), 4):
        frames = [split.frame(i) for i in indices]
        sizes[indices.start : indices.stop] = [frame.shape[:2] for frame in frames]
        with torch.inference_mode():
            output = averaged(segmenter, _stack(frames, views.size).to(device), views, grid, precision)
        for store, logits in zip(stores, output, strict=False):
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


def describe(views: Views) -> dict[str, Any]:
    """The views as JSON values, for the run's summary."""
    return {"height": views.size[0], "width": views.size[1], "scales": list(views.scales), "flip": views.flip}
