import pytest
import torch
from loss_cases import VOID, agrees, by_hand, drawn

from rdd_deploy.losses.at import AttentionTransfer, attention


def reference(own: torch.Tensor, other: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    images = []
    for s, t, y in zip(own, other, labels, strict=True):
        valid = y != VOID
        q = [(features[:, valid] ** 2).sum(0) for features in (s, t)]
        images.append(((q[0] / q[0].norm() - q[1] / q[1].norm()) ** 2).sum())
    return torch.stack(images).mean()


def test_by_hand() -> None:
    # Squared sums over the two channels: (3, 4) and (4, 3), of length 5 each: 2 · (1/5)². The void pixel is in none of
    # them.
    student = [[[1.0, 2.0, 9.0]], [[2**0.5, 0.0, 9.0]]]
    teacher = [[[2.0, 3**0.5, -7.0]]]
    assert by_hand("head", student, teacher, [[0, 1, VOID]], AttentionTransfer()) == pytest.approx(2 / 25, abs=1e-6)
    # With it: (3, 4, 162) and (4, 3, 49).
    s, t = (3**2 + 4**2 + 162**2) ** 0.5, (4**2 + 3**2 + 49**2) ** 0.5
    expected = (3 / s - 4 / t) ** 2 + (4 / s - 3 / t) ** 2 + (162 / s - 49 / t) ** 2
    assert by_hand("head", student, teacher, [[0, 1, VOID]], AttentionTransfer(void="keep")) == pytest.approx(
        expected, rel=1e-5
    )


def test_value_and_gradient_are_the_formulas() -> None:
    agrees(AttentionTransfer(), drawn(), "head", reference)


def test_attention_of_nothing_and_of_large_features() -> None:
    features = torch.zeros(2, 3, 2, 2)
    features[1] = torch.tensor([3.0, 4.0, 0.0, 0.0]).sqrt().view(2, 2) * 1e9
    features.requires_grad_()
    got = attention(features)
    torch.testing.assert_close(got, torch.tensor([[0.0, 0.0, 0.0, 0.0], [0.6, 0.8, 0.0, 0.0]]))
    got.sum().backward()
    assert features.grad is not None
    assert (features.grad[0] == 0).all()
    assert features.grad.isfinite().all()
