import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rdd_deploy.losses.ranks import hardest_of_each, kth_smallest


@settings(max_examples=40)
@given(seed=st.integers(0, 10_000), count=st.integers(1, 300), steps=st.sampled_from([0, 3, 1000]))
def test_is_the_kth_smallest(seed: int, count: int, steps: int) -> None:
    """Also where numbers are alike, tiny or infinite."""
    g = torch.Generator().manual_seed(seed)
    values = torch.rand(count, generator=g) ** 9
    if steps:
        values = (values * steps).round() / steps
    values[torch.rand(count, generator=g) < 0.1] = torch.inf
    k = int(torch.randint(1, count + 1, (), generator=g))
    assert kth_smallest(values, torch.tensor(k)) == values.kthvalue(k).values


@settings(max_examples=40)
@given(seed=st.integers(0, 10_000), least=st.sampled_from([1, 3, 0.2, 1.0, 10_000]), steps=st.sampled_from([0, 4]))
def test_the_hardest_of_each_class(seed: int, least: float, steps: int) -> None:
    g = torch.Generator().manual_seed(seed)
    p, target = torch.rand(2, 6, 7, generator=g) ** 5, torch.randint(0, 4, (2, 6, 7), generator=g)
    target[:, :, :2] = 255
    target[target == 2] = 3  # one class isn't there
    if steps:
        p = (p * steps).round() / steps
    valid = target != 255
    kept = hardest_of_each(p, valid, target, 5, least)
    assert not kept[~valid].any()
    for c in (0, 1, 3):
        own = p[target == c].sort().values
        wanted = least if isinstance(least, int) else -int(-least * len(own) // 1)
        assert torch.equal(kept[target == c], p[target == c] <= own[min(wanted, len(own)) - 1])
    assert not hardest_of_each(p, valid, target, 5, 0).any()
