"""Class maps: what is mapped by name, what is refused, and that probabilities of parts add up."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rdd_deploy.errors import WeightsError
from rdd_deploy.models.teachers.class_map import Mapped, class_map
from rdd_deploy.outputs import Output

OWN = ("road", "building", "house", "sky", "road sign")
DATA = ("sky", "building", "road")


def test_equal_names_in_another_order_find_each_other() -> None:
    found = class_map(OWN, 5, DATA, {}, "t")
    assert found.groups == ((3,), (1,), (0,))
    assert found.left == ["house", "road sign"]
    assert not found.is_identity
    assert class_map(DATA, 3, DATA, {}, "t").is_identity
    assert class_map(None, 3, DATA, {}, "t").is_identity


def test_merged_unknown_and_by_number() -> None:
    found = class_map(OWN, 5, (*DATA, "car"), {"building": ["building", 2], "car": []}, "t")
    assert found.groups == ((3,), (1, 2), (0,), ())
    assert (found.unknown, found.left) == (["car"], ["road sign"])
    assert found.rows() == [("sky", "sky"), ("building", "building + house"), ("road", "road"), ("car", "–")]


def test_without_names_the_order_counts_and_is_told() -> None:
    found = class_map((), 3, DATA, {}, "t")
    assert found.is_identity
    assert found.by_place
    assert class_map((), 4, DATA, {"sky": [3], "building": [1, 0], "road": [2]}, "t").groups == ((3,), (1, 0), (2,))


@pytest.mark.parametrize(
    ("names", "count", "given", "sentence"),
    [
        (OWN, 5, {"rod": ["road"]}, "names 'rod', which is no class of the data; did you mean 'road'?"),
        (
            OWN,
            5,
            {"road": ["raod"]},
            "teacher.classes.road is 'raod', which the teacher t doesn't have; did you mean 'road'?",
        ),
        (
            OWN,
            5,
            {"road": [7]},
            "teacher.classes.road is 7, which the teacher t doesn't have; its classes have the numbers 0 to 4",
        ),
        (OWN, 5, {"road": ["road", "sky"]}, "class 'sky' is taken for 'sky' and 'road'"),
        (OWN, 5, {"road": ["road", 0]}, "class 'road' is taken twice for 'road'"),
        (("a", "b", "sky"), 3, {}, "has no class 'building', 'road'; say by teacher.classes"),
        (OWN, 5, {"sky": [], "building": [], "road": []}, "map at least one"),
        ((), 5, {}, "knows 5 classes, the data has 3"),
        (("a", "b"), 3, {}, "has 3 classes and 2 names"),
    ],
)
def test_what_is_refused(names: Any, count: int, given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(WeightsError) as raised:
        class_map(names, count, DATA, given, "t")
    assert sentence in str(raised.value)
    assert len(raised.value.lines) == 1


class Says(nn.Module):
    has_auxiliary = True

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.classes, self.logits = logits.shape[1], logits

    def logits_at_stride(self, frames: Tensor, maps: Any = ()) -> Output:
        return Output(self.logits, 2 * self.logits, dict.fromkeys(maps, self.logits))


def test_probabilities_of_parts_add_up_and_the_rest_is_shared_out_equally() -> None:
    torch.manual_seed(0)
    logits = 3 * torch.randn(2, 5, 4, 6)
    teacher = Mapped(
        Says(logits), class_map(OWN, 5, (*DATA, "car"), {"building": ["building", "house"], "car": []}, "t")
    )
    said = teacher.logits_at_stride(torch.zeros(2, 3, 4, 6, dtype=torch.uint8), ["logits", "auxiliary", "head"])
    whole = logits.softmax(1)
    wanted = torch.stack((whole[:, 3], whole[:, 1] + whole[:, 2], whole[:, 0]), 1)
    left = (1 - wanted.sum(1, keepdim=True)) / 4
    got = said.primary.softmax(1)
    torch.testing.assert_close(got[:, :3], wanted + left, atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(got[:, 3:], left, atol=2e-5, rtol=1e-4)
    assert torch.equal(got[:, :3].argmax(1), wanted.argmax(1)), "the likeliest class is the one that it was"
    assert (teacher.classes, said.auxiliary.shape, said.features["head"].shape[1]) == (4, said.primary.shape, 5)  # type: ignore[union-attr]
    assert torch.equal(said.features["logits"], said.primary)


def test_a_class_that_it_does_not_know_has_nearly_no_probability() -> None:
    teacher = Mapped(Says(torch.randn(1, 2, 3, 3)), class_map(("a", "b"), 2, ("a", "b", "c"), {"c": []}, "t"))
    assert teacher.logits_at_stride(torch.zeros(1, 3, 3, 3)).primary.softmax(1)[:, 2].max() < 1e-5


def test_where_it_sees_something_else_it_is_sure_of_nothing() -> None:
    """A foreign object isn't the likeliest of the data's classes: its pixels would be labels of it."""
    said = torch.tensor([0.0009, 0.00005, 0.00005, 0.999]).log().view(1, 4, 1, 1)
    mapped = Mapped(Says(said), class_map(("road", "car", "person", "sky"), 4, ("road", "car", "person"), {}, "t"))
    probability = mapped.logits_at_stride(torch.zeros(1, 3, 1, 1)).primary.softmax(1).flatten()
    torch.testing.assert_close(probability, torch.full((3,), 1 / 3), atol=1e-3, rtol=0)
    assert probability.argmax() == 0
