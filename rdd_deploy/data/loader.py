"""Training samples in an order that depends on (seed, epoch, sample) alone: any worker count, any restart, the same
batches.
"""

from __future__ import annotations

import functools
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from multiprocessing.queues import Queue
from types import FrameType
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate, get_worker_info

from rdd_deploy.data.base import Labels, Split
from rdd_deploy.data.sampler import ResumableBatchSampler, SizedBatchSampler
from rdd_deploy.data.transforms import RandomScaleCrop
from rdd_deploy.data.unlabelled import JoinedSplit, Unlabelled
from rdd_deploy.errors import RddError
from rdd_deploy.utils import faults
from rdd_deploy.utils.machine import free_memory
from rdd_deploy.utils.signals import leave_to_parent


class LoadingError(RddError):
    """The next batch couldn't be loaded; everything is as after the step before."""


UNKNOWN_ROOM, LOOK_EVERY = 4e9, 5e8
"""Bytes of decoded frames that are kept where nobody says what is free, and after how many it is asked again."""


class Batch(NamedTuple):
    """images uint8 (N, 3, h, w); labels uint8 (N, h, w), int64 for losses; windows int64 (N, 5) in source pixels;
    indices int64 (N,) of the split.

    Labels of a frame without any are 0 in the frame and ``IGNORE`` beyond it; its index says that it has none.
    """

    images: Tensor
    labels: Tensor
    windows: Tensor
    indices: Tensor


class BatchBeside(NamedTuple):
    """A batch, and what was read beside it in the process that loaded it, by name.

    Windows, indices and ``beside`` are of the crops as they were before ``pasted`` (``training.copy_paste``) copied parts
    of them into each other.
    """

    images: Tensor
    labels: Tensor
    windows: Tensor
    indices: Tensor
    beside: Mapping[str, Tensor]
    pasted: Any = None


class Draws(NamedTuple):
    """What is random in the crops of a batch whose frames lie on a device: windows and indices as ``Batch``;
    recolourings float32 (N, 3, 6), empty without jitter; a batch's ``beside``, where something is read."""

    windows: Tensor
    indices: Tensor
    recolourings: Tensor
    beside: Mapping[str, Tensor] = {}
    size: tuple[int, ...] = ()
    """(height, width) of the crops; empty: the transform's own."""


Beside = Callable[[Any], Mapping[str, Tensor]]
"""Reads something beside a batch, by name; called in the loader's processes where there are some."""


class Room:
    """Bytes of decoded frames that stay in memory at most; splits may share it.

    In a loader's process there is none: what it kept would be for itself alone.

    Args:
        reserve: bytes that must stay free, whatever else takes memory meanwhile.
    """

    def __init__(self, size: float, reserve: float = 0.0) -> None:
        self._left, self._reserve, self._looked_at = size, reserve, size
        self._one_at_a_time, self._process = threading.Lock(), os.getpid()

    def take(self, size: int) -> bool:
        """Whether so many bytes fit; then they are taken."""
        if os.getpid() != self._process:
            return False
        with self._one_at_a_time:
            if self._reserve and self._looked_at - self._left > LOOK_EVERY:
                self._looked_at = self._left
                if (free := free_memory()) is not None and free < self._reserve:
                    self._left = 0.0
            fits = size <= self._left
            self._left -= size if fits else 0
            return fits

    def __reduce__(self) -> tuple[type[Room], tuple[int]]:
        return Room, (0,)


def room_for_frames(processes: int = 1) -> Room:
    """A third of what this machine or container has free, of as many processes of a training on it each its part; less
    where others take theirs meanwhile.
    """
    if (free := free_memory()) is None:
        return Room(UNKNOWN_ROOM / processes)
    return Room(free / 3 / processes, reserve=free / 3)


class FrameCache:
    """The decoded frames of a split as tensors, kept in memory once read, as many as there is room for."""

    def __init__(self, split: Split, keep: Room | None) -> None:
        self.split = split
        self._room = keep or Room(0)
        self._kept: dict[int, tuple[Tensor, Tensor]] = {}
        self.labelled = len(split)
        """Frames with labels, which come first."""

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Image uint8 (3, H, W) and labels uint8 (H, W)."""
        if index in self._kept:
            return self._kept[index]
        image = torch.from_numpy(self.split.frame(index)).permute(2, 0, 1).contiguous()
        pair = image, torch.from_numpy(self.split.labels(index))
        if self._room.take(sum(part.nbytes for part in pair)):
            self._kept[index] = pair
        return pair

    def labels(self, index: int) -> Labels:
        """Labels uint8 (H, W) alone."""
        return self._kept[index][1].numpy() if index in self._kept else self.split.labels(index)


class JoinedFrames(FrameCache):
    """Frames with labels, behind them others without, each kept by its own cache."""

    def __init__(self, labelled: FrameCache, others: FrameCache) -> None:
        assert isinstance(others.split, Unlabelled)
        self.split = JoinedSplit(labelled.split, others.split)
        self.labelled = len(labelled)
        self._parts = labelled, others

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        labelled, others = self._parts
        return labelled[index] if index < self.labelled else others[index - self.labelled]

    def labels(self, index: int) -> Labels:
        labelled, others = self._parts
        return labelled.labels(index) if index < self.labelled else others.labels(index - self.labelled)


Key: TypeAlias = tuple[int, int] | tuple[int, int, tuple[int, int]]


class CropDataset(Dataset[Any]):
    """Augmented crops; the key is (epoch, index), or (epoch, index, size) with another (height, width) than the
    transform's. In a loader's process an error is handed over as the sample.
    """

    def __init__(self, frames: FrameCache, transform: RandomScaleCrop, seed: int) -> None:
        self.frames, self.transform, self.seed = frames, transform, seed

    def __getitem__(self, key: Key) -> Batch | Exception:
        try:
            return self._crop(*key)  # type: ignore[no-any-return]
        except (RddError, OSError, MemoryError) as error:
            if get_worker_info() is None:
                raise
            return error  # raised there, it would reach the main process with the whole traceback as its text

    def _crop(self, epoch: int, index: int, size: tuple[int, int] | None = None) -> Any:
        image, labels = self.frames[index]
        with self._seeded(epoch, index):
            crop = self.transform(image, labels, index, size)
        return Batch(crop.image, crop.labels, torch.tensor([int(v) for v in crop.window]), torch.tensor(index))

    @contextmanager
    def _seeded(self, epoch: int, index: int) -> Iterator[None]:
        with torch.random.fork_rng(devices=[]):
            # The CPU's generator alone: torch.manual_seed would seed a GPU's dropout again with each sample that
            # is loaded in this process.
            torch.default_generator.manual_seed(
                int(np.random.SeedSequence([self.seed, epoch, index]).generate_state(1, np.uint64)[0] >> 1)
            )
            yield


class DrawDataset(CropDataset):
    """What ``CropDataset`` would draw of each crop, and no frames.

    Args:
        sizes: int (frames, 2), each frame's (height, width).
    """

    def __init__(self, sizes: Any, transform: RandomScaleCrop, seed: int) -> None:
        self.sizes, self.transform, self.seed = sizes, transform, seed

    def _crop(self, epoch: int, index: int, size: tuple[int, int] | None = None) -> Draws:
        with self._seeded(epoch, index):
            height, width = map(int, self.sizes[index])
            window, recolouring = self.transform.draw_all(height, width, index, size)
        colours = torch.zeros(0) if recolouring is None else torch.from_numpy(recolouring).float()
        return Draws(torch.tensor([int(v) for v in window]), torch.tensor(index), colours, size=size or ())


def _begin_worker(trainer: int, worker: int) -> None:
    leave_to_parent(trainer)
    Queue._on_queue_feeder_error = _HandedOver()  # type: ignore[attr-defined]


class _HandedOver:
    """Send the error in place of a batch that a loader's process can't send; else the trainer would wait for ever."""

    def __get__(self, queue: Any, kind: type) -> Callable[[Exception, Any], None]:
        return lambda error, item: queue.put((item[0], error))


def _collated(beside: Beside | None, samples: list[Batch | Exception]) -> Any:
    """A batch of samples, or the first error among them."""
    errors = [sample for sample in samples if isinstance(sample, Exception)]
    if errors:
        return errors[0]
    try:
        if isinstance(samples[0], Draws):
            draws = Draws(*(torch.stack(parts) for parts in list(zip(*samples, strict=True))[:3]))  # type: ignore[arg-type]
            draws = draws._replace(size=samples[0].size)
            return draws if beside is None else draws._replace(beside=beside(draws))
        batch: Batch = default_collate(samples)
        return (
            batch
            if beside is None
            else BatchBeside(batch.images, batch.labels, batch.windows, batch.indices, beside(batch))
        )
    except (RddError, OSError, MemoryError) as error:
        if get_worker_info() is None:
            raise
        return error


def batches(loader: Iterable[Batch | Exception]) -> Iterator[Batch]:
    """The batches of a loader.

    Raises:
        LoadingError: a file can't be read, or one of the loader's processes failed: one sentence.
    """
    steps: Iterator[Batch | Exception] | None = None
    apart = getattr(loader, "num_workers", 0) > 0
    _killed.clear()
    while True:
        batch: Batch | Exception | None = None
        try:
            steps = steps or iter(loader)
            if apart and _killed:
                raise _killed.pop()
            batch = next(steps)
            if apart:  # not before: a loader may begin its processes with the first batch
                _keep_for_the_next_batch()
            if isinstance(batch, Exception):
                raise batch
        except StopIteration:
            return
        except Exception as error:
            # What a killed process had handed over can't be fetched: that may be noticed before its end is. An error of
            # our own code there comes back with other words.
            unfetched = (
                batch is None
                and apart
                and isinstance(error, (EOFError, ConnectionError))
                and "in DataLoader worker process" not in str(error)
            )
            if (failure := faults.killed_worker() if unfetched else faults.as_error(error)) is None:
                raise
            raise LoadingError(str(failure)) from error
        yield batch


_killed: list[Exception] = []
"""What was told of killed processes of loaders since the newest one began."""


def _keep_for_the_next_batch() -> None:
    """Killed processes of loaders are told where the next batch is asked for.

    torch tells them in a handler of SIGCHLD, so in whatever line the trainer is at: while it saves a state, or in a log,
    whose failures don't end a training.
    """
    tell = signal.getsignal(signal.SIGCHLD)
    if threading.current_thread() is not threading.main_thread() or not callable(tell) or hasattr(tell, "keeps"):
        return

    def keep(number: int, frame: FrameType | None) -> None:
        try:
            tell(number, frame)
        except RuntimeError as error:
            _killed.append(error)

    keep.keeps = True  # type: ignore[attr-defined]
    signal.signal(signal.SIGCHLD, keep)


def training_loader(
    crops: CropDataset,
    sampler: ResumableBatchSampler | SizedBatchSampler,
    workers: int | None,
    pin: bool,
    beside: Beside | None = None,
    processes: int = 1,
) -> DataLoader[Batch]:
    """The loader of a run; worker processes only where cores are left for them.

    Args:
        processes: that train together on this machine, each with a loader.
    """
    cores = (os.cpu_count() or 1) // processes
    count = workers if workers is not None else (0 if cores <= 2 else min(8, cores // 2))
    # A loader draws its workers' seed from the global generator unless it has its own. That draw would come again after
    # a resume and shift every dropout mask behind it; the samples seed themselves.
    own = torch.Generator()
    # Forked, they read the frames that are kept here; Python 3.14 would hand each of them a copy.
    context = "fork" if count and sys.platform == "linux" else None
    return DataLoader(
        crops, batch_sampler=sampler, num_workers=count, multiprocessing_context=context, pin_memory=pin, generator=own, collate_fn=functools.partial(_collated, beside),
        worker_init_fn=functools.partial(_begin_worker, os.getpid()),
    )  # fmt: skip
