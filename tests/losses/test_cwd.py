import math

import pytest
import torch

from rdd_deploy.losses.cwd import ChannelWise
from rdd_deploy.outputs import Output


def test_value_is_the_formulas() -> None:
    g = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 3, 4, 5, generator=g), torch.randn(2, 3, 4, 5, generator=g)
    total = 0.0
    for n in range(2):
        for c in range(3):
            s, t = ((z[n, c].double().flatten() / 4).softmax(0).tolist() for z in (student, teacher))
            total += sum(b * math.log(b / a) for a, b in zip(s, t, strict=True))
    got = ChannelWise()(Output(student, None), Output(teacher, None), torch.zeros(2, 4, 5, dtype=torch.long))
    assert got.item() == pytest.approx(16 / 3 * total / 2, abs=1e-5)


def test_a_constant_added_to_a_channel_changes_nothing() -> None:
    g = torch.Generator().manual_seed(1)
    student, teacher = torch.randn(1, 3, 4, 5, generator=g), torch.randn(1, 3, 4, 5, generator=g)
    target = torch.zeros(1, 4, 5, dtype=torch.long)
    shift = torch.tensor([5.0, -3.0, 0.5]).view(1, 3, 1, 1)
    assert ChannelWise()(Output(student + shift, None), Output(teacher, None), target).item() == pytest.approx(
        ChannelWise()(Output(student, None), Output(teacher, None), target).item(), abs=1e-5
    )
    assert ChannelWise()(Output(student, None), Output(student + shift, None), target).item() == pytest.approx(0, abs=1e-5)


def test_gradient_reaches_the_student_only_in_float32() -> None:
    student, teacher = torch.randn(1, 3, 4, 5, requires_grad=True), torch.randn(1, 3, 4, 5, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        loss = ChannelWise()(Output(student, None), Output(teacher, None), torch.zeros(1, 4, 5, dtype=torch.long))
    loss.backward()
    assert loss.dtype == torch.float32
    assert student.grad is not None
    assert teacher.grad is None
