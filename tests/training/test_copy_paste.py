"""Crops get a class of another crop of their batch: pixels, labels, and what a teacher says of both."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from gloo import together
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import CLASSES, tree, write_data, write_recipe

from rdd_deploy.data.base import IGNORE
from rdd_deploy.data.loader import Batch, BatchBeside, FrameCache
from rdd_deploy.data.open import open_split
from rdd_deploy.data.sampler import ResumableBatchSampler
from rdd_deploy.recipe import load_recipe
from rdd_deploy.training.copy_paste import Pasted, copy_pasted
from rdd_deploy.training.crops import TrainingCrops
from rdd_deploy.training.fabric import make_fabric

C, LABELLED = 5, 10


def crops(count: int, seed: int, size: int = 12) -> Batch:
    """Crops of noise; labels in blocks of 3 x 3; every third frame has none."""
    random = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, 3, size, size), generator=random, dtype=torch.uint8)
    small = torch.randint(0, C + 1, (count, size // 3, size // 3), generator=random, dtype=torch.uint8)
    labels = small.repeat_interleave(3, 1).repeat_interleave(3, 2)
    labels[labels == C] = IGNORE
    indices = torch.arange(count)
    indices[2::3] += LABELLED
    labels[indices >= LABELLED] = 0
    return Batch(images, labels, torch.zeros(count, 5, dtype=torch.int64), indices)


@settings(max_examples=60)
@given(count=st.integers(1, 9), seed=st.integers(0, 9999), share=st.sampled_from([0.0, 0.4, 1.0]))
def test_whole_classes_of_labelled_crops_are_copied(count: int, seed: int, share: float) -> None:
    batch = crops(count, seed)
    pasted = copy_pasted(batch, share, C, LABELLED, [seed])
    mask, shift, _ = pasted.pasted
    source = (torch.arange(count) + shift) % count
    assert torch.equal(pasted.indices, batch.indices)
    assert sorted(source.tolist()) == list(range(count)), "each is copied from once at most"
    for i in range(count):
        donor = int(source[i])
        assert torch.equal(pasted.labels[i], torch.where(mask[i], batch.labels[donor], batch.labels[i]))
        assert torch.equal(pasted.images[i], torch.where(mask[i], batch.images[donor], batch.images[i]))
        ids = set(batch.labels[donor][mask[i]].tolist())
        usable = donor != i and batch.indices[donor] < LABELLED and (batch.labels[donor] < C).any()
        if not usable or share == 0.0:
            assert not ids
        elif share == 1.0 or ids:
            (drawn,) = ids
            assert drawn < C
            assert torch.equal(mask[i], batch.labels[donor] == drawn), "all pixels of the class"
    again = copy_pasted(batch, share, C, LABELLED, [seed])
    assert torch.equal(again.images, pasted.images)


def test_rare_classes_are_drawn_more_often_and_a_share_gets_one() -> None:
    labels = torch.full((4, 40, 40), 3, dtype=torch.uint8)
    labels[:, :4, :4] = 1  # 16 of 1600 pixels: drawn 9.95 times as often
    none = torch.zeros(4, dtype=torch.int64)
    batch = Batch(torch.zeros(4, 3, 40, 40, dtype=torch.uint8), labels, none, torch.arange(4))
    pixels = torch.cat([copy_pasted(batch, 0.5, C, 4, [7, s]).pasted.mask.sum((1, 2)) for s in range(1000)])
    assert set(pixels.unique().tolist()) == {0, 16, 1584}
    assert (pixels > 0).float().mean() == pytest.approx(0.5, abs=0.04)
    ratio = (1584 / 16) ** 0.5
    assert (pixels[pixels > 0] == 16).float().mean() == pytest.approx(ratio / (1 + ratio), abs=0.03)


def test_crops_without_labels_do_not_make_their_zeros_common() -> None:
    labels = torch.zeros(4, 40, 40, dtype=torch.uint8)  # of the last two frames: no labels
    labels[:2, :, :10], labels[:2, :, 10:] = 0, 1
    batch = Batch(torch.zeros(4, 3, 40, 40, dtype=torch.uint8), labels, torch.zeros(4).long(), torch.arange(4))
    drawn = [copy_pasted(batch, 1.0, C, 2, [7, s]) for s in range(600)]
    pixels = torch.cat([one.pasted.mask.sum((1, 2)) for one in drawn])
    ratio = (1200 / 400) ** 0.5
    assert (pixels[pixels > 0] == 400).float().mean() == pytest.approx(ratio / (1 + ratio), abs=0.05)


def part_of(argument: tuple[int, int, int]) -> Any:
    """What one of several processes gets that have the crops of a few batches between them, and a map of theirs."""
    rank, ranks, count = argument
    sampler = ResumableBatchSampler(count, count, 1, 0, rank=rank, ranks=ranks)
    first = sum(sampler.lengths[:rank])
    own = slice(first, first + sampler.lengths[rank])
    result = []
    for seed in range(4):
        batch = Batch(*(one[own] for one in crops(count, seed)))
        pasted = copy_pasted(batch, 0.8, C, LABELLED, [seed], sampler.lengths)
        assert pasted.pasted is not None
        onto = pasted.pasted.onto(batch.images[:, :2].float())
        result.append([pasted.images, pasted.labels, pasted.indices, onto])
    return result


@pytest.mark.parametrize(("ranks", "count"), [(2, 2), (2, 7), (3, 7)])
def test_several_processes_paste_what_one_does(ranks: int, count: int) -> None:
    parts = together(part_of, [(rank, ranks, count) for rank in range(ranks)])
    changed = 0
    for seed in range(4):
        whole = crops(count, seed)
        pasted = copy_pasted(whole, 0.8, C, LABELLED, [seed])
        expected = [pasted.images, pasted.labels, pasted.indices, pasted.pasted.onto(whole.images[:, :2].float())]
        for index, one in enumerate(expected):
            assert torch.equal(one, torch.cat([part[seed][index] for part in parts]))
        changed += int((pasted.images != whole.images).any())
    assert changed


def test_maps_of_any_stride_follow() -> None:
    mask = torch.zeros(2, 8, 8, dtype=torch.bool)
    mask[0, :4, 4:] = True
    pasted = Pasted(mask, 1)
    values = torch.stack((torch.zeros(5, 8, 8), torch.ones(5, 8, 8)))
    assert torch.equal(pasted.onto(values)[0], mask[0].float().expand(5, 8, 8))
    assert torch.equal(pasted.onto(values)[1], values[1])
    small = pasted.onto(values[..., ::4, ::4])
    assert small[0, 0].tolist() == [[0, 1], [0, 0]]
    assert torch.equal(pasted.onto(values[:, 0]), pasted.onto(values)[:, 0])


@pytest.mark.parametrize("workers", [0, 1])
def test_a_run_that_goes_on_draws_the_same(tmp_path: Path, workers: int) -> None:
    content = tree(write_data(tmp_path / "data"))
    content["data"]["workers"] = workers
    frames = FrameCache(open_split("folder", content["data"]["root"], "train", classes=CLASSES), None)
    method: Any = SimpleNamespace(beside=lambda batch: {"index": batch.indices})

    def made(share: float, start: int) -> list[BatchBeside]:
        content["augment"] = content.get("augment", {}) | {"copy_paste": share}
        recipe = load_recipe(write_recipe(tmp_path / "toy.yaml", content))
        training = TrainingCrops(recipe, frames, method, make_fabric(recipe.train))
        return list(training.batches(ResumableBatchSampler(6, 3, 3, 0, start)))

    whole, plain = made(1.0, 0), made(0.0, 0)
    assert any((one.labels != other.labels).any() for one, other in zip(whole, plain, strict=True))
    assert not hasattr(plain[0], "pasted") or plain[0].pasted is None
    for one, other in zip(whole[2:], made(1.0, 2), strict=True):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.labels, other.labels)
        assert torch.equal(one.beside["index"], one.indices)
