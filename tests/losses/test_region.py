import pytest
import torch
from torch.nn import functional as F

from rdd_deploy.losses.region import MOST_PIXELS, RegionLoss

VOID, CLASSES = 255, 4
KINDS = ("dice", "lovasz")


def drawn(seed: int = 0, size: tuple[int, int] = (8, 9)) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    target = torch.randint(0, CLASSES - 1, (2, *size), generator=g)  # the last class is absent
    target[torch.rand(2, *size, generator=g) < 0.3] = VOID
    return 2 * torch.randn(2, CLASSES, *size, generator=g), target


def sure(labels: torch.Tensor) -> torch.Tensor:
    """Logits that leave no doubt."""
    return 100.0 * F.one_hot(labels, CLASSES).permute(0, 3, 1, 2)


def overlaps(predicted: torch.Tensor, target: torch.Tensor, kind: str) -> float:
    """1 − mean overlap of hard labels over the classes that the labels hold, counted in sets."""
    found = []
    for c in range(CLASSES):
        inside, said = target == c, (predicted == c) & (target != VOID)
        if inside.any():
            both = int((inside & said).sum())
            found.append(
                2 * both / int(inside.sum() + said.sum()) if kind == "dice" else both / int((inside | said).sum())
            )
    return 1 - sum(found) / len(found)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(3))
def test_of_sure_predictions_it_is_one_minus_the_mean_overlap(kind: str, seed: int) -> None:
    """Lovász's extension and the soft Dice both are exact where every probability is 0 or 1."""
    logits, target = drawn(seed)
    predicted = logits.argmax(1)
    assert RegionLoss(kind)(sure(predicted), target).item() == pytest.approx(
        overlaps(predicted, target, kind), abs=1e-5
    )


@pytest.mark.parametrize("kind", KINDS)
def test_truth_costs_nothing(kind: str) -> None:
    _, target = drawn()
    assert RegionLoss(kind)(sure(torch.where(target == VOID, 0, target)), target).item() == pytest.approx(0, abs=1e-6)


def test_soft_values_by_hand() -> None:
    """Two pixels of class 0 and 1; the second is given p = 0.75 of class 0, the first p = 0.9."""
    p = torch.tensor([[0.9, 0.1], [0.75, 0.25]])
    logits, target = p.log().t().reshape(1, 2, 1, 2), torch.tensor([[[0, 1]]])
    dice = (2 * 0.9 / (1.65 + 1) + 2 * 0.25 / (0.35 + 1)) / 2
    assert RegionLoss("dice")(logits, target).item() == pytest.approx(1 - dice, abs=1e-6)
    # Errors of class 0: 0.75 (outside), 0.1 (inside): Jaccard loss 1/2 after the first, 1 after both: 0.75 · 1/2 + 0.1
    # · 1/2. Of class 1: 0.75 (inside), 0.1 (outside): 1 after the first already.
    assert RegionLoss("lovasz")(logits, target).item() == pytest.approx((0.425 + 0.75) / 2, abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_void_is_inert_and_all_void_is_zero(kind: str) -> None:
    logits, target = drawn()
    spoilt = torch.where((target == VOID)[:, None], torch.inf, logits).requires_grad_()
    logits.requires_grad_()
    RegionLoss(kind)(logits, target).backward()
    RegionLoss(kind)(spoilt, target).backward()
    assert logits.grad is not None
    assert spoilt.grad is not None
    assert logits.grad.abs().max() > 0
    assert torch.allclose(logits.grad, spoilt.grad, atol=1e-7)
    logits.grad = None
    nothing = RegionLoss(kind)(logits, torch.full_like(target, VOID))
    nothing.backward()
    assert nothing.item() == 0
    assert not logits.grad.any()


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_down_the_gradient_helps(kind: str) -> None:
    logits, target = drawn()
    logits.requires_grad_()
    before = RegionLoss(kind)(logits, target)
    (gradient,) = torch.autograd.grad(before, logits)
    assert RegionLoss(kind)(logits - gradient, target) < before


def test_lovasz_looks_at_every_so_many_th_pixel_of_large_images() -> None:
    side = int(MOST_PIXELS**0.5) + 10
    logits, target = drawn(size=(side, side))
    torch.testing.assert_close(
        RegionLoss("lovasz")(logits, target), RegionLoss("lovasz")(logits[..., ::2, ::2], target[:, ::2, ::2])
    )


def test_another_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="expected 'dice' or 'lovasz'"):
        RegionLoss("iou")  # type: ignore[arg-type]
