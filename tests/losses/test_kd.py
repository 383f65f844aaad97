import math
from typing import Any

import pytest
import torch
from loss_cases import agrees, at_centres, by_hand, evaluated
from loss_cases import drawn as case_drawn

from rdd_deploy.losses.kd import PixelKD, edge_band, pixel_kd, standardized
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


@pytest.mark.parametrize("temperature", [0, -1, float("nan"), float("inf"), True])
def test_temperatures_that_no_loss_can_divide_by(temperature: float) -> None:
    for loss in (lambda: pixel_kd(*drawn(), temperature=temperature), lambda: PixelKD(temperature=temperature)):
        with pytest.raises(ValueError, match=r"^temperature is .*; expected a number above 0$"):
            loss()


def test_by_hand() -> None:
    # Teacher (3/4, 1/4), student (1/2, 1/2).
    teacher, student = torch.tensor([math.log(3), 0.0]).view(1, 2, 1, 1), torch.zeros(1, 2, 1, 1)
    expected = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert pixel_kd(student, teacher, torch.zeros(1, 1, 1, dtype=torch.long)).item() == pytest.approx(
        expected, abs=1e-6
    )


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


def reference(temperature: float = 1.0, standardize: bool = False, weights: torch.Tensor | None = None) -> Any:
    def of(own: torch.Tensor, other: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        p, q = (logits.permute(0, 2, 3, 1)[labels != VOID] for logits in (own, other))  # (M, C)
        if standardize:
            p, q = ((z - z.mean(1, keepdim=True)) / z.std(1, correction=0, keepdim=True) for z in (p, q))
        log_p, log_q = (z.div(temperature).log_softmax(1) for z in (p, q))
        divergence = (log_q.exp() * (log_q - log_p)).sum(1)
        weight = torch.ones_like(divergence) if weights is None else weights[labels != VOID].double()
        return temperature**2 * (weight * divergence).sum() / weight.sum()

    return of


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("standardize", [False, True])
def test_at_the_logits_stride_it_is_the_formula(temperature: float, standardize: bool) -> None:
    agrees(PixelKD(temperature, standardize), case_drawn(), "logits", reference(temperature, standardize))


def test_at_the_target_s_size_it_is_pixel_kd() -> None:
    student, teacher, target = drawn()
    one, other = (Output(logits, None, {"logits": logits}) for logits in (student, teacher))
    assert PixelKD(2.0)(one, other, target).item() == pytest.approx(
        pixel_kd(student, teacher, target, temperature=2.0).item(), rel=1e-6
    )


def test_standardised_logits_by_hand() -> None:
    # (3, 1) and (−10, 30) have deviations of ±1 from their means in units of the standard deviation, so do 9 and 4: (1,
    # −1) against (−1, 1).
    p = 1 / (1 + math.exp(-2))
    expected = (1 - p) * math.log((1 - p) / p) + p * math.log(p / (1 - p))
    student, teacher = [[[3, 4, 0]], [[1, 9, 0]]], [[[-10, 4, 0]], [[30, 9, 9]]]
    assert by_hand("logits", student, teacher, [[0, 1, VOID]], PixelKD(standardize=True)) == pytest.approx(
        expected / 2, abs=1e-6
    )


@pytest.mark.parametrize("logit", [0.0, 0.1, -1e4])
def test_equal_logits_are_standardised_to_nothing(logit: float) -> None:
    logits = torch.full((1, 19, 2, 2), logit, requires_grad=True)
    got = standardized(logits)
    got.sum().backward()
    assert (got == 0).all()
    assert logits.grad is not None
    assert (logits.grad == 0).all()


def test_scale_and_offset_of_standardised_logits_change_nothing() -> None:
    case = case_drawn()
    moved = case._replace(student=case.student | {"logits": 1e3 * case.student["logits"] - 40})
    loss = PixelKD(2.0, standardize=True)
    torch.testing.assert_close(evaluated(loss, moved).value, evaluated(loss, case).value, rtol=1e-4, atol=0)


def naive_band(target: torch.Tensor, size: tuple[int, int], width: int) -> torch.Tensor:
    centres = at_centres(torch.arange(target[0].numel()).view(1, *target.shape[1:]), size)[0]
    band = torch.zeros(len(target), *size, dtype=torch.bool)
    for n in range(len(target)):
        for y in range(size[0]):
            for x in range(size[1]):
                row, column = divmod(int(centres[y, x]), target.shape[2])
                around = target[n, max(0, row - width) : row + width + 1, max(0, column - width) : column + width + 1]
                band[n, y, x] = len(set(around.flatten().tolist()) - {VOID}) > 1
    return band


@pytest.mark.parametrize("width", [1, 3, 10, 1000])
@pytest.mark.parametrize("size", [(6, 8), (5, 7), (24, 32), (1, 1)])
def test_the_band_is_where_labels_of_two_classes_are_near(width: int, size: tuple[int, int]) -> None:
    target = case_drawn(void=0.5).target
    target[1, :, 12:] = 3  # nothing but void on one side
    target[0, :15, :15] = VOID
    target[0, :12, 16:] = 2
    got = edge_band(target, size, width)
    assert torch.equal(got, naive_band(target, size, width))


def test_the_band_by_hand() -> None:
    # A pole one pixel wide between two cells' centres, and void, which is no class.
    target = torch.zeros(1, 1, 16, dtype=torch.long)
    target[..., 7] = 4
    target[..., 12:] = VOID
    assert edge_band(target, (1, 4), 2).tolist() == [[[False, True, False, False]]]  # around 2, 6, 10 and 14
    assert edge_band(target, (1, 4), 3).tolist() == [[[False, True, True, False]]]
    assert edge_band(target.to(torch.uint8), (1, 4), 1).tolist() == [[[False, True, False, False]]]


@pytest.mark.parametrize("weight", [0.25, 4.0])
def test_the_band_s_weight_is_in_a_weighted_mean(weight: float) -> None:
    case = case_drawn(void=0.2)
    case.target[:, :, :20] = torch.where(case.target[:, :, :20] == VOID, VOID, 1)
    band = edge_band(case.target, (6, 8), 3)
    counts = band[at_centres(case.target, (6, 8)) != VOID]
    assert 0 < counts.sum() < counts.numel()
    weights = torch.where(band, weight, 1.0)
    agrees(PixelKD(edge_weight=weight, edge_width=3), case, "logits", reference(weights=weights))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"standardize": 1}, "standardize is 1; expected true or false"),
        ({"edge_weight": 0}, "edge_weight is 0; expected a number above 0"),
        ({"edge_width": 0}, "edge_width is 0; expected a whole number, 1 or more"),
        ({"edge_width": 2.5}, "edge_width is 2.5; expected a whole number, 1 or more"),
        ({"void": "drop"}, "void is 'drop'; expected 'skip' or 'keep'"),
    ],
)
def test_options_that_are_none(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError) as error:
        PixelKD(**options)
    assert str(error.value) == sentence


def test_networks_of_other_classes() -> None:
    one, other = (Output(torch.zeros(1), None, {"logits": torch.zeros(1, classes, 2, 2)}) for classes in (3, 4))
    with pytest.raises(
        ValueError, match=r"^kd compares the networks class by class: the student has 3, the teacher 4$"
    ):
        PixelKD()(one, other, torch.zeros(1, 8, 8, dtype=torch.long))
