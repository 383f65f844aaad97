import numpy as np
import pytest
import torch
from unasked import unasked

from rdd_deploy.losses.queues import ClassQueues


def queues(places: int = 5) -> ClassQueues:
    return ClassQueues(2, places, 3, torch.Generator().manual_seed(0))


def rows(*numbers: float) -> torch.Tensor:
    return torch.tensor(numbers)[:, None].expand(-1, 3)


def test_random_unit_vectors_at_first() -> None:
    one = queues()
    assert one.vectors.dtype == torch.float16
    assert torch.allclose(one.vectors.float().norm(dim=2), torch.ones(2, 5), atol=1e-3)
    assert len(one.vectors.flatten(0, 1).unique(dim=0)) == 10
    assert torch.equal(one.vectors, queues().vectors)
    assert not one.pointer.any()


def write(one: ClassQueues, *images: dict[int, list[float]]) -> None:
    """Of each image the vectors of some classes, each of one number."""
    most = max((len(numbers) for image in images for numbers in image.values()), default=1)
    counts, vectors = torch.zeros(len(images), 2, dtype=torch.int64), torch.full((len(images), 2, most, 3), torch.nan)
    for n, image in enumerate(images):
        for c, numbers in image.items():
            counts[n, c] = len(numbers)
            vectors[n, c, : len(numbers)] = rows(*numbers)
    with unasked():
        one.write(counts, vectors)


def test_what_does_not_fit_goes_to_the_last_places_and_the_pointer_to_the_first() -> None:
    one = queues()
    before = one.vectors.clone()
    write(one, {0: [1, 2], 1: [11, 12, 13]}, {0: [3, 4]})
    assert one.vectors[0, :4, 0].tolist() == [1, 2, 3, 4]
    assert one.vectors[1, :3, 0].tolist() == [11, 12, 13]
    assert torch.equal(one.vectors[0, 4], before[0, 4])
    assert one.pointer.tolist() == [4, 3]
    write(one, {0: [5, 6, 7], 1: [14, 15]})
    assert one.vectors[0, :, 0].tolist() == [1, 2, 5, 6, 7]
    assert one.vectors[1, :, 0].tolist() == [11, 12, 13, 14, 15], "it fits exactly"
    assert one.pointer.tolist() == [0, 0]
    write(one, {0: [20, 21, 22, 23]}, {}, {0: [30, 31, 32]})  # within one step: the later ones stay
    assert one.vectors[0, :, 0].tolist() == [20, 21, 30, 31, 32]
    assert one.pointer.tolist() == [0, 0]


def test_more_than_there_are_places() -> None:
    one = queues(2)
    write(one, {0: [1, 2, 3], 1: [4]})
    assert one.vectors[0, :, 0].tolist() == [1, 2]
    assert one.vectors[1, 0, 0] == 4
    assert one.pointer.tolist() == [0, 1]
    before = one.vectors.clone()
    write(one, {}, {})
    write(one)
    assert one.pointer.tolist() == [0, 1]
    assert torch.equal(one.vectors, before)


@pytest.mark.parametrize("seed", range(8))
def test_writing_is_group_after_group(seed: int) -> None:
    """As a loop over the groups says it."""
    chance = np.random.default_rng(seed)
    places = int(chance.integers(1, 12))
    one, pointer = queues(places), [0, 0]
    expected = one.vectors[..., 0].tolist()
    number = 0
    for _ in range(4):
        images: list[dict[int, list[float]]] = []
        for _ in range(chance.integers(0, 5)):
            images.append({})
            for c in range(2):
                images[-1][c] = [number + i for i in range(chance.integers(0, 7))]
                number += len(images[-1][c])
                kept = images[-1][c][:places]
                begin = min(pointer[c], places - len(kept))
                expected[c][begin : begin + len(kept)] = kept
                pointer[c] = (begin + len(kept)) % places
        write(one, *images)
        assert one.vectors[..., 0].tolist() == expected
        assert one.pointer.tolist() == pointer


def test_the_same_places_of_every_class_are_drawn() -> None:
    one = queues()
    write(one, {0: [0, 1, 2, 3, 4], 1: [10, 11, 12, 13, 14]})
    drawn = one.drawn(3, torch.Generator().manual_seed(1))
    assert drawn.dtype == torch.float32
    assert (drawn[3:, 0] - drawn[:3, 0]).tolist() == [10, 10, 10]
    assert one.drawn(9, torch.Generator()).shape == (10, 3)
