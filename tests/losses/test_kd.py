import math

import pytest
import torch

from rdd_deploy.losses import LOSSES
from rdd_deploy.losses.kd import PixelKD, pixel_kd
from rdd_deploy.outputs import Output

VOID = 255


def drawn(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    target = torch.randint(0, 4, (2, 5, 6), generator=g)
    target[torch.rand(2, 5, 6, generator=g) < 0.3] = VOID
    return torch.randn(2, 4, 5, 6, generator=g), torch.randn(2, 4, 5, 6, generator=g), target


def oracle(student: torch.Tensor, teacher: torch.Tensor, target: torch.Tensor, temperature: float) -> float:
    total, count = 0.0, 0
    for n, y, x in (target != VOID).nonzero().tolist():
        s, t = ((z[n, :, y, x].double() / temperature).softmax(0).tolist() for z in (student, teacher))
        total += sum(b * math.log(b / a) for a, b in zip(s, t, strict=True))
        count += 1
    return temperature**2 * total / count


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_value_is_the_formulas(temperature: float) -> None:
    student, teacher, target = drawn()
    assert pixel_kd(student, teacher, target, temperature=temperature).item() == pytest.approx(
        oracle(student, teacher, target, temperature), abs=1e-5
    )
    assert (
        PixelKD(temperature=temperature)(Output(student, None), Output(teacher, None), target).item()
        == pixel_kd(student, teacher, target, temperature=temperature).item()
    )


@pytest.mark.parametrize("temperature", [0, -1, float("nan"), float("inf"), True])
def test_temperatures_that_no_loss_can_divide_by(temperature: float) -> None:
    for loss in (lambda: pixel_kd(*drawn(), temperature=temperature), lambda: PixelKD(temperature=temperature)):
        with pytest.raises(ValueError, match=r"^temperature is .*; expected a number above 0$"):
            loss()


def test_by_hand() -> None:
    # Teacher (3/4, 1/4), student (1/2, 1/2).
    teacher, student = torch.tensor([math.log(3), 0.0]).view(1, 2, 1, 1), torch.zeros(1, 2, 1, 1)
    expected = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert pixel_kd(student, teacher, torch.zeros(1, 1, 1, dtype=torch.long)).item() == pytest.approx(expected, abs=1e-6)


def test_zero_at_identity_and_positive_elsewhere() -> None:
    student, teacher, target = drawn()
    assert pixel_kd(student, student, target).item() == 0
    assert pixel_kd(student, teacher, target).item() > 0


def test_void_is_inert_and_the_teacher_gets_no_gradient() -> None:
    student, teacher, target = drawn()
    spoilt = torch.where((target == VOID)[:, None], float("nan"), teacher)
    own, other = student.clone().requires_grad_(), student.clone().requires_grad_()
    teacher.requires_grad_()
    pixel_kd(own, teacher, target).backward()
    pixel_kd(other, spoilt, target).backward()
    assert own.grad is not None
    assert other.grad is not None
    assert torch.equal(own.grad, other.grad)
    assert (own.grad.permute(0, 2, 3, 1)[target == VOID] == 0).all()
    assert teacher.grad is None


def test_all_void_is_zero_with_a_zero_gradient() -> None:
    student, teacher, target = drawn()
    student.requires_grad_()
    loss = pixel_kd(student, teacher, torch.full_like(target, VOID))
    loss.backward()
    assert loss.item() == 0
    assert student.grad is not None
    assert (student.grad == 0).all()


def test_float32_under_autocast_and_finite_at_extremes() -> None:
    student, teacher, target = drawn()
    with torch.autocast("cpu", torch.bfloat16):
        assert pixel_kd(student, teacher, target).item() == pixel_kd(student, teacher, target).item()
        mixed = pixel_kd(student, teacher, target)
    assert mixed.dtype == torch.float32
    assert mixed.item() == pixel_kd(student, teacher, target).item()
    assert pixel_kd(1e4 * student, -1e4 * teacher, target).isfinite()


@pytest.mark.parametrize("name", ["kd", "cwd"])
def test_every_loss_of_the_table_takes_the_same_arguments(name: str) -> None:
    student, teacher, target = drawn()
    student.requires_grad_()
    value = LOSSES[name].load()()(Output(student, None), Output(teacher, None), target)
    value.backward()
    assert value.shape == ()
    assert value.dtype == torch.float32
    assert student.grad is not None
    assert student.grad.abs().sum() > 0
    assert LOSSES[name].load()()(Output(teacher, None), Output(teacher, None), target).item() == pytest.approx(0, abs=1e-7)
