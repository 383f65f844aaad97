import pytest
import torch
from loss_cases import VOID, agrees, by_hand, drawn, evaluated, made

from rdd_deploy.losses.pearson import PearsonFeatures


def identity(width: int) -> PearsonFeatures:
    loss = PearsonFeatures(student_channels={"head": width}, teacher_channels={"head": width})
    torch.nn.init.dirac_(loss.project.weight)
    return loss


def test_by_hand() -> None:
    # (1, 1, −2) · (2, −1, −1) = 3 of 6: ρ = 1/2; the second channel is the teacher's times −3: ρ = −1.
    student, teacher = [[[5, 5, 2, 90]], [[3, 6, 9, 90]]], [[[20, -10, -10, 7]], [[-1, -2, -3, 7]]]
    assert by_hand("head", student, teacher, [[0, 0, 0, VOID]], identity(2)) == pytest.approx((0.5 + 2) / 2, abs=1e-6)


def test_value_and_gradient_are_half_the_squared_distance_of_standardised_maps() -> None:
    loss = made("pearson")
    weight = loss.project.weight.detach().double().flatten(1)

    def reference(own: torch.Tensor, other: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        own = torch.einsum("ed,ndhw->nehw", weight, own)
        a, b = (features.permute(0, 2, 3, 1)[labels != VOID] for features in (own, other))  # (M, E)
        a, b = ((x - x.mean(0)) / x.std(0, correction=0) for x in (a, b))
        return 0.5 * ((a - b) ** 2).mean()

    agrees(loss, drawn(), "head", reference)


def test_scale_and_offset_of_either_map_change_nothing() -> None:
    case = drawn(alike=True)
    moved = case._replace(
        student=case.student | {"head": 30 * case.student["head"] + 100},
        teacher=case.teacher | {"head": 0.01 * case.teacher["head"] - 5},
    )
    loss = identity(case.student["head"].shape[1])
    torch.testing.assert_close(evaluated(loss, moved).value, evaluated(loss, case).value, atol=1e-4, rtol=0)


def test_a_constant_channel_has_no_correlation() -> None:
    case = drawn(alike=True)
    width = case.student["head"].shape[1]
    case.student["head"][:, 0] = 0.1
    case.teacher["head"][:, 1] = -1e4
    got = evaluated(
        identity(width),
        case._replace(
            teacher=case.teacher | {"head": torch.cat((case.student["head"][:, :1], case.teacher["head"][:, 1:]), 1)}
        ),
    )
    assert (got.gradients["head"][:, :2] == 0).all()
    assert got.value.item() > 2 / width
