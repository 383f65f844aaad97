import pytest
import torch
from loss_cases import CLASSES, VOID, agrees, by_hand, drawn, evaluated

from rdd_deploy.losses.ifvd import IntraClassVariation


def reference(own: torch.Tensor, other: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """A loop over images and classes, as the method's paper puts it."""
    squares = []
    for s, t, y in zip(own, other, labels, strict=True):
        for c in range(CLASSES):
            inside = y == c
            if inside.any():
                cosines = [
                    torch.cosine_similarity(f[:, inside], f[:, inside].mean(1, keepdim=True), dim=0) for f in (s, t)
                ]
                squares.append((cosines[0] - cosines[1]) ** 2)
    return torch.cat(squares).mean()


def test_by_hand() -> None:
    # Class 0: (2, 0) and (0, 2) have the mean (1, 1) and cosine √½ with it; the teacher's are alike: cosine 1. Class 1
    # has one pixel: 1 and 1.
    student, teacher = [[[2, 0, 5, 9]], [[0, 2, 1, 9]]], [[[1, 3, -1, 9]]]
    expected = 2 * (1 - 0.5**0.5) ** 2 / 3
    assert by_hand("head", student, teacher, [[0, 0, 1, VOID]], IntraClassVariation()) == pytest.approx(
        expected, abs=1e-6
    )
    # Kept, void pixels count as ones without a difference.
    student, teacher = [[[*student[0][0], 0]], [[*student[1][0], 9]]], [[[*teacher[0][0], 9]]]
    kept = by_hand("head", student, teacher, [[0, 0, 1, VOID, VOID]], IntraClassVariation(void="keep"))
    assert kept == pytest.approx(expected * 3 / 5, abs=1e-6)


def test_value_and_gradient_are_the_formulas() -> None:
    agrees(IntraClassVariation(), drawn(), "head", reference)


def test_prototypes_are_an_images_own() -> None:
    case = drawn(images=2, void=0.0)
    both = evaluated(IntraClassVariation(), case).value
    alone = [evaluated(IntraClassVariation(), case.part(slice(n, n + 1))).value for n in range(2)]
    torch.testing.assert_close(both, (alone[0] + alone[1]) / 2)


def test_features_that_are_0_have_no_direction() -> None:
    case = drawn()
    case.student["head"][:, :, :3] = 0
    got = evaluated(IntraClassVariation(), case)
    assert got.value.isfinite()
    assert (got.gradients["head"][:, :, :3].abs() < 10).all()
