"""A crop's part of a file says what the whole frame says, beyond the frame too."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rdd_deploy.data.config import Augment
from rdd_deploy.data.transforms import RandomScaleCrop, cut_logits
from rdd_deploy.training import teacher_stores
from rdd_deploy.training.compact import EveryClass, Halves
from rdd_deploy.training.teacher_stores import Store, Values, parts_of


@settings(max_examples=80)
@given(
    seed=st.integers(0, 100_000), stride=st.sampled_from([1, 2, 4]), count=st.integers(1, 4), low=st.sampled_from([0.4, 1.0, 2.5]),
    frame=st.sampled_from([(96, 120), (37, 61), (64, 33)]), size=st.sampled_from([(64, 48), (32, 40)]), sizes=st.booleans(),
)  # fmt: skip
def test_parts_are_the_whole(
    seed: int, stride: int, count: int, low: float, frame: tuple[int, int], size: tuple[int, int], sizes: bool
) -> None:
    torch.manual_seed(seed)
    grid = -(-frame[0] // stride), -(-frame[1] // stride)
    whole = torch.randn(count, 3, *grid)
    frames = np.array([(frame[0] + (i if sizes else 0), frame[1]) for i in range(count)])
    crops = RandomScaleCrop(Augment(crop=size, scale=(low, low + 0.5)), frame)
    windows = torch.tensor([[int(v) for v in crops.draw(*map(int, one))] for one in frames])
    corners, (height, width) = parts_of(windows.numpy(), frames, grid)
    parts = torch.stack([one[:, y : y + height, x : x + width] for one, (y, x) in zip(whole, corners, strict=True)])
    got = Values(parts, torch.from_numpy(corners), grid).cut(
        windows, torch.from_numpy(frames if sizes else frames[:1]).float(), size
    )
    expected = torch.cat(
        [cut_logits(whole[i : i + 1], windows[i : i + 1], (int(h), int(w)), size) for i, (h, w) in enumerate(frames)]
    )
    assert (got - expected).abs().max() < 1e-3
    if not sizes:  # what a dense cache does: not a bit changes
        assert torch.equal(
            Values(whole, None, grid).cut(windows, torch.from_numpy(frames[:1]).float(), size),
            cut_logits(whole, windows, frame, size),
        )


def test_zoomed_in_only_a_part_is_read() -> None:
    corners, size = parts_of(np.array([[40, 60, 20, 30, 0], [0, 0, 10, 10, 1]]), np.array([[96, 120]]), (48, 60))
    assert size == (12, 17)
    assert corners.tolist() == [[19, 29], [0, 0]]


def test_a_store_is_sent_as_its_paths_and_may_live_on_a_device(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 256, (5, 2, 300, 400), np.uint8)
    np.save(tmp_path / "a.npy", values[:2])
    np.save(tmp_path / "b.npy", values[2:])
    store = Store([(tmp_path / "a.npy", 2), (tmp_path / "b.npy", 3)], EveryClass(3, 5))
    assert np.array_equal(store.array, values)
    assert (store.shape, store.nbytes, store.grid) == (values.shape, values.nbytes, (300, 400))
    sent = pickle.dumps(store)
    assert len(sent) < 1000
    again = pickle.loads(sent)
    indices, corners = np.array([3, 0]), np.array([[0, 5], [200, 100]])
    part = again.parts(indices, corners, (100, 300))
    assert torch.equal(part, torch.from_numpy(np.stack([values[3, :, :100, 5:305], values[0, :, 200:300, 100:]])))
    assert not again.is_resident
    again.to(torch.device("cpu"))
    assert torch.equal(again.whole(torch.tensor([4, 4, 1])), torch.from_numpy(values[[4, 4, 1]]))


def test_half_precision_is_kept_as_it_is(tmp_path: Path) -> None:
    values = torch.tensor([1e6, -1e6, 0.1]).view(1, 3, 1, 1)
    kept = Halves().encoded(values)
    assert kept.flatten().tolist() == [60000, -60000, float(torch.tensor(0.1).half())]
    np.save(tmp_path / "x.npy", kept.numpy())
    assert torch.equal(
        Store([(tmp_path / "x.npy", 1)], Halves()).parts(np.array([0, 0]), np.zeros((2, 2), np.int64), (1, 1)),
        kept.expand(2, -1, -1, -1),
    )


def test_of_many_files_the_last_used_are_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teacher_stores, "OPEN", 2)
    for number in range(5):
        np.save(tmp_path / f"{number}.npy", np.full((1, 1, 2, 2), number, np.uint8))
    store = Store([(tmp_path / f"{number}.npy", 1) for number in range(5)], EveryClass(3, 5))
    for index in (4, 0, 3, 3, 1, 2, 0):
        assert (store.frame(index) == index).all()
        assert len(store._opened) <= 2
