"""Both networks' maps with void in their labels, and what holds for every distillation loss on them."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from rdd_deploy.losses.maps import labels_at
from rdd_deploy.outputs import Output

VOID = 255
CLASSES = 4
Maps = Mapping[str, tuple[int, int, int]]
SAME: Maps = {"auxiliary": (CLASSES, 6, 7), "head": (5, 6, 7), "logits": (CLASSES, 6, 7)}
"""Widths, heights and widths of a student's maps, all of one size."""
WIDER: Maps = SAME | {"head": (8, 6, 7)}
STUDENT: Maps = {"auxiliary": (CLASSES, 3, 4), "head": (5, 5, 3), "logits": (CLASSES, 6, 7)}
TEACHER: Maps = {"auxiliary": (CLASSES, 4, 4), "head": (8, 9, 11), "logits": (CLASSES, 7, 5)}


def output(maps: Maps, seed: int, images: int = 3, dtype: torch.dtype = torch.float32, scale: float = 1.0) -> Output:
    g = torch.Generator().manual_seed(seed)
    features = {name: scale * torch.randn(images, *shape, generator=g, dtype=dtype) for name, shape in maps.items()}
    return Output(torch.zeros(images, CLASSES, 24, 28), None, features)


def labels(seed: int = 7, images: int = 3, share: float = 0.3) -> Tensor:
    """Blocks of 4x4 pixels of a class each, a third of them void, and all of the last image."""
    g = torch.Generator().manual_seed(seed)
    small = torch.randint(0, CLASSES, (images, 6, 7), generator=g)
    small[torch.rand(images, 6, 7, generator=g) < share] = VOID
    if share:
        small[-1] = VOID
    return small.repeat_interleave(4, 1).repeat_interleave(4, 2)


def spoilt(clean: Output, target: Tensor, value: float) -> Output:
    """The output with another value at every map's void pixels."""
    broken = {
        name: torch.where(labels_at(target, one.shape[-2:])[:, None] == VOID, value, one)
        for name, one in clean.features.items()
    }
    return clean._replace(features=broken)


def taught(loss: nn.Module, student: Output, teacher: Output, target: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss's value and its gradient to the student's maps."""
    leaves = {name: one.clone().requires_grad_() for name, one in student.features.items()}
    value = loss(student._replace(features=leaves), teacher, target)
    value.backward()
    return value.detach(), {name: one.grad for name, one in leaves.items() if one.grad is not None}


def check(make: Callable[[], nn.Module], reads: set[str]) -> None:
    """Raise AssertionError where a loss breaks a promise; each call of ``make`` gives it as it was at first."""
    student, teacher, target = output(SAME, 1), output(WIDER, 2), labels()
    value, gradient = taught(make(), student, teacher, target)
    assert value.dtype == torch.float32
    assert value.shape == ()
    assert value > 0
    assert set(gradient) == reads
    for name, one in gradient.items():
        assert one.abs().sum() > 0, name
        assert (one.permute(0, 2, 3, 1)[labels_at(target, one.shape[-2:]) == VOID] == 0).all(), name
    for junk in (float("nan"), float("inf"), 1e4):  # void says nothing, whatever stands there
        again, same = taught(make(), spoilt(student, target, junk), spoilt(teacher, target, junk), target)
        assert torch.equal(value, again), junk
        assert all(torch.equal(gradient[name], same[name]) for name in reads), junk
    with torch.autocast("cpu", torch.bfloat16):
        mixed, _ = taught(make(), student, teacher, target)
    assert torch.equal(value, mixed)
    nothing, none = taught(make(), spoilt(student, target * 0 + VOID, float("nan")), teacher, target * 0 + VOID)
    assert nothing == 0
    assert set(none) == reads
    assert not any(one.any() for one in none.values())
    for own, other in ((STUDENT, TEACHER), (SAME, TEACHER)):  # other strides and widths, NaN in both networks' void
        odd, slopes = taught(
            make(), spoilt(output(own, 3), target, float("nan")), spoilt(output(other, 4), target, float("nan")), target
        )
        assert odd.isfinite()
        assert all(one.isfinite().all() for one in slopes.values())
    large, slopes = taught(make(), output(SAME, 1, scale=1e4), output(WIDER, 2, scale=-1e4), target)
    assert large.isfinite()
    assert all(one.isfinite().all() for one in slopes.values())
    assert not any(one.requires_grad for one in make().buffers())
    teacher.features["head"].requires_grad_()
    assert torch.equal(taught(make(), student, teacher, target)[0], value)
    assert teacher.features["head"].grad is None, "the teacher learns nothing"
