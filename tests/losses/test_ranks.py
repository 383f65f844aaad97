import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rdd_deploy.losses.ranks import kth_smallest


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
