import math
from typing import Any

import pytest
import torch
from loss_cases import VOID, at_centres, drawn, output, spoilt
from torch.nn import functional as F

from rdd_deploy.losses.maps import labels_at, map_pair, max_pooled, mean_pooled, pixel_log_softmax, same_classes, unit
from rdd_deploy.outputs import Output


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (24, 32), (7, 32), (50, 33)])
def test_labels_are_those_at_the_cells_centres(size: tuple[int, int]) -> None:
    target = torch.arange(24 * 32).view(1, 24, 32)
    assert torch.equal(labels_at(target, size), at_centres(target, size))
    assert labels_at(target.to(torch.uint8), size).dtype == torch.int64


def test_a_pair_has_the_students_size_and_no_precision_of_autocast() -> None:
    case = drawn(sizes={"teacher": {"head": (9, 5)}})
    student = output({key: one.bfloat16().requires_grad_() for key, one in case.student.items()}, case.target)
    teacher = output({key: one.bfloat16().requires_grad_() for key, one in case.teacher.items()}, case.target)
    with torch.autocast("cpu", torch.bfloat16):
        pair = map_pair(student, teacher, "head", case.target, "keep")
    assert pair.student.dtype == pair.teacher.dtype == torch.float32
    assert pair.student.requires_grad
    assert not pair.teacher.requires_grad
    assert torch.equal(pair.student, student.features["head"].float())
    expected = F.interpolate(teacher.features["head"].float(), (6, 8), mode="bilinear", align_corners=False)
    assert torch.equal(pair.teacher, expected)
    assert pair.valid.all()
    skipping = map_pair(student, teacher, "head", case.target)
    labels = at_centres(case.target, (6, 8))
    assert torch.equal(skipping.valid, labels != VOID)
    assert torch.equal(skipping.labels, labels)
    kept = skipping.valid[:, None].expand_as(skipping.teacher)
    torch.testing.assert_close(skipping.teacher[kept], expected[kept])
    assert (skipping.teacher[~kept] == 0).all()


def test_what_the_teacher_says_of_void_is_left_out_where_it_is_no_number() -> None:
    case = drawn(sizes={"teacher": {"head": (9, 5)}}, void=0.4)
    broken = spoilt(case.teacher, case.target, math.nan)
    pair = map_pair(output(case.student, case.target), output(broken, case.target), "head", case.target)
    assert pair.teacher.isfinite().all()
    # Interpolated among the others, with their shares of the weight.
    known = (~broken["head"].isnan()).all(1, keepdim=True).float()
    small, share = (
        F.interpolate(one, (6, 8), mode="bilinear", align_corners=False)
        for one in (torch.where(known > 0, case.teacher["head"], 0), known)
    )
    inside = pair.valid[:, None].expand_as(pair.teacher)
    torch.testing.assert_close(pair.teacher[inside], (small / share)[inside])
    assert (share < 1)[pair.valid[:, None]].any()


def test_where_the_teacher_says_nothing_at_all_a_pixel_is_not_valid() -> None:
    target = torch.zeros(1, 8, 8, dtype=torch.long)
    target[:, 1:6, 1:6] = VOID  # the centre of the teacher's only cell beside a column of others
    target[:, :, 6:] = 1
    features = torch.full((1, 2, 2, 2), 3.0)
    features[:, :, 0, 0] = math.nan
    teacher, student = (
        Output(torch.zeros(1), None, {"head": features}),
        Output(torch.zeros(1), None, {"head": torch.ones(1, 2, 8, 8)}),
    )
    pair = map_pair(student, teacher, "head", target)
    assert target[0, 0, 0] == 0, "its label is known, but the teacher's pixel there, the nearest one, is void"
    assert not pair.valid[0, 0, 0]
    assert (pair.student[0, :, 0, 0] == 0).all()
    assert (pair.teacher[pair.valid[:, None].expand_as(pair.teacher)] == 3).all()


def test_a_broken_teacher_on_a_valid_pixel_is_seen() -> None:
    case = drawn(sizes={"teacher": {"head": (9, 5)}}, void=0.0)
    case.teacher["head"][0, 0, 4, 2] = math.nan
    pair = map_pair(output(case.student, case.target), output(case.teacher, case.target), "head", case.target)
    assert pair.teacher.isnan().any(), "a network that diverges isn't hidden"


def test_what_does_not_fit_is_told() -> None:
    case = drawn()
    one, other = output(case.student, case.target), output(case.teacher, case.target)
    with pytest.raises(ValueError, match=r"^the teacher's output has no map 'head'; it has logits$"):
        map_pair(one, Output(other.primary, None, {"logits": case.teacher["logits"]}), "head", case.target)
    with pytest.raises(ValueError, match=r"^the student's output has no map 'head'; it has none$"):
        map_pair(Output(one.primary, None), other, "head", case.target)
    with pytest.raises(ValueError, match=r"^batches differ: student 2, teacher 2, target 1$"):
        map_pair(one, other, "head", case.target[:1])
    with pytest.raises(
        ValueError, match=r"^this compares the networks class by class: the student has 5, the teacher 8$"
    ):
        same_classes(map_pair(one, other, "head", case.target), "this")


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_unit_vectors(scale: float) -> None:
    vectors = torch.randn(3, 4, 5)
    vectors[1, :, 2] = 0
    large = (scale * vectors).requires_grad_()
    got = unit(large, 1)
    torch.testing.assert_close(got, F.normalize(vectors, dim=1))
    got.sum().backward()
    assert large.grad is not None
    assert (large.grad[1, :, 2] == 0).all()
    reference = vectors.double().requires_grad_()
    (reference / reference.norm(dim=1, keepdim=True).clamp(min=1e-300)).sum().backward()
    assert reference.grad is not None
    other = torch.ones(3, 5, dtype=torch.bool)
    other[1, 2] = False
    kept = other[:, None].expand_as(large)
    torch.testing.assert_close((large.grad.double() * scale)[kept], reference.grad[kept], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("window", [1, 2, 3, 100])
@pytest.mark.parametrize("pool", [max_pooled, mean_pooled])
def test_pools_are_over_valid_pixels(pool: Any, window: int) -> None:
    g = torch.Generator().manual_seed(window)
    values, valid = torch.randn(2, 3, 5, 7, generator=g) - 4, torch.rand(2, 5, 7, generator=g) < 0.4
    valid[1, :3] = False
    values = torch.where(valid[:, None], values, 50.0).requires_grad_()
    got, some = pool(values, valid, window)
    height, width = -(-5 // window), -(-7 // window)
    assert got.shape == (2, 3, height, width)
    for n in range(2):
        for y in range(height):
            for x in range(width):
                part = slice(window * y, window * (y + 1)), slice(window * x, window * (x + 1))
                inside = valid[n][part]
                assert bool(some[n, y, x]) == bool(inside.any())
                known = values[n][:, part[0], part[1]][:, inside]
                expected = (
                    torch.zeros(3) if not inside.any() else known.amax(1) if pool is max_pooled else known.mean(1)
                )
                torch.testing.assert_close(got[n, :, y, x], expected)
    got.sum().backward()
    assert values.grad is not None
    assert (values.grad[~valid[:, None].expand_as(values)] == 0).all()
    assert values.grad.sum().item() == pytest.approx(3 * int(some.sum()))


def test_softmax_over_valid_pixels() -> None:
    values = (1e4 * torch.randn(3, 2, 4, 5)).requires_grad_()
    valid = torch.rand(3, 4, 5) < 0.5
    valid[0, 0, 0], valid[1], valid[2] = True, False, True
    got = pixel_log_softmax(values, valid)
    assert got.shape == (3, 2, 20)
    inside = valid[0].flatten()
    torch.testing.assert_close(got[0][:, inside], values[0].flatten(1)[:, inside].log_softmax(1))
    assert (got[0][:, ~inside] == 0).all()
    assert (got[1] == 0).all()
    (got * torch.randn_like(got)).sum().backward()
    assert values.grad is not None
    assert values.grad.isfinite().all()
    assert (values.grad[~valid[:, None].expand_as(values)] == 0).all()
