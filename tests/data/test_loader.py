import math
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Dataset
from toys import CLASSES, write_data

from rdd_deploy.data import loader
from rdd_deploy.data.config import Augment
from rdd_deploy.data.frame_index import RECORD, FileSource
from rdd_deploy.data.ids import Ids
from rdd_deploy.data.loader import (
    Batch,
    CropDataset,
    FrameCache,
    JoinedFrames,
    LoadingError,
    Room,
    room_for_frames,
    training_loader,
)
from rdd_deploy.data.open import open_split
from rdd_deploy.data.sampler import ResumableBatchSampler, others_in
from rdd_deploy.data.transforms import RandomScaleCrop
from rdd_deploy.data.unlabelled import Unlabelled


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> FrameCache:
    root = write_data(tmp_path_factory.mktemp("data"), train=7, val=1)
    return FrameCache(open_split("folder", root, "train", classes=CLASSES), Room(math.inf))


def batches(frames: FrameCache, workers: int, start: int = 0, seed: int = 3) -> list[Batch]:
    crops = CropDataset(frames, RandomScaleCrop(Augment(crop=(48, 40)), (64, 64)), seed)
    return list(training_loader(crops, ResumableBatchSampler(len(frames), 3, 2, seed, start=start), workers, pin=False))


def same(a: list[Batch], b: list[Batch]) -> bool:
    return len(a) == len(b) and all(
        torch.equal(x, y) for one, other in zip(a, b, strict=True) for x, y in zip(one, other, strict=True)
    )


def test_batches_depend_on_seed_and_epoch_not_on_workers_or_the_generator(frames: FrameCache) -> None:
    torch.manual_seed(1)
    alone = batches(frames, 0)
    torch.manual_seed(2)
    assert same(alone, batches(frames, 0))
    assert same(alone, batches(frames, 2))
    assert not same(alone, batches(frames, 0, seed=4))


def test_a_restart_in_the_middle_gives_the_rest(frames: FrameCache) -> None:
    whole = batches(frames, 0)
    assert len(whole) == 4
    for start in range(5):
        assert same(whole[start:], batches(frames, 0, start=start))


@pytest.mark.parametrize("workers", [0, 2])
def test_loading_leaves_the_global_generators_alone(
    frames: FrameCache, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dropout draws from them: a resumed run opens one more loader than an uninterrupted one and must still draw the
    same. ``torch.manual_seed`` seeds those of GPUs, too.
    """
    torch.manual_seed(5)
    before = torch.get_rng_state()
    if not workers:  # which torch seeds
        monkeypatch.setattr(torch, "manual_seed", None)
    batches(frames, workers)
    assert torch.equal(before, torch.get_rng_state())


def test_types_and_shapes(frames: FrameCache) -> None:
    batch = batches(frames, 0)[0]
    assert (batch.images.dtype, tuple(batch.images.shape)) == (torch.uint8, (3, 3, 48, 40))
    assert (batch.labels.dtype, tuple(batch.labels.shape)) == (torch.uint8, (3, 48, 40))
    assert (batch.windows.dtype, tuple(batch.windows.shape)) == (torch.int64, (3, 5))
    assert (batch.indices.dtype, tuple(batch.indices.shape)) == (torch.int64, (3,))


@given(count=st.integers(1, 40), batch=st.integers(1, 12), epochs=st.integers(1, 3), seed=st.integers(0, 99))
def test_every_epoch_is_a_permutation_without_its_incomplete_batch(
    count: int, batch: int, epochs: int, seed: int
) -> None:
    sampler = ResumableBatchSampler(count, batch, epochs, seed)
    steps = list(sampler)
    assert len(steps) == len(sampler) == epochs * (count // min(batch, count))
    assert {len(step) for step in steps} == {min(batch, count)}
    for epoch in range(epochs):
        seen = [index for step in steps for at, index in step if at == epoch]
        assert len(seen) == len(set(seen)) == count - count % min(batch, count)


@given(count=st.integers(4, 40), batch=st.sampled_from([2, 4]), start=st.integers(0, 2), seed=st.integers(0, 99))
def test_ranks_share_each_batch(count: int, batch: int, start: int, seed: int) -> None:
    whole = list(ResumableBatchSampler(count, batch, 2, seed, start=start))
    parts = [list(ResumableBatchSampler(count, batch, 2, seed, start=start, rank=rank, ranks=2)) for rank in range(2)]
    assert [a + b for a, b in zip(*parts, strict=True)] == whole, "by rank, in the batch's own order"


@given(
    count=st.integers(2, 40), others=st.integers(1, 30), batch=st.integers(2, 16), share=st.floats(0, 0.99), seed=st.integers(0, 99), start=st.integers(0, 5)
)  # fmt: skip
def test_each_batch_holds_its_share_without_labels(
    count: int, others: int, batch: int, share: float, seed: int, start: int
) -> None:
    sampler = ResumableBatchSampler(count, batch, 3, seed, others=others, share=share)
    bare = others_in(batch, share)
    assert abs(bare - share * batch) <= max(0.5, share * batch - (batch - 1)) or bare == 1
    assert bool(bare) == bool(share)
    with_labels = min(batch - bare, count)
    steps = list(sampler)
    assert len(steps) == len(sampler) == 3 * (count // with_labels), "an epoch is a pass over the frames with labels"
    for step in steps:
        assert sorted(index >= count for _, index in step) == [False] * with_labels + [True] * bare
    for epoch in range(3):
        seen = [index for step in steps for at, index in step if index < count and at == epoch]
        assert len(seen) == len(set(seen)) == count - count % with_labels
    stream = [key for step in steps for key in step if key[1] >= count]
    assert [turn for turn, _ in stream] == [place // others for place in range(len(stream))]
    for turn in range(len(stream) // others):
        assert sorted(index - count for at, index in stream if at == turn) == list(range(others))
    start = min(start, len(steps))
    assert list(ResumableBatchSampler(count, batch, 3, seed, start, others=others, share=share)) == steps[start:]
    if not bare:
        assert steps == list(ResumableBatchSampler(count, batch, 3, seed))


@given(
    count=st.integers(8, 40),
    others=st.integers(1, 30),
    share=st.sampled_from([0.25, 0.5, 0.8]),
    start=st.integers(0, 2),
    seed=st.integers(0, 99),
)
def test_ranks_share_both_kinds(count: int, others: int, share: float, start: int, seed: int) -> None:
    whole = list(ResumableBatchSampler(count, 8, 2, seed, start, others=others, share=share))
    parts = [list(ResumableBatchSampler(count, 8, 2, seed, start, rank, 2, others, share)) for rank in range(2)]
    for step, *own in zip(whole, *parts, strict=True):
        assert own[0] + own[1] == step
        bare = [sum(index >= count for _, index in part) for part in own]
        assert len(own[0]) == len(own[1])
        assert abs(bare[0] - bare[1]) <= 1


@pytest.mark.parametrize("workers", [0, 2])
def test_frames_without_labels_are_loaded_alike(frames: FrameCache, workers: int) -> None:
    records = np.array([(0, bytes(16), 64, 64)] * 2, RECORD)
    pairs = frames.split.pairs  # type: ignore[attr-defined]
    source = FileSource(pairs[0][0].parent, [pairs[1][0].name, pairs[2][0].name])
    bare = Unlabelled(frames.split.label_space, [source], np.array([[0, 0], [0, 1]]), records)
    joined = JoinedFrames(frames, FrameCache(bare, None))
    assert (len(joined), joined.labelled) == (9, 7)
    sampler = ResumableBatchSampler(7, 4, 1, 3, others=2, share=0.5)
    crops = CropDataset(joined, RandomScaleCrop(Augment(crop=(48, 40), scale=(0.4, 0.6)), (64, 64)), 3)
    loaded = list(training_loader(crops, sampler, workers, pin=False))
    assert len(loaded) == 3
    for batch in loaded:
        bare = batch.indices >= 7
        assert bare.sum() == 2
        assert set(batch.labels[bare].unique().tolist()) == {0, 255}, "in the frame, and beyond it"
    # The frame of a later pass is cut anew, and the second pass begins after one batch.
    first, second = (
        sorted(zip(one.indices.tolist(), map(tuple, one.windows.tolist()), strict=True))[-2:] for one in loaded[:2]
    )
    assert [index for index, _ in first] == [index for index, _ in second] == [7, 8]
    assert {window for _, window in first} != {window for _, window in second}


def test_epochs_differ(frames: FrameCache) -> None:
    steps = list(ResumableBatchSampler(20, 20, 2, 0))
    assert [i for _, i in steps[0]] != [i for _, i in steps[1]]


def test_frames_are_read_once_where_they_are_kept(frames: FrameCache) -> None:
    reads = []

    class Counting(type(frames.split)):  # type: ignore[misc]
        def frame(self, index: int) -> np.ndarray:
            reads.append(index)
            return super().frame(index)

    split = Counting(frames.split.label_space, frames.split.pairs, Ids(3, void_ids=[255]))  # type: ignore[attr-defined]
    for room, expected in ((Room(64 * 64 * 4), 1), (Room(64 * 64 * 4 - 1), 3), (None, 3)):
        reads.clear()
        kept = FrameCache(split, room)
        for _ in range(3):
            image, labels = kept[2]
        assert len(reads) == expected
        assert (image.dtype, tuple(image.shape)) == (torch.uint8, (3, 64, 64))
        assert tuple(labels.shape) == (64, 64)


def test_no_worker_processes_where_no_cores_are_left(frames: FrameCache, monkeypatch: pytest.MonkeyPatch) -> None:
    crops = CropDataset(frames, RandomScaleCrop(Augment(crop=(48, 40)), (64, 64)), 0)
    counts = []
    for cores in (1, 2, 4, 64):
        monkeypatch.setattr(os, "cpu_count", lambda cores=cores: cores)
        counts.append(training_loader(crops, ResumableBatchSampler(7, 3, 1, 0), None, pin=False).num_workers)
    assert counts == [0, 0, 2, 8]
    sampler = ResumableBatchSampler(7, 3, 1, 0)
    assert training_loader(crops, sampler, None, pin=False, processes=8).num_workers == 4


def test_the_processes_of_a_training_share_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "free_memory", lambda: 48.0)
    for processes, expected in ((1, 16), (8, 2)):
        assert room_for_frames(processes).take(expected)
        assert not room_for_frames(processes).take(expected + 1)
    monkeypatch.setattr(loader, "free_memory", lambda: None)
    assert room_for_frames().take(10**9)


def test_what_others_take_meanwhile_is_left_to_them(monkeypatch: pytest.MonkeyPatch) -> None:
    free = [90e9]
    monkeypatch.setattr(loader, "free_memory", lambda: free[0])
    room = room_for_frames()
    assert room.take(10**9)
    free[0] = 29e9
    assert not room.take(1)
    free[0] = 90e9
    assert not room.take(1), "once is enough"


def test_a_loaders_process_keeps_nothing(frames: FrameCache) -> None:
    """Forked, it has the trainer's room before it, and nobody else would read what it kept."""

    class Kept(CropDataset):
        def _crop(self, epoch: int, index: int, size: tuple[int, int] | None = None) -> Batch:
            batch = super()._crop(epoch, index, size)
            return batch._replace(windows=torch.tensor([len(self.frames._kept)]))

    empty = FrameCache(frames.split, Room(math.inf))
    crops = Kept(empty, RandomScaleCrop(Augment(crop=(48, 40)), (64, 64)), 0)
    sampler = ResumableBatchSampler(len(frames), 3, 2, 0)
    assert not torch.cat([batch.windows for batch in training_loader(crops, sampler, 1, pin=False)]).any()
    assert torch.cat([batch.windows for batch in training_loader(crops, sampler, 0, pin=False)]).any()


@pytest.mark.parametrize("kind", [EOFError, ConnectionResetError, ConnectionRefusedError])
def test_what_a_killed_process_handed_over_can_not_be_fetched(kind: type[Exception]) -> None:
    """Its batch is noticed before its end is: a race, so played here."""

    class Lost:
        num_workers = 1

        def __iter__(self) -> Iterator[Batch]:
            raise kind

    with pytest.raises(LoadingError, match="a process of the data loader was killed"):
        next(loader.batches(Lost()))


class _Broken(Dataset[Any]):
    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> Any:
        raise EOFError("No data left in file")


def test_a_mistake_in_a_loaders_process_is_no_lost_process() -> None:
    with pytest.raises(EOFError, match="No data left in file"):
        next(loader.batches(DataLoader(_Broken(), num_workers=1, multiprocessing_context="fork")))


def test_a_connection_that_a_frame_needs_is_no_lost_process() -> None:
    class Unreachable:
        num_workers = 1

        def __iter__(self) -> Iterator[Exception]:
            yield ConnectionResetError(104, "Connection reset by peer", "/net/frame.png")

    with pytest.raises(LoadingError, match=r"can't use /net/frame\.png"):
        next(loader.batches(Unreachable()))
