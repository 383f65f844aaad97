"""Several processes with a part of the batch each say what one says of the whole batch."""

import itertools
from typing import Any

import pytest
import torch
from gloo import together
from torch import nn
from torch.nn import functional as F

from rdd_deploy.losses.kd import PixelKD
from rdd_deploy.losses.processes import alone, mean_count, several
from rdd_deploy.losses.ranks import hard_pixels
from rdd_deploy.losses.rdd import RelativeDifficultyLoss
from rdd_deploy.losses.region import RegionLoss
from rdd_deploy.losses.task import TaskLoss
from rdd_deploy.outputs import Output

VOID, CLASSES = 255, 4
WEIGHTS = torch.tensor([0.5, 1.0, 2.0, 5.0])
SPLITS = ((3, 1), (2, 1, 1))
"""Images of each process."""

MASKS = [
    dict(zip(("rule", "min_kept", "reduction", "class_weight"), case, strict=True))
    for case in itertools.product(
        ("xor", "lead", "student"), (0, 0.05, 0.4, 1.0, 30, 10_000), ("kept", "all"), (None, WEIGHTS)
    )
]
FEW = [4 * pair + (pair + pair // 6) % 4 for pair in range(len(MASKS) // 4)]
"""Every rule with every share of kept pixels once, each with three or four ways to reduce and to weigh."""

FEW += range(len(MASKS), len(MASKS) + 3)
MASKS += [{"rule": "xor", "min_kept": 0.05, "min_kept_per_class": least} for least in (0.3, 3, 1000)]

VOIDS = ("some", "one process", "all but one pixel", "all")


def made(options: dict[str, Any]) -> nn.Module:
    return RelativeDifficultyLoss(tfe_fraction=0.2, ce_weight=0.3, threshold=0.6, **options)


def batch(seed: int, void: str, part: int) -> list[torch.Tensor]:
    """Logits of student, teacher, teacher's and student's auxiliary heads, and labels, of 4 images; void also in the
    last ``part`` images.
    """
    g = torch.Generator().manual_seed(seed)
    target = torch.randint(0, CLASSES, (4, 6, 7), generator=g)
    hint = F.one_hot(target, CLASSES).permute(0, 3, 1, 2)
    # The images differ in difficulty, so that one process has all the hard pixels, another none.
    ease = torch.tensor([0.5, 1.0, 3.0, 8.0])[:, None, None, None]
    logits = [2 * torch.randn(4, CLASSES, 6, 7, generator=g) + gain * ease * hint for gain in (1.0, 1.6, 1.2, 0.8)]
    target[torch.rand(4, 6, 7, generator=g) < 0.2] = VOID
    if void == "one process":
        target[-part:] = VOID
    elif void != "some":
        kept = target[0, 0, 0].clamp(max=CLASSES - 1).clone()
        target[:] = VOID
        if void == "all but one pixel":
            target[0, 0, 0] = kept
    return [*logits, target]


def values(tensors: list[torch.Tensor], masks: list[int]) -> list[dict[str, Any]]:
    """Loss, gradients and masks of one part, in every case: some of MASKS, and the other losses."""
    student, teacher, second, auxiliary, target = tensors
    found = []

    def note(loss: torch.Tensor, *inputs: torch.Tensor, **more: Any) -> None:
        found.append({"loss": loss.detach(), "gradients": torch.autograd.grad(loss, inputs), **more})

    own, head = (one.clone().requires_grad_() for one in (student, auxiliary))
    for number in masks:
        options = MASKS[number]
        progress = (0.1, 0.5)[number % 2] if options["rule"] == "xor" else 0.5
        options = options | ({"transition": "linear"} if options["rule"] == "lead" else {})
        got = made(options)(own, teacher, second, target, progress, head)
        note(got.total, own, head, weight=got.weight, terms=torch.stack(list(got.terms.values())))
    for kind in ("ce", "ohem", "balanced"):
        note(TaskLoss(kind, WEIGHTS)(own, target), own)
    note(TaskLoss("ohem", min_kept_per_class=4)(own, target), own)
    for region in ("dice", "lovasz"):
        note(RegionLoss(region)(own, target), own)
    note(PixelKD(2.0)(Output(own, None, {"logits": own}), Output(teacher, None, {"logits": teacher}), target), own)
    return found


def parts_of(tensors: list[torch.Tensor], split: tuple[int, ...]) -> list[list[torch.Tensor]]:
    return [list(parts) for parts in zip(*(one.split(split) for one in tensors), strict=True)]


def all_values(asked: tuple[list[list[torch.Tensor]], list[int]]) -> list[list[dict[str, Any]]]:
    batches, masks = asked
    return [values(one, masks) for one in batches]


@pytest.mark.parametrize(
    ("split", "masks"),
    [pytest.param(SPLITS[1], FEW, id="few"), *(pytest.param(split, [*range(len(MASKS))], id=str(split), marks=pytest.mark.slow) for split in SPLITS)],
)  # fmt: skip
def test_parts_of_a_batch_are_the_whole(split: tuple[int, ...], masks: list[int]) -> None:
    wholes = [batch(seed, void, split[-1]) for seed, void in enumerate(VOIDS)]
    by_batch = [parts_of(whole, split) for whole in wholes]
    there = together(all_values, [([parts[rank] for parts in by_batch], masks) for rank in range(len(split))])
    for number, whole in enumerate(wholes):
        for case, expected in enumerate(values(whole, masks)):
            got = [ranks[number][case] for ranks in there]
            where = f"{VOIDS[number]} void, case {case}"
            assert all(one["loss"].dtype == torch.float32 for one in got)
            assert torch.stack([one["loss"] for one in got]).mean().item() == pytest.approx(
                expected["loss"].item(), abs=1e-6
            ), where
            for index, gradient in enumerate(expected["gradients"]):
                mine = torch.cat([one["gradients"][index] for one in got]) / len(split)
                assert (mine - gradient).abs().max() < 1e-6, where
            if "weight" in expected:
                assert torch.equal(torch.cat([one["weight"] for one in got]), expected["weight"]), where
                assert torch.stack([one["terms"] for one in got]).mean(0).tolist() == pytest.approx(
                    expected["terms"].tolist(), abs=1e-6
                )


def one_alone(rank: int) -> Any:
    """The first process alone computes; the mean that follows is of both."""
    valid = torch.ones(1, 2, 3, dtype=torch.bool)
    if rank == 0:
        with alone():
            assert not several()
            assert hard_pixels(torch.linspace(0.8, 0.9, 6).view(1, 2, 3), valid, 0.7, 2).sum() == 2
    assert several()
    return mean_count(torch.tensor([rank, 10.0 * rank]))


def test_what_one_process_computes_alone_waits_for_none() -> None:
    assert [one.tolist() for one in together(one_alone, [0, 1])] == [[0.5, 5.0]] * 2
