"""Crops placed on rare classes show them, from every frame once an epoch, and are cut alike by the loader and in batch."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rdd_deploy.data.base import IGNORE, LabelSpace, Split
from rdd_deploy.data.config import Augment
from rdd_deploy.data.loader import CropDataset, DrawDataset, FrameCache, training_loader
from rdd_deploy.data.rare_crops import RarePlaces
from rdd_deploy.data.resident import ResidentFrames
from rdd_deploy.data.sampler import ResumableBatchSampler
from rdd_deploy.data.transforms import RandomScaleCrop

SPOT, POLE, NEVER = 1, 2, 3


class Spots(Split):
    """Frames of class 0; in every second one lie a spot of 3 x 3 pixels and a pole, the last one is void."""

    label_space = LabelSpace(("ground", "spot", "pole", "never"), ((0, 0, 0),) * 4)

    def __init__(self, count: int, size: tuple[int, int] = (120, 160)) -> None:
        self.size, self.names = size, [str(i) for i in range(count)]

    def frame(self, index: int) -> np.ndarray:
        return np.random.default_rng(index).integers(0, 256, (*self.size, 3), np.uint8)

    def labels(self, index: int) -> np.ndarray:
        if index == len(self) - 1:
            return np.full(self.size, IGNORE, np.uint8)
        labels = np.zeros(self.size, np.uint8)
        if index % 2:
            y, x = np.random.default_rng([index, 1]).integers(0, (self.size[0] - 3, self.size[1] - 3))
            labels[:, -1] = POLE
            labels[y : y + 3, x : x + 3] = SPOT
        return labels


def places(split: Split) -> RarePlaces:
    return RarePlaces(len(split), split.labels, len(split.label_space))


@settings(max_examples=15)
@given(
    seed=st.integers(0, 9999), scale=st.sampled_from([(0.4, 0.5), (0.5, 2.0), (1.0, 1.0), (2.0, 4.0)]), crop=st.sampled_from([(32, 32), (32, 40), (80, 90)])
)  # fmt: skip
def test_a_crop_shows_a_class_that_its_frame_holds(
    seed: int, scale: tuple[float, float], crop: tuple[int, int]
) -> None:
    split = Spots(6)
    transform = RandomScaleCrop(Augment(crop=crop, scale=scale, rare_crops=1.0), (120, 160), places(split))
    frames = FrameCache(split, None)
    sampler = ResumableBatchSampler(6, 3, 4, seed)
    batches = list(training_loader(CropDataset(frames, transform, seed), sampler, 0, False))
    seen = torch.cat([batch.indices for batch in batches])
    assert seen.bincount().tolist() == [4] * 6, "an epoch is a pass over all frames"
    windows = torch.cat([batch.windows for batch in batches])
    holding = 0
    for index, labels, window in zip(
        seen.tolist(), torch.cat([b.labels for b in batches]), windows.tolist(), strict=True
    ):
        if index % 2 and index != 5:
            top, left, height, width, _ = window
            part = split.labels(index)[max(0, top) : top + height, max(0, left) : left + width]
            assert part.size
            holding += bool({SPOT, POLE} & set(labels.unique().tolist())) or bool({SPOT, POLE} & set(part.ravel()))
    assert holding >= 6, "of 8 crops; the ground is drawn once in a hundred"
    resident = ResidentFrames(frames, transform, torch.device("cpu"))
    drawn = training_loader(DrawDataset(resident.sizes, transform, seed), sampler, 0, False)
    for expected, draws in zip(batches, drawn, strict=True):
        got = resident.batch(draws)  # type: ignore[arg-type]
        assert torch.equal(got.windows, expected.windows)
        assert torch.equal(got.labels, expected.labels)


def test_the_pixel_that_was_drawn_is_shown() -> None:
    """Also where the crop skips pixels: one pixel of a class, at half the size."""
    split = Spots(2, (128, 128))
    single = np.zeros((128, 128), np.uint8)
    single[27, 100] = NEVER
    lone = RarePlaces(1, lambda _: single, 4)
    transform = RandomScaleCrop(Augment(crop=(32, 32), scale=(0.5, 1.5), rare_crops=1.0), (128, 128), lone)
    image = torch.from_numpy(split.frame(0)).permute(2, 0, 1)
    shown = [bool((transform(image, torch.from_numpy(single), 0).labels == NEVER).any()) for _ in range(100)]
    assert sum(shown) > 90, "1 pixel against 16383 is drawn at 128 / 129"
    anywhere = [bool((transform(image, torch.from_numpy(single)).labels == NEVER).any()) for _ in range(100)]
    assert sum(anywhere) < 40, "without a frame's index a crop lies anywhere"


def test_classes_are_drawn_by_their_rarity() -> None:
    split = Spots(6)
    found = places(split)
    total = sum(np.bincount(split.labels(i).ravel(), minlength=256)[:4] for i in range(6))
    assert found.pixels.tolist() == total.tolist()
    expected = total[:3] ** -0.5 / (total[:3] ** -0.5).sum()
    assert found.chances(1) == pytest.approx(expected)
    assert found.chances(0) == pytest.approx([1.0])
    assert len(found.chances(5)) == len(found.chances(6)) == 0, "void, and a frame without labels"
    assert found.draw(5, 0.5, 0.5) is found.draw(6, 0.5, 0.5) is None
    at = np.linspace(0, 1, 1001)[:-1]
    drawn = [split.labels(1).ravel()[found.draw(1, u, 0.99)] for u in at]
    assert np.bincount(drawn, minlength=3) / 1000 == pytest.approx(expected, abs=0.002)


def test_a_share_of_the_crops() -> None:
    split = Spots(2, (200, 200))
    spot = np.zeros((200, 200), np.uint8)
    spot[100, 100] = SPOT
    augment = Augment(crop=(32, 32), scale=(1, 1), rare_crops=0.5)
    transform = RandomScaleCrop(augment, (200, 200), RarePlaces(1, lambda _: spot, 4))
    torch.manual_seed(0)
    image = torch.from_numpy(split.frame(0)).permute(2, 0, 1)
    shown = sum(bool((transform(image, torch.from_numpy(spot), 0).labels == SPOT).any()) for _ in range(400))
    assert 150 < shown < 260
