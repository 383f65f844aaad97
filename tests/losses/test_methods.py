"""What all losses of the table have in common; a loss that is added to it is tested here without another line."""

import math
from typing import Any

import pytest
import torch
from gloo import pair
from loss_cases import VOID, Case, Result, drawn, evaluated, halves, made, shared, spoilt
from torch import nn
from torch.nn import functional as F

from rdd_deploy.losses import LOSSES
from rdd_deploy.outputs import MAPS, Output

each = pytest.mark.parametrize("name", LOSSES)
NOT_ZERO = frozenset({"cirkd_memory"})
"""Losses that aren't 0 where both networks say the same, e.g. for they compare a projection that no weights make the identity."""
ONE_PROCESS = frozenset({"cirkd_memory"})
"""Losses whose projection's BatchNorm looks at one process's images, until a training converts it."""


def same(got: Result, expected: Result, rel: float = 1e-4) -> None:
    assert got.value.item() == pytest.approx(expected.value.item(), rel=rel, abs=1e-7)
    for mine, its in ((got.gradients, expected.gradients), (got.parameters, expected.parameters)):
        assert mine.keys() == its.keys()
        for key, one in mine.items():
            torch.testing.assert_close(one, its[key], rtol=rel, atol=rel * float(its[key].abs().max()) + 1e-9)


def is_finite(got: Result) -> bool:
    return bool(got.value.isfinite()) and all(one.isfinite().all() for part in got[1:] for one in part.values())


@each
def test_it_has_a_docstring_with_source_and_formula(name: str) -> None:
    kind = LOSSES[name].load()
    module = __import__(kind.__module__, fromlist=["x"])
    assert "20" in module.__doc__, "the source"
    for word in ("Args:", "Shape:", "Raises:", "void"):
        assert word in kind.__doc__
    assert kind.needs <= set(MAPS)


@each
def test_zero_where_student_and_teacher_say_the_same(name: str) -> None:
    case = drawn(alike=True)
    loss = made(name, alike=True)
    for one in loss.modules():
        if isinstance(one, nn.Conv2d):
            nn.init.dirac_(one.weight)
    got = evaluated(loss, case._replace(teacher=case.student))
    other = evaluated(loss, case)
    assert other.value > 1e-5
    if name not in NOT_ZERO:
        assert abs(got.value.item()) < min(1e-5, 1e-3 * other.value.item())
        for key, one in got.gradients.items():
            assert one.abs().max() < 1e-4 * other.gradients[key].abs().max() + 1e-7


@each
@pytest.mark.parametrize("spoiling", [math.nan, math.inf, -math.inf, 1e30])
def test_void_pixels_are_inert(name: str, spoiling: float) -> None:
    case = drawn()
    expected = evaluated(made(name), case)
    broken = case._replace(
        student=spoilt(case.student, case.target, spoiling), teacher=spoilt(case.teacher, case.target, spoiling)
    )
    got = evaluated(made(name), broken)
    assert torch.equal(got.value, expected.value)
    for part, its in ((got.gradients, expected.gradients), (got.parameters, expected.parameters)):
        for key, one in part.items():
            assert torch.equal(one, its[key])
    nothing = spoilt(got.gradients, case.target, 0.0)
    assert all(torch.equal(one, nothing[key]) for key, one in got.gradients.items()), "void pixels get no gradient"


@each
def test_a_batch_without_valid_pixels_gives_exactly_nothing(name: str) -> None:
    case = drawn()
    target = torch.full_like(case.target, VOID)
    for maps in (
        case,
        case._replace(student=spoilt(case.student, target, math.nan), teacher=spoilt(case.teacher, target, math.nan)),
    ):
        got = evaluated(made(name), maps._replace(target=target))
        assert got.value.item() == 0
        assert all((one == 0).all() for part in got[1:] for one in part.values())


@each
def test_an_image_without_valid_pixels_does_not_count(name: str) -> None:
    case = drawn(images=3)
    case.target[1] = VOID
    got, kept = evaluated(made(name), case), [0, 2]
    alone = Case(*({key: one[kept] for key, one in maps.items()} for maps in case[:2]), case.target[kept])
    expected = evaluated(made(name), alone)
    assert got.value.item() == pytest.approx(expected.value.item(), rel=1e-5)
    for key, one in got.gradients.items():
        torch.testing.assert_close(one[kept], expected.gradients[key], rtol=1e-4, atol=1e-7)
        assert (one[1] == 0).all()


ODD: dict[str, Any] = {
    "student": dict.fromkeys(MAPS, (5, 7)),
    "teacher": dict.fromkeys(MAPS, (9, 4)),
}


@each
def test_any_size_and_width(name: str) -> None:
    case = drawn(sizes=ODD, target=(37, 51))
    got = evaluated(made(name), case)
    assert (got.value.shape, got.value.dtype) == ((), torch.float32)
    assert is_finite(got)
    assert all(one.abs().sum() > 0 for part in got[1:] for one in part.values())
    resized = {
        key: F.interpolate(one, (5, 7), mode="bilinear", align_corners=False) for key, one in case.teacher.items()
    }
    same(got, evaluated(made(name), case._replace(teacher=resized)))
    # The teacher's void pixels, at its own size, don't reach their neighbours.
    assert is_finite(evaluated(made(name), case._replace(teacher=spoilt(case.teacher, case.target, math.nan))))


@each
def test_float32_under_autocast(name: str) -> None:
    case = drawn()
    case = case._replace(
        student={key: one.bfloat16() for key, one in case.student.items()},
        teacher={key: one.bfloat16() for key, one in case.teacher.items()},
    )
    expected = evaluated(made(name), case)
    with torch.autocast("cpu", torch.bfloat16):
        got = evaluated(made(name), case)
    assert got.value.dtype == torch.float32
    assert torch.equal(got.value, expected.value)
    assert all(torch.equal(one, expected.gradients[key]) for key, one in got.gradients.items())
    assert all(one.dtype == torch.float32 for one in got.parameters.values())


@each
@pytest.mark.parametrize("scale", [0.0, 1e-6, 1e4])
def test_finite_at_extremes(name: str, scale: float) -> None:
    case = drawn()
    student, teacher = ({key: scale * one for key, one in maps.items()} for maps in case[:2])
    for mixed in (Case(student, teacher, case.target), case._replace(student=student), case._replace(teacher=teacher)):
        assert is_finite(evaluated(made(name), mixed))


@each
def test_a_map_that_says_the_same_everywhere_gets_no_huge_gradient(name: str) -> None:
    case = drawn()
    flat = {key: torch.full_like(one, 0.1) for key, one in case.student.items()}
    got = evaluated(made(name), case._replace(student=flat))
    assert is_finite(got)
    assert all(one.abs().max() < 100 for one in got.gradients.values())


@each
def test_gradient_is_that_of_finite_differences(name: str) -> None:
    case = drawn(seed=3)
    got = evaluated(made(name), case)
    norm = math.sqrt(sum(float(one.square().sum()) for one in got.gradients.values()))
    step = 5e-3 * math.sqrt(sum(case.student[key].numel() for key in got.gradients)) / 10
    values = []
    for sign in (1, -1):
        moved = {key: case.student[key] + sign * step / norm * one for key, one in got.gradients.items()}
        values.append(evaluated(made(name), case._replace(student=case.student | moved)).value.double())
    assert float(values[0] - values[1]) / (2 * step) == pytest.approx(norm, rel=0.02)


@each
def test_keep_counts_void_pixels(name: str) -> None:
    if "void" not in LOSSES[name].options:
        pytest.skip("it knows one rule only")
    case, whole = drawn(), drawn(void=0.0)
    kept = evaluated(made(name, void="keep"), case)
    assert is_finite(kept)
    skipped = evaluated(made(name), case).value.item()
    assert abs(kept.value.item() - skipped) > 1e-4 * skipped
    same(evaluated(made(name, void="keep"), whole), evaluated(made(name), whole))
    with pytest.raises(ValueError, match=r"^void is 'drop'; expected 'skip' or 'keep'$"):
        made(name, void="drop")


@each
def test_a_map_that_is_not_there(name: str) -> None:
    case = drawn()
    for key in LOSSES[name].load().needs:
        without = {other: one for other, one in case.student.items() if other != key}
        with pytest.raises(ValueError, match=rf"^the student's output has no map '{key}'; it has "):
            made(name)(
                Output(case.student["logits"], None, without),
                Output(case.teacher["logits"], None, case.teacher),
                case.target,
            )


def test_two_processes_make_the_whole_batchs_loss_and_gradient() -> None:
    names = [name for name in LOSSES if name not in ONE_PROCESS]
    uneven = drawn(seed=5, images=4).target
    uneven[1, :12] = VOID
    uneven[3] = VOID
    empty = uneven.clone()
    empty[2:] = VOID
    targets = [uneven.numpy(), empty.numpy()]
    parts = pair(halves, names, targets)
    for index, target in enumerate(targets):
        for name in names:
            expected = evaluated(made(name), shared(target))
            both = [part[index][name] for part in parts]
            assert {one[1] for one in both} == {"torch.float32"}, name
            value = sum(one[0] for one in both) / 2
            gradients = {
                key: torch.cat([torch.from_numpy(one[2][key]) for one in both]) / 2 for key in expected.gradients
            }
            parameters = {key: sum(torch.from_numpy(one[3][key]) for one in both) / 2 for key in expected.parameters}
            try:
                same(Result(torch.tensor(value), gradients, parameters), expected)
            except AssertionError as error:
                raise AssertionError(f"{name}: {error}") from error
