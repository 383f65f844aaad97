import pytest
import torch
from loss_cases import VOID, agrees, by_hand, drawn, made

from rdd_deploy.losses.fitnet import FitNet


def test_by_hand() -> None:
    loss = FitNet(student_channels={"head": 2}, teacher_channels={"head": 1})
    with torch.no_grad():
        loss.project.weight.copy_(torch.tensor([2.0, -1.0]).view(1, 2, 1, 1))
    # 2 · 1 − 3 = −1 against 1, 2 · 0 − 1 = −1 against −4: (4 + 9) / 2.
    assert by_hand("head", [[[1, 0, 5]], [[3, 1, 5]]], [[[1, -4, 5]]], [[0, 0, VOID]], loss) == pytest.approx(6.5)


def test_value_and_gradient_are_the_formulas() -> None:
    loss = made("fitnet")
    weight = loss.project.weight.detach().double().flatten(1)

    def reference(own: torch.Tensor, other: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        squares = [
            (weight @ own[n, :, y, x] - other[n, :, y, x]) ** 2 for n, y, x in (labels != VOID).nonzero().tolist()
        ]
        return torch.stack(squares).mean()

    agrees(loss, drawn(), "head", reference)
    assert [name for name, _ in loss.named_parameters()] == ["project.weight"]
