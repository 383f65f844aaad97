import numpy as np
import pytest
import torch
from torch.nn import functional as F

from rdd_deploy.losses.task import TaskLoss, class_weights

VOID = 255
KINDS = ("ce", "ohem", "balanced")


def drawn(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    target = torch.randint(0, 4, (2, 8, 9), generator=g)
    target[torch.rand(2, 8, 9, generator=g) < 0.3] = VOID
    return 2 * torch.randn(2, 4, 8, 9, generator=g), target


def made(kind: str) -> TaskLoss:
    return TaskLoss(kind, torch.tensor([1.0, 2.0, 0.5, 5.0]) if kind == "balanced" else None)


def test_values() -> None:
    logits, target = drawn()
    valid = (target != VOID).numpy()
    p = logits.double().softmax(1).numpy()
    true = np.take_along_axis(p, np.where(valid, target.numpy(), 0)[:, None], 1)[:, 0]
    assert made("ce")(logits, target).item() == pytest.approx(-np.log(true)[valid].mean(), abs=1e-5)
    weights = np.array([1.0, 2.0, 0.5, 5.0])[np.where(valid, target.numpy(), 0)]
    assert made("balanced")(logits, target).item() == pytest.approx(
        (-np.log(true) * weights)[valid].sum() / weights[valid].sum(), abs=1e-5
    )
    hard = valid & (true <= max(0.7, np.sort(true[valid])[8 - 1]))  # 5 % of 144 pixels are 7.2
    assert made("ohem")(logits, target).item() == pytest.approx(-np.log(true)[hard].mean(), abs=1e-5)


def test_ohem_keeps_at_least_its_share_of_easy_pixels() -> None:
    target = torch.zeros(1, 10, 10, dtype=torch.long)
    logits = torch.zeros(1, 2, 10, 10)
    logits[:, 0] = torch.linspace(3, 9, 100).view(10, 10)  # p > 0.95 everywhere
    expected = F.cross_entropy(logits.flatten(2)[..., :5], target.flatten(1)[:, :5])
    assert made("ohem")(logits, target).item() == pytest.approx(expected.item(), abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_void_is_inert(kind: str) -> None:
    logits, target = drawn()
    spoilt = torch.where((target == VOID)[:, None], float("inf"), logits).requires_grad_()
    logits.requires_grad_()
    made(kind)(logits, target).backward()
    made(kind)(spoilt, target).backward()
    assert logits.grad is not None
    assert spoilt.grad is not None
    assert torch.allclose(logits.grad, spoilt.grad, atol=1e-7)


@pytest.mark.parametrize("kind", KINDS)
def test_all_void_is_zero_with_a_zero_gradient(kind: str) -> None:
    logits, target = drawn()
    logits.requires_grad_()
    loss = made(kind)(logits, torch.full_like(target, VOID))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert (logits.grad == 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_float32_under_autocast(kind: str) -> None:
    logits, target = drawn()
    with torch.autocast("cpu", torch.bfloat16):
        mixed = made(kind)(logits, target)
    assert mixed.dtype == torch.float32
    assert mixed.item() == made(kind)(logits, target).item()


def test_class_weights_raise_the_rare_within_limits() -> None:
    weights = class_weights(torch.tensor([1_000_000, 10_000, 2_500, 1, 0]))
    assert weights.tolist() == pytest.approx([0.2, 0.5, 1.0, 5.0, 1.0])  # the median seen share is 2500's; 0 pixels: 1
    assert weights.dtype == torch.float32


def test_balanced_needs_weights() -> None:
    with pytest.raises(ValueError, match="needs class weights"):
        TaskLoss("balanced")
