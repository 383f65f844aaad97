"""Crops whose size follows the run's progress: the same batches of frames, resumed anywhere, cut in batch or one by
one.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from toys import CLASSES, tree, write_data, write_recipe

from rdd_deploy.data.config import Augment
from rdd_deploy.data.loader import CropDataset, DrawDataset, FrameCache, training_loader
from rdd_deploy.data.open import open_split
from rdd_deploy.data.resident import ResidentFrames
from rdd_deploy.data.sampler import ResumableBatchSampler, SizedBatchSampler
from rdd_deploy.data.transforms import RandomScaleCrop
from rdd_deploy.errors import RecipeError
from rdd_deploy.recipe import load_recipe
from rdd_deploy.training import loop
from rdd_deploy.training.session import sizes
from rdd_deploy.training.supervised import train_recipe

SIZES = [(0.0, (32, 32)), (0.4, (40, 48)), (0.75, (64, 64))]


@given(count=st.integers(1, 20), epochs=st.integers(1, 5), start=st.integers(0, 9), others=st.sampled_from([0, 3]))
def test_sizes_change_by_the_step(count: int, epochs: int, start: int, others: int) -> None:
    def batches(start: int) -> list[list[Any]]:
        plain = ResumableBatchSampler(count, 4, epochs, 0, start, others=others, share=0.5)
        sized = list(SizedBatchSampler(plain, SIZES))
        assert [[key[:2] for key in keys] for keys in sized] == list(plain)
        return sized

    whole = batches(0)
    for step, keys in enumerate(whole):
        share = step / len(whole)
        assert {key[2] for key in keys} == {(32, 32) if share < 0.4 else (40, 48) if share < 0.75 else (64, 64)}
    start = min(start, len(whole))
    assert batches(start) == whole[start:]


@pytest.mark.parametrize("workers", [0, 1])
def test_cut_in_batch_they_are_the_same(tmp_path: Path, workers: int) -> None:
    frames = FrameCache(open_split("folder", write_data(tmp_path), "train", classes=CLASSES), None)
    transform = RandomScaleCrop(Augment(crop=(96, 96)), (64, 64))
    sampler = SizedBatchSampler(ResumableBatchSampler(6, 2, 2, 0), SIZES)
    resident = ResidentFrames(frames, transform, torch.device("cpu"))
    one_by_one = list(training_loader(CropDataset(frames, transform, 0), sampler, workers, False))
    drawn = training_loader(
        DrawDataset(resident.sizes, transform, 0), sampler, workers, False, lambda draws: {"i": draws.indices}
    )
    assert [tuple(batch.labels.shape[1:]) for batch in one_by_one] == [(32, 32)] * 3 + [(40, 48)] * 2 + [(64, 64)]
    for expected, draws in zip(one_by_one, drawn, strict=True):
        got = resident.batch(draws)  # type: ignore[arg-type]
        assert torch.equal(got.labels, expected.labels)
        assert (got.images.int() - expected.images.int()).abs().max() <= 4


def test_a_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = tree(write_data(tmp_path / "data"))
    content["train"] |= {"epochs": 2, "loggers": ["csv"], "progressive": [[0, 32], [0.5, [48, 40]]]}
    recipe = load_recipe(write_recipe(tmp_path / "toy.yaml", content))
    assert sizes(recipe) == ((64, 64), (32, 32), (48, 40))
    until_lost, seen = loop._until_lost, []

    def watched(loading: Iterator[Any], *more: Any) -> Iterator[Any]:
        for batch in until_lost(loading, *more):
            seen.append(tuple(batch.images.shape[2:]))
            yield batch

    monkeypatch.setattr(loop, "_until_lost", watched)
    run = train_recipe(recipe, tmp_path / "runs")
    assert seen == [(32, 32)] * 3 + [(48, 40)] * 3
    assert run.load_recipe().train.progressive == recipe.train.progressive


def test_a_size_that_no_step_has_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = tree(write_data(tmp_path / "data"))
    content["train"] |= {"epochs": 1, "loggers": ["csv"], "progressive": [[0, 32], [0.5, 48], [0.9, 64]]}
    train_recipe(load_recipe(write_recipe(tmp_path / "toy.yaml", content)), tmp_path / "runs")
    said = " ".join(capsys.readouterr().err.split())
    assert "train.progressive: of 3 steps none has the size that begins at 0.9; choose other shares" in said


@given(steps=st.integers(1, 40), shares=st.lists(st.floats(0, 0.999), max_size=4, unique=True))
def test_unused_sizes_are_those_that_no_batch_has(steps: int, shares: list[float]) -> None:
    begins = sorted({0.0, *shares})
    plain = ResumableBatchSampler(4 * steps, 4, 1, 0)
    sized = SizedBatchSampler(plain, [(share, (number, 0)) for number, share in enumerate(begins)])
    seen = {key[2][0] for keys in sized for key in keys}
    assert sized.unused == [share for number, share in enumerate(begins) if number not in seen]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("[[0.1, 64]]", "train.progressive begins its sizes at [0.1]; expected rising shares"),
        ("[[0, 64], [0, 96]]", "expected rising shares of the steps, the first 0"),
        ("[[0, 64], [1, 96]]", "the last below 1"),
        ("[[0, 8]]", "expected at least [32, 32]"),
        ("[[0, big]]", "got 'big', expected [height, width]"),
        ("64", "train.progressive: got 64"),
    ],
)
def test_mistakes(tmp_path: Path, given: str, said: str) -> None:
    path = write_recipe(tmp_path / "toy.yaml", tree(tmp_path))
    with pytest.raises(RecipeError) as raised:
        load_recipe(path, [f"train.progressive={given}"])
    assert said in str(raised.value)
