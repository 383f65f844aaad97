import math

import map_properties
import pytest
import torch
from map_properties import SAME, VOID, WIDER, labels, output, taught

from rdd_deploy.losses.cirkd import CrossImage
from rdd_deploy.outputs import Output


@pytest.mark.parametrize("options", [{}, {"window": 2, "temperature": 1.0}, {"window": 50}])
def test_properties(options: dict) -> None:
    if options.get("window") == 50:  # one node an image: nothing to tell apart, but nothing to stumble over either
        value, gradient = taught(CrossImage(**options), output(SAME, 1), output(WIDER, 2), labels())
        assert value == 0
        assert not gradient["head"].any()
        return
    map_properties.check(lambda: CrossImage(**options), {"head"})


def test_zero_where_the_networks_agree() -> None:
    same = output(SAME, 1)
    value, gradient = taught(CrossImage(), same, same, labels())
    assert value == 0
    assert not gradient["head"].any()


def test_by_hand() -> None:
    # The student's two pixels are orthogonal: rows softmax(1, 0); the teacher's are alike: rows (1/2, 1/2).
    student = Output(torch.zeros(1, 2, 1, 2), None, {"head": torch.tensor([[2.0, 0], [0, 3]]).view(1, 2, 1, 2)})
    teacher = Output(torch.zeros(1, 2, 1, 2), None, {"head": torch.ones(1, 5, 1, 2)})
    expected = math.log(1 + math.e) - 0.5 - math.log(2)
    assert CrossImage(temperature=1)(student, teacher, torch.zeros(1, 1, 2)).item() == pytest.approx(expected, abs=1e-6)


def slowly(own: torch.Tensor, other: torch.Tensor, valid: torch.Tensor, temperature: float) -> torch.Tensor:
    nodes = []
    for a, b, v in zip(own, other, valid, strict=True):
        if v.any():
            nodes.append([(x[:, v] / x[:, v].norm(dim=0)).T for x in (a, b)])
    terms = []
    for s, t in nodes:
        for s_other, t_other in nodes:
            log_s, log_t = (s @ s_other.T / temperature).log_softmax(1), (t @ t_other.T / temperature).log_softmax(1)
            terms.append((log_t.exp() * (log_t - log_s)).sum(1).mean())
    return sum(terms) / len(terms)


def test_is_the_formula() -> None:
    student, teacher, target = output(SAME, 1, dtype=torch.float64), output(WIDER, 2, dtype=torch.float64), labels()
    value, gradient = taught(CrossImage(), student, teacher, target)
    leaf = student.features["head"].clone().requires_grad_()
    expected = slowly(leaf, teacher.features["head"], target[:, 2::4, 2::4] != VOID, 0.1)
    expected.backward()
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)
    assert torch.allclose(gradient["head"], leaf.grad, atol=1e-5)


def test_pools_before_it_scales() -> None:
    maps = {"head": (5, 6, 8)}
    student, teacher, target = output(maps, 1), output(maps, 2), torch.zeros(3, 24, 32)
    pooled = [torch.nn.functional.avg_pool2d(one.features["head"], 2) for one in (student, teacher)]
    expected = slowly(*pooled, torch.ones(3, 3, 4, dtype=torch.bool), 0.1).item()
    assert CrossImage(window=2)(student, teacher, target).item() == pytest.approx(expected, rel=1e-5)


def test_kept_void_counts() -> None:
    student, teacher = output(SAME, 1), output(WIDER, 2)
    assert CrossImage(void="keep")(student, teacher, labels()) == CrossImage()(student, teacher, labels(share=0))
    assert CrossImage(void="keep")(student, teacher, labels()) != CrossImage()(student, teacher, labels())
