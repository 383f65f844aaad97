import torch

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


def test_what_does_not_fit_goes_to_the_last_places_and_the_pointer_to_the_first() -> None:
    one = queues()
    before = one.vectors.clone()
    one.write([(0, 2), (1, 3), (0, 2)], rows(1, 2, 11, 12, 13, 3, 4))
    assert one.vectors[0, :4, 0].tolist() == [1, 2, 3, 4]
    assert one.vectors[1, :3, 0].tolist() == [11, 12, 13]
    assert torch.equal(one.vectors[0, 4], before[0, 4])
    assert one.pointer.tolist() == [4, 3]
    one.write([(0, 3), (1, 2)], rows(5, 6, 7, 14, 15))
    assert one.vectors[0, :, 0].tolist() == [1, 2, 5, 6, 7]
    assert one.vectors[1, :, 0].tolist() == [11, 12, 13, 14, 15], "it fits exactly"
    assert one.pointer.tolist() == [0, 0]
    one.write([(0, 4), (0, 3)], rows(20, 21, 22, 23, 30, 31, 32))  # within one step: the later ones stay
    assert one.vectors[0, :, 0].tolist() == [20, 21, 30, 31, 32]
    assert one.pointer.tolist() == [0, 0]


def test_more_than_there_are_places() -> None:
    one = queues(2)
    one.write([(0, 3), (1, 1)], rows(1, 2, 3, 4))
    assert one.vectors[0, :, 0].tolist() == [1, 2]
    assert one.vectors[1, 0, 0] == 4
    assert one.pointer.tolist() == [0, 1]
    one.write([], rows())
    assert one.pointer.tolist() == [0, 1]


def test_the_same_places_of_every_class_are_drawn() -> None:
    one = queues()
    one.write([(0, 5), (1, 5)], rows(0, 1, 2, 3, 4, 10, 11, 12, 13, 14))
    drawn = one.drawn(3, torch.Generator().manual_seed(1))
    assert drawn.dtype == torch.float32
    assert (drawn[3:, 0] - drawn[:3, 0]).tolist() == [10, 10, 10]
    assert one.drawn(9, torch.Generator()).shape == (10, 3)
