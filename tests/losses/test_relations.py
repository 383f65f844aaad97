import pytest
import torch

from rdd_deploy.losses import relations
from rdd_deploy.losses.relations import gram_distance, relation_kl


@pytest.mark.parametrize("block", [1, 40, 1 << 22])
def test_value_and_gradients_whatever_the_block(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relations, "BLOCK", block)
    g = torch.Generator().manual_seed(0)
    own, other, columns, other_columns = (
        torch.randn(*size, generator=g).double() for size in ((7, 3), (7, 5), (9, 3), (9, 5))
    )
    results = []
    for slow in (False, True):
        a, b = own.clone().requires_grad_(), columns.clone().requires_grad_()
        if slow:
            log_s, log_t = ((x @ y.T / 0.3).log_softmax(1) for x, y in ((a, b), (other, other_columns)))
            value = (log_t.exp() * (log_t - log_s)).sum()
        else:
            value = relation_kl(a, other, b, other_columns, 0.3)
        (2 * value).backward()
        results.append((value, a.grad, b.grad))
    for got, expected in zip(*results, strict=True):
        assert torch.allclose(got, expected, atol=1e-12)


def test_one_tensor_as_rows_and_columns_gets_both_gradients() -> None:
    rows = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    other = torch.randn(4, 2, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: relation_kl(x, other, x, other, 0.5), rows)


def test_nothing_is_zero() -> None:
    for rows, columns in ((0, 3), (3, 0)):
        own, stored = torch.zeros(rows, 2, requires_grad=True), torch.zeros(columns, 2, requires_grad=True)
        value = relation_kl(own, own.detach(), stored, stored.detach(), 0.1)
        value.backward()
        assert value == 0
        assert not own.grad.any()
        assert not stored.grad.any()


def test_distance_of_gram_matrices() -> None:
    g = torch.Generator().manual_seed(0)
    own, other = torch.randn(2, 3, 5, generator=g).double().requires_grad_(), torch.randn(2, 3, 7, generator=g).double()
    expected = (own @ own.mT - other @ other.mT).square().sum((1, 2))
    assert torch.allclose(gram_distance(own, other), expected)
    assert torch.autograd.gradcheck(lambda x: gram_distance(x, other), own)
