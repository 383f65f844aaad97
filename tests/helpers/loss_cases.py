"""Two networks' maps and labels for the losses of the table, and what a loss makes of them."""

from collections.abc import Callable
from inspect import signature
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from rdd_deploy.losses import LOSSES
from rdd_deploy.outputs import MAPS, Output, resized

VOID, CLASSES = 255, 5
SIZES = {"stage1": (12, 16), "stage5": (3, 4)}
"""Height and width of a map; all others are of ``SIZE``."""
SIZE = (6, 8)
TARGET = (24, 32)
Maps = dict[str, torch.Tensor]


class Case(NamedTuple):
    student: Maps
    teacher: Maps
    target: torch.Tensor

    def part(self, some: slice) -> "Case":
        """Some of its images."""
        return Case(
            *({name: one[some] for name, one in maps.items()} for maps in (self.student, self.teacher)),
            self.target[some],
        )


class Result(NamedTuple):
    value: torch.Tensor
    gradients: Maps
    """Of the student's maps that the loss needs."""
    parameters: Maps
    """Gradients of the loss's own."""


def widths(role: str) -> dict[str, int]:
    """Channels of each map; the two networks differ in all but the classes."""
    first = {"student": 4, "teacher": 7}[role]
    return {name: CLASSES if name in ("logits", "auxiliary") else first + MAPS.index(name) for name in MAPS}


def drawn(
    seed: int = 0, images: int = 2, void: float = 0.3, alike: bool = False, sizes: dict[str, dict[str, tuple[int, int]]] | None = None,
    target: tuple[int, int] = TARGET,
) -> Case:  # fmt: skip
    """Random maps and labels.

    Args:
        alike: the teacher's widths are the student's. sizes: role -> map -> size, for other sizes than ``SIZES``.
    """
    g = torch.Generator().manual_seed(seed)
    maps: dict[str, Maps] = {}
    for role in ("student", "teacher"):
        channels = widths("student" if alike else role)
        of_role = (sizes or {}).get(role, {})
        maps[role] = {
            name: torch.randn(images, channels[name], *of_role.get(name, SIZES.get(name, SIZE)), generator=g)
            for name in MAPS
        }
    labels = torch.randint(0, CLASSES, (images, *target), generator=g)
    # Squares, so that maps of every stride see labels that hold together.
    labels = labels[:, ::4, ::4].repeat_interleave(4, 1).repeat_interleave(4, 2)[:, : target[0], : target[1]].clone()
    gone = torch.rand(images, *target, generator=g)[:, ::4, ::4].repeat_interleave(4, 1).repeat_interleave(4, 2)
    labels[gone[:, : target[0], : target[1]] < void] = VOID
    return Case(maps["student"], maps["teacher"], labels)


def at_centres(target: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Labels at the centres of a map's cells."""
    rows, columns = (((np.arange(m) + 0.5) * n / m).astype(int) for m, n in zip(size, target.shape[-2:], strict=True))
    return target[:, rows][:, :, columns]


def spoilt(maps: Maps, target: torch.Tensor, value: float) -> Maps:
    """The maps with a value on their void pixels."""
    return {
        name: torch.where((at_centres(target, (one.shape[-2], one.shape[-1])) == VOID)[:, None], value, one)
        for name, one in maps.items()
    }


def made(name: str, alike: bool = False, **options: Any) -> nn.Module:
    """The loss, as a training makes it."""
    known = {
        "student_channels": widths("student"), "teacher_channels": widths("student" if alike else "teacher"), "classes": CLASSES,
    }  # fmt: skip
    kind = LOSSES[name].load()
    torch.manual_seed(0)
    return kind(**options, **{key: value for key, value in known.items() if key in signature(kind).parameters})


def output(maps: Maps, target: torch.Tensor) -> Output:
    size = target.shape[-2:]
    return Output(resized(maps["logits"].float(), size), resized(maps["auxiliary"].float(), size), maps)


def evaluated(loss: nn.Module, case: Case) -> Result:
    """Value and gradients; those of what the loss doesn't read are left out."""
    own = {name: one.clone().requires_grad_() for name, one in case.student.items()}
    other = {name: one.clone().requires_grad_() for name, one in case.teacher.items()}
    torch.manual_seed(1)
    value = loss(output(own, case.target), output(other, case.target), case.target)
    value.backward()
    assert all(one.grad is None for one in other.values()), "the teacher gets no gradient"
    needed = frozenset(loss.needs)
    assert all(one.grad is None for name, one in own.items() if name not in needed), (
        "it reads maps that it doesn't say it needs"
    )
    missing = [name for name in needed if own[name].grad is None] + [
        name for name, one in loss.named_parameters() if one.grad is None
    ]
    assert not missing, "a part without gradient would make other processes wait"
    return Result(
        value.detach(),
        {name: own[name].grad for name in sorted(needed)},
        {name: one.grad for name, one in loss.named_parameters()},
    )


Plain = tuple[float, str, dict[str, np.ndarray], dict[str, np.ndarray]]
"""A result that can be pickled: value, its type, gradients of the maps and of the loss's parameters."""


def halves(rank: int, names: list[str], targets: list[np.ndarray]) -> list[dict[str, Plain]]:
    """For each of the labels, each loss of one process's two of four images."""
    results = []
    for target in targets:
        case = shared(target).part(slice(2 * rank, 2 * rank + 2))
        results.append({name: _plain(evaluated(made(name), case)) for name in names})
    return results


def _plain(result: Result) -> Plain:
    gradients, parameters = (
        {key: one.numpy() for key, one in part.items()} for part in (result.gradients, result.parameters)
    )
    return result.value.item(), str(result.value.dtype), gradients, parameters


def shared(target: np.ndarray) -> Case:
    """Four images with these labels."""
    return drawn(seed=5, images=4)._replace(target=torch.from_numpy(target))


Reference = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""A loss written plainly: float64 maps (N, D, h, w) of student and teacher and labels (N, h, w) -> scalar."""


def agrees(loss: nn.Module, case: Case, name: str, reference: Reference, rel: float = 1e-5) -> None:
    """The loss of the map ``name`` and its gradient are the reference's, whose teacher's map has the student's size."""
    got = evaluated(loss, case)
    own = case.student[name].double().requires_grad_()
    expected = reference(own, case.teacher[name].double(), at_centres(case.target, (own.shape[-2], own.shape[-1])))
    expected.backward()
    assert own.grad is not None
    assert abs(got.value.item() - expected.item()) <= rel * abs(expected.item()) + 1e-9, (
        got.value.item(),
        expected.item(),
    )
    error = (got.gradients[name].double() - own.grad).abs().max()
    assert error <= 10 * rel * own.grad.abs().max(), error


def by_hand(name: str, student: list[Any], teacher: list[Any], labels: list[Any], loss: nn.Module) -> float:
    """A loss of one image's maps, given as nested lists (D, h, w), with labels (h, w) of the same size."""
    one, other = (
        Output(torch.zeros(1), None, {name: torch.tensor([maps], dtype=torch.float32)}) for maps in (student, teacher)
    )
    return float(loss(one, other, torch.tensor([labels])).detach())
