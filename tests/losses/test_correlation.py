import numpy as np
import pytest
import torch

from rdd_deploy.losses.correlation import batch_correlation, channel_correlation


def test_they_are_numpys() -> None:
    g = torch.Generator().manual_seed(0)
    own, other = torch.randn(2, 3, 4, 5, generator=g), torch.randn(2, 3, 4, 5, generator=g) + 50
    valid = torch.rand(2, 4, 5, generator=g) < 0.6
    got = batch_correlation(own, other, valid)
    for c in range(3):
        assert got[c].item() == pytest.approx(np.corrcoef(own[:, c][valid], other[:, c][valid])[0, 1], abs=1e-5)
    of_pixels = channel_correlation(own, other)
    assert of_pixels.shape == (2, 4, 5)
    assert of_pixels[1, 2, 3].item() == pytest.approx(np.corrcoef(own[1, :, 2, 3], other[1, :, 2, 3])[0, 1], abs=1e-4)


@pytest.mark.parametrize("value", [0.0, 0.1, 1e4])
def test_what_is_constant_has_none_though_its_mean_is_rounded(value: float) -> None:
    own = torch.full((2, 19, 7, 9), value, requires_grad=True)
    other = torch.randn(2, 19, 7, 9)
    for got in (batch_correlation(own, other, torch.ones(2, 7, 9, dtype=torch.bool)), channel_correlation(own, other)):
        assert (got == 0).all()
        own.grad = None
        got.sum().backward()
        assert own.grad is not None
        assert (own.grad == 0).all()


def test_epsilon_is_added_to_the_product_of_the_norms() -> None:
    own = torch.tensor([1.0, -1.0, 0.0, 0.0]).view(1, 1, 2, 2)
    assert batch_correlation(own, own, torch.ones(1, 2, 2, dtype=torch.bool), epsilon=2.0).item() == pytest.approx(
        2 / 4
    )
