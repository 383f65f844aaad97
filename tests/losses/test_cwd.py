import math
from typing import Any

import pytest
import torch
from loss_cases import VOID, agrees, by_hand, drawn, evaluated, made

from rdd_deploy.losses.cwd import ChannelWise, ChannelWiseFeatures
from rdd_deploy.outputs import Output


def reference(temperature: float, weight: torch.Tensor | None = None) -> Any:
    def of(own: torch.Tensor, other: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        if weight is not None:
            own = torch.einsum("ed,ndhw->nehw", weight, own)
        images = []
        for s, t, y in zip(own, other, labels, strict=True):
            p, q = ((features[:, y != VOID] / temperature).softmax(1) for features in (s, t))
            images.append((q * (q / p).log()).sum(1).mean())
        return temperature**2 * torch.stack(images).mean()

    return of


def test_by_hand() -> None:
    # Over the two valid pixels class 0: student (1/2, 1/2), teacher (3/4, 1/4); class 1 is alike.
    ln3 = math.log(3)
    student, teacher = [[[0, 0, 9]], [[1, 2, 9]]], [[[ln3, 0, -9]], [[4, 5, 0]]]
    divergence = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert by_hand("logits", student, teacher, [[0, 1, VOID]], ChannelWise(temperature=1)) == pytest.approx(
        divergence / 2, abs=1e-6
    )
    student, teacher = [[[0, 0, 9]]], [[[4 * ln3, 0, -9]]]
    assert by_hand("logits", student, teacher, [[0, 1, VOID]], ChannelWise()) == pytest.approx(
        16 * divergence, abs=1e-5
    )
    loss = ChannelWiseFeatures(student_channels={"head": 2}, teacher_channels={"head": 1})
    with torch.no_grad():
        loss.project.weight.copy_(torch.tensor([1.0, -1.0]).view(1, 2, 1, 1))
    assert by_hand("head", [[[5, 3, 9]], [[5, 3, 9]]], teacher, [[0, 1, VOID]], loss) == pytest.approx(
        16 * divergence, abs=1e-5
    )


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_value_and_gradient_are_the_formulas(temperature: float) -> None:
    agrees(ChannelWise(temperature), drawn(), "logits", reference(temperature))
    loss = made("cwd_features", temperature=temperature)
    agrees(loss, drawn(), "head", reference(temperature, loss.project.weight.detach().double().flatten(1)))


def test_a_constant_added_to_a_channel_changes_nothing() -> None:
    case = drawn(alike=True)
    shift = torch.arange(5.0).view(1, 5, 1, 1) - 3
    moved = case._replace(student=case.student | {"logits": case.student["logits"] + shift})
    torch.testing.assert_close(
        evaluated(ChannelWise(), moved).value, evaluated(ChannelWise(), case).value, atol=1e-6, rtol=1e-5
    )


def test_one_valid_pixel_is_a_distribution_without_a_choice() -> None:
    case = drawn()
    target = torch.full_like(case.target, VOID)
    target[0, :4, :4] = 1
    got = evaluated(ChannelWise(), case._replace(target=target))
    assert got.value.item() == 0
    assert (got.gradients["logits"] == 0).all()


def test_networks_of_other_classes() -> None:
    one, other = (Output(torch.zeros(1), None, {"logits": torch.zeros(1, classes, 2, 2)}) for classes in (3, 4))
    with pytest.raises(
        ValueError, match=r"^cwd compares the networks class by class: the student has 3, the teacher 4$"
    ):
        ChannelWise()(one, other, torch.zeros(1, 8, 8, dtype=torch.long))


@pytest.mark.parametrize("temperature", [0, -1.0, math.nan, math.inf, True, "4"])
def test_temperatures_that_no_loss_can_divide_by(temperature: Any) -> None:
    for loss in (lambda: ChannelWise(temperature), lambda: made("cwd_features", temperature=temperature)):
        with pytest.raises(ValueError, match=r"^temperature is .*; expected a number above 0$"):
            loss()
