"""Crops cut in batch from frames on a device are those that are cut one by one: labels bit for bit, pictures to a
rounding.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rdd_deploy.data.base import LabelSpace, Split
from rdd_deploy.data.config import Augment
from rdd_deploy.data.loader import Batch, BatchBeside, CropDataset, DrawDataset, FrameCache, training_loader
from rdd_deploy.data.resident import ResidentFrames, resident_frames, room_on
from rdd_deploy.data.sampler import ResumableBatchSampler
from rdd_deploy.data.transforms import RandomScaleCrop
from rdd_deploy.errors import DeviceError

CPU = torch.device("cpu")


class Frames(Split):
    label_space = LabelSpace(("a", "b"), ((0, 0, 0), (1, 1, 1)))

    def __init__(self, sizes: list[tuple[int, int]], smooth: bool) -> None:
        self.sizes, self.smooth = sizes, smooth
        self.names = [str(i) for i in range(len(sizes))]

    def frame(self, index: int) -> np.ndarray:
        rng, (height, width) = np.random.default_rng(index), self.sizes[index]
        if self.smooth:
            y, x = np.mgrid[:height, :width]
            return np.stack([y * 3 % 256, x * 2 % 256, (x + y) % 256], 2).astype(np.uint8)
        return rng.integers(0, 256, (height, width, 3), np.uint8)

    def labels(self, index: int) -> np.ndarray:
        return np.random.default_rng([index, 1]).integers(0, 200, self.sizes[index]).astype(np.uint8)


@settings(max_examples=20)
@given(
    seed=st.integers(0, 10_000), low=st.sampled_from([0.3, 0.5, 1.0, 2.0, 4.0]), jitter=st.sampled_from([0.0, 0.3, 1.0]), smooth=st.booleans(),
    crop=st.sampled_from([(32, 32), (48, 40), (96, 64)]), sizes=st.sampled_from([[(60, 80)] * 3, [(60, 80), (33, 97), (100, 41)]]),
)  # fmt: skip
def test_they_are_the_same_crops(
    seed: int, low: float, jitter: float, smooth: bool, crop: tuple[int, int], sizes: list[tuple[int, int]]
) -> None:
    frames = FrameCache(Frames(sizes, smooth), None)
    transform = RandomScaleCrop(Augment(crop=crop, scale=(low, 2 * low), jitter=jitter), (60, 80))
    resident = ResidentFrames(frames, transform, CPU)
    sampler = ResumableBatchSampler(3, 3, 2, seed)
    one_by_one = training_loader(CropDataset(frames, transform, seed), sampler, 0, False)
    drawn = training_loader(DrawDataset(resident.sizes, transform, seed), sampler, 0, False)
    for expected, draws in zip(one_by_one, drawn, strict=True):
        got = resident.batch(draws)  # type: ignore[arg-type]
        assert torch.equal(got.labels, expected.labels)
        assert torch.equal(got.windows, expected.windows)
        assert torch.equal(got.indices, expected.indices)
        assert (got.images.dtype, got.images.shape) == (torch.uint8, expected.images.shape)
        difference = (got.images.int() - expected.images.int()).abs()
        # A rounding apart before the jitter, which may stretch it by its contrast and saturation.
        assert difference.max() <= (1 if jitter == 0 else 3 if jitter < 1 else 8)
        assert difference.float().mean() < (0.05 if jitter == 0 else 0.35 if jitter < 1 else 0.6)


def test_what_is_read_beside_goes_along() -> None:
    frames = FrameCache(Frames([(60, 80)] * 4, True), None)
    transform = RandomScaleCrop(Augment(crop=(32, 32)), (60, 80))
    resident = ResidentFrames(frames, transform, CPU)
    read = lambda batch: {"twice": 2 * batch.indices}  # noqa: E731
    draws = next(
        iter(
            training_loader(
                DrawDataset(resident.sizes, transform, 0), ResumableBatchSampler(4, 2, 1, 0), 1, False, read
            )
        )
    )
    got = resident.batch(draws)  # type: ignore[arg-type]
    assert isinstance(got, BatchBeside)
    assert torch.equal(got.beside["twice"], 2 * got.indices)
    assert isinstance(resident.batch(draws._replace(beside={})), Batch)  # type: ignore[attr-defined]


def test_where_frames_lie(monkeypatch: pytest.MonkeyPatch) -> None:
    frames = FrameCache(Frames([(60, 80)] * 4, True), None)
    transform, gpu = RandomScaleCrop(Augment(crop=(32, 32)), (60, 80)), torch.device("cuda")
    size = 4 * 60 * 80 * 4
    assert resident_frames(frames, transform, CPU, "auto") is None
    with pytest.raises(DeviceError, match=r"^data\.device is gpu, but the training runs on cpu; set data\.device=auto"):
        room_on(CPU, "gpu")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (1000, 3 * size + 3))
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 2)
    assert room_on(gpu, "cpu") == 0
    assert room_on(gpu, "auto") == size - 1
    assert resident_frames(frames, transform, gpu, "auto") is None, "a byte too many"
    with pytest.raises(DeviceError, match=r"^data\.device is gpu, but the 4 frames take about 0\.0 GB"):
        resident_frames(frames, transform, gpu, "gpu")


def test_a_training_of_resident_frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop, as on a GPU: nothing waits for the host, and it learns what it learns from the loader's crops."""
    from toys import tree, write_data, write_recipe
    from unasked import unasked

    from rdd_deploy.recipe import load_recipe
    from rdd_deploy.training import crops
    from rdd_deploy.training.supervised import train_recipe

    content = tree(write_data(tmp_path / "data"))
    content["train"] |= {"epochs": 1, "warmup": 0, "loggers": ["csv"]}
    recipe = load_recipe(write_recipe(tmp_path / "toy.yaml", content))
    cut = ResidentFrames.batch
    by_loader = train_recipe(recipe, tmp_path / "loader")

    def watched(self: ResidentFrames, draws: object) -> object:
        with unasked():
            return cut(self, draws)  # type: ignore[arg-type]

    monkeypatch.setattr(ResidentFrames, "batch", watched)
    monkeypatch.setattr(
        crops, "resident_frames", lambda frames, transform, device, where: ResidentFrames(frames, transform, device)
    )
    on_device = train_recipe(recipe, tmp_path / "device")
    losses = [
        float((one.path / "metrics.csv").read_text().splitlines()[1].split(",")[3]) for one in (by_loader, on_device)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=0.02)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_cuts_the_same_crops() -> None:
    frames = FrameCache(Frames([(60, 80), (33, 97), (100, 41)], False), None)
    transform = RandomScaleCrop(Augment(crop=(48, 40)), (60, 80))
    here, there = (ResidentFrames(frames, transform, device) for device in (CPU, torch.device("cuda")))
    draws = next(
        iter(training_loader(DrawDataset(here.sizes, transform, 0), ResumableBatchSampler(3, 3, 1, 0), 0, False))
    )
    one = here.batch(draws)  # type: ignore[arg-type]
    other = there.batch(type(draws)(*(part.cuda() for part in draws[:3])))  # type: ignore[arg-type, union-attr]
    assert torch.equal(one.labels, other.labels.cpu())
    assert (one.images.int() - other.images.cpu().int()).abs().max() <= 2
