import math

import pytest
import torch
from loss_cases import VOID, agrees, by_hand, drawn, evaluated

from rdd_deploy.losses.dist import DIST


def rho(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    a, b = a - a.mean(), b - b.mean()
    return (a @ b) / (a.norm() * b.norm() + 1e-8)


def reference(beta: float, gamma: float):
    def of(own: torch.Tensor, other: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        p, q = (logits.softmax(1).permute(0, 2, 3, 1)[labels != VOID] for logits in (own, other))  # (M, C)
        pixels = torch.stack([rho(a, b) for a, b in zip(p, q, strict=True)]).mean()
        classes = torch.stack([rho(a, b) for a, b in zip(p.T, q.T, strict=True)]).mean()
        return beta * (1 - pixels) + gamma * (1 - classes)

    return of


def test_by_hand() -> None:
    # Two classes: within a pixel ρ is the sign, here 1, −1 and 1. Over the pixels, of either class: student (3/4, 3/4,
    # 1/2 …).
    ln3 = math.log(3)
    student, teacher = [[[ln3, ln3, -ln3, 9]], [[0, 0, 0, 0]]], [[[ln3, -ln3, -ln3, 0]], [[0, 0, 0, 9]]]
    labels = [[0, 0, 1, VOID]]
    assert by_hand("logits", student, teacher, labels, DIST(gamma=0)) == pytest.approx(1 - 1 / 3, abs=1e-5)
    # Deviations of (3/4, 3/4, 1/4) are 1/6 · (1, 1, −2), of (3/4, 1/4, 1/4) 1/6 · (2, −1, −1): ρ = 3 / 6, for both
    # classes.
    assert by_hand("logits", student, teacher, labels, DIST(beta=0)) == pytest.approx(0.5, abs=1e-5)
    assert by_hand("logits", student, teacher, labels, DIST(beta=2, gamma=3)) == pytest.approx(
        2 * 2 / 3 + 3 * 0.5, abs=1e-5
    )


@pytest.mark.parametrize(("beta", "gamma"), [(1.0, 1.0), (2.0, 0.0), (0.0, 0.5)])
@pytest.mark.parametrize("scale", [1.0, 6.0])
def test_value_and_gradient_are_the_formulas(beta: float, gamma: float, scale: float) -> None:
    case = drawn()
    sharp = case._replace(student=case.student | {"logits": scale * case.student["logits"]})
    agrees(DIST(beta, gamma), sharp, "logits", reference(beta, gamma), rel=2e-5)


def test_a_class_that_the_student_never_predicts_adds_a_constant() -> None:
    case = drawn()
    case.student["logits"][:, 2] = -60.0
    agrees(DIST(beta=0), case, "logits", reference(0, 1))
    got = evaluated(DIST(beta=0), case)
    assert got.gradients["logits"][:, 2].abs().max() < 1e-6, "its correlation is noise"
    assert got.value.item() > 1 / 5


@pytest.mark.parametrize("logit", [0.0, 0.1, 1e4])
def test_equal_logits_have_no_correlation_and_no_gradient(logit: float) -> None:
    case = drawn()
    case.student["logits"].fill_(logit)
    got = evaluated(DIST(2.0, 3.0), case)
    assert got.value.item() == pytest.approx(5.0, abs=1e-6)
    assert (got.gradients["logits"] == 0).all()


@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf, True, "1"])
def test_factors_that_are_none(value: object) -> None:
    for name in ("beta", "gamma"):
        with pytest.raises(ValueError, match=rf"^{name} is .*; expected a number, 0 or more$"):
            DIST(**{name: value})  # type: ignore[arg-type]
