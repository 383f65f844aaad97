import pytest
import torch
from loss_cases import VOID, Case, agrees, by_hand, drawn

from rdd_deploy.losses.skd import PairWise


def reference(window: int):
    def of(own: torch.Tensor, other: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        images = []
        for s, t, y in zip(own, other, labels, strict=True):
            nodes: list[list[torch.Tensor]] = [[], []]
            for top in range(0, y.shape[0], window):
                for left in range(0, y.shape[1], window):
                    part = slice(top, top + window), slice(left, left + window)
                    valid = y[part] != VOID
                    if valid.any():
                        for found, features in zip(nodes, (s, t), strict=True):
                            vector = features[:, part[0], part[1]][:, valid].amax(1)
                            found.append(vector / vector.norm())
            a, b = (torch.stack(found) for found in nodes)
            images.append(((a @ a.T - b @ b.T) ** 2).mean())
        return torch.stack(images).mean()

    return of


def test_by_hand() -> None:
    # Nodes of one pixel: directions (1, 0) and (0.6, 0.8) have the cosine 0.6, the teacher's two 1: 2 · 0.4² of four
    # pairs, the diagonal is 1.
    student, teacher = [[[2, 3, 9]], [[0, 4, 1]]], [[[1, 5, -9]]]
    assert by_hand("head", student, teacher, [[0, 0, VOID]], PairWise(window=1)) == pytest.approx(
        2 * 0.4**2 / 4, abs=1e-6
    )
    # One window of all: max (3, 4) alone is one node, like itself.
    assert by_hand("head", student, teacher, [[0, 0, VOID]], PairWise(window=3)) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("window", [1, 2, 3])
def test_value_and_gradient_are_the_formulas(window: int) -> None:
    agrees(PairWise(window), drawn(seed=2, void=0.5), "head", reference(window))


def test_a_node_pools_over_its_valid_pixels_before_it_is_scaled() -> None:
    case = drawn(
        seed=4, images=1, sizes={"student": {"head": (5, 7)}, "teacher": {"head": (5, 7)}}, target=(5, 7), void=0.0
    )
    target = case.target.clone()
    target[0, 1, 1] = VOID
    larger = case.student["head"].clone()
    larger[0, :, 1, 1] = 100
    changed = Case(case.student | {"head": larger}, case.teacher, target)
    agrees(PairWise(2), changed, "head", reference(2))


@pytest.mark.parametrize("window", [0, -1, 2.0, True, "2"])
def test_windows_that_are_none(window: object) -> None:
    with pytest.raises(ValueError, match=r"^window is .*; expected a whole number, 1 or more$"):
        PairWise(window)  # type: ignore[arg-type]
