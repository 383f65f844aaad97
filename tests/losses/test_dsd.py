import itertools
import math

import map_properties
import pytest
import torch
from map_properties import SAME, VOID, WIDER, labels, output, taught

from rdd_deploy.losses.dsd import CategorySimilarity, PixelSimilarity
from rdd_deploy.outputs import Output

FORMS = [{"form": "paper"}, {"form": "benchmark"}, {"window": 2, "temperature": 1.0}, {"void": "skip", "window": 20}]


def small(maps: dict[str, torch.Tensor]) -> Output:
    return Output(torch.zeros(1, 2, 1, 2), None, maps)


def test_pixel_properties() -> None:
    map_properties.check(PixelSimilarity, {"auxiliary", "head", "logits"})


@pytest.mark.parametrize("options", FORMS[:3])
def test_category_properties(options: dict) -> None:
    map_properties.check(lambda: CategorySimilarity(**options), {"logits"})


@pytest.mark.parametrize("loss", [PixelSimilarity(), *(CategorySimilarity(**options) for options in FORMS)])
def test_zero_where_the_networks_agree(loss: torch.nn.Module) -> None:
    same = output(SAME, 1)
    value, gradient = taught(loss, same, same, labels())
    assert value == 0
    assert not any(one.any() for one in gradient.values())


def test_pixel_by_hand() -> None:
    # Attention moves from the first pixel to the second in the student, the other way in the teacher: R = ∓(1, −1) /
    # √2.
    first, second = torch.tensor([2.0, 0.0]).view(1, 1, 1, 2), torch.tensor([0.0, 0.5]).view(1, 1, 1, 2)
    student, teacher = small({"head": first, "logits": second}), small({"head": second, "logits": first})
    assert PixelSimilarity()(student, teacher, torch.zeros(1, 1, 2)).item() == pytest.approx(4)


def pixel_slowly(student: dict, teacher: dict, target: torch.Tensor, names: tuple[str, ...]) -> torch.Tensor:
    terms = []
    for n in range(len(target)):
        valid = target[n, 2::4, 2::4].flatten() != VOID
        if not valid.any():
            continue
        maps = []
        for features in (student, teacher):
            energies = [(features[name][n].flatten(1)[:, valid] ** 2).sum(0) for name in names]
            maps.append([one / one.norm() for one in energies])
        pairs = []
        for k, m in itertools.combinations(range(len(names)), 2):
            own, other = (one[m] - one[k] for one in maps)
            pairs.append(((own / own.norm() - other / other.norm()) ** 2).sum())
        terms.append(sum(pairs) / len(pairs))
    return sum(terms) / len(terms)


@pytest.mark.parametrize("names", [("auxiliary", "head", "logits"), ("head", "logits")])
def test_pixel_is_the_formulas(names: tuple[str, ...]) -> None:
    student, teacher, target = output(SAME, 1, dtype=torch.float64), output(WIDER, 2, dtype=torch.float64), labels()
    kept = student._replace(features={name: student.features[name] for name in names})
    value, gradient = taught(PixelSimilarity(), kept, teacher, target)
    leaves = {name: one.clone().requires_grad_() for name, one in kept.features.items()}
    expected = pixel_slowly(leaves, teacher.features, target, names)
    expected.backward()
    assert value.item() == pytest.approx(expected.item(), abs=1e-5)
    for name, leaf in leaves.items():
        assert torch.allclose(gradient[name], leaf.grad, atol=1e-5), name


def test_pixel_reads_the_auxiliary_map_where_both_have_it() -> None:
    both, one = {"head": 4, "logits": 3, "auxiliary": 3}, {"head": 4, "logits": 3}
    assert PixelSimilarity(student_channels=both, teacher_channels=both).needs == {"auxiliary", "head", "logits"}
    assert PixelSimilarity(student_channels=one, teacher_channels=both).needs == {"head", "logits"}
    assert PixelSimilarity.needs == {"head", "logits"}


def test_pixel_scales_of_a_map_and_constant_strides_change_nothing() -> None:
    """A coarse map that is constant in blocks says the same as the fine one: bilinear interpolation of a constant is
    one.
    """
    flat = {name: torch.ones(2, 3, 2, 2) for name in ("head", "logits")}
    fine = {"head": 7 * torch.ones(2, 3, 2, 2), "logits": torch.randn(2, 3, 6, 6)}
    coarse = {"head": torch.ones(2, 5, 3, 3), "logits": fine["logits"]}
    teacher, target = (
        Output(torch.zeros(2, 3, 6, 6), None, flat | {"logits": torch.randn(2, 3, 6, 6)}),
        torch.zeros(2, 12, 12),
    )
    target[0, :5] = VOID
    values = [
        PixelSimilarity()(Output(torch.zeros(2, 3, 6, 6), None, one), teacher, target).item() for one in (fine, coarse)
    ]
    assert values[0] == pytest.approx(values[1], abs=1e-6)


def test_category_by_hand() -> None:
    # The student's rows are (1, 1)/√2 both, so G = 1; the teacher's (3, 1)/√10 and (1, 3)/√10, so G = 0.6 off the
    # diagonal.
    student, teacher = (
        small({"logits": torch.zeros(1, 2, 1, 2)}),
        small({"logits": torch.tensor([[3.0, 1], [1, 3]]).log().view(1, 2, 1, 2)}),
    )
    assert CategorySimilarity(temperature=1)(student, teacher, torch.zeros(1, 1, 2)).item() == pytest.approx(0.4**2 / 2)
    # Softmax over the pixels: the student's rows (1, 1)/2, the teacher's (3, 1)/4 and (1, 3)/4.
    expected = (2 * (10 / 16 - 1 / 2) ** 2 + 2 * (6 / 16 - 1 / 2) ** 2) / 4
    loss = CategorySimilarity("benchmark", temperature=1, window=1)
    assert loss(student, teacher, torch.zeros(1, 1, 2)).item() == pytest.approx(expected)


def category_slowly(
    own: torch.Tensor, other: torch.Tensor, target: torch.Tensor, form: str, temperature: float
) -> torch.Tensor:
    terms = []
    for n in range(len(target)):
        valid = target[n, 2::4, 2::4].flatten() != VOID
        if not valid.any():
            continue
        grams = []
        for z in (own, other):
            kept = z[n].flatten(1)[:, valid] / temperature
            phi = kept.softmax(0) if form == "paper" else kept.softmax(1)
            phi = phi / phi.norm(dim=1, keepdim=True) if form == "paper" else phi
            grams.append(phi @ phi.T)
        terms.append(((grams[0] - grams[1]) ** 2).mean())
    return sum(terms) / len(terms)


@pytest.mark.parametrize("form", ["paper", "benchmark"])
def test_category_is_the_formulas(form: str) -> None:
    student, teacher, target = output(SAME, 1, dtype=torch.float64), output(SAME, 2, dtype=torch.float64), labels()
    value, gradient = taught(CategorySimilarity(form, temperature=1.5, window=1), student, teacher, target)
    leaf = student.features["logits"].clone().requires_grad_()
    expected = category_slowly(leaf, teacher.features["logits"], target, form, 1.5)
    expected.backward()
    assert value.item() == pytest.approx(expected.item(), abs=1e-6)
    assert torch.allclose(gradient["logits"], leaf.grad, atol=1e-6)


def test_benchmark_pools_by_two_at_temperature_four() -> None:
    pair, target = [output({"logits": (4, 6, 8)}, seed) for seed in (1, 2)], torch.zeros(3, 24, 32)
    pooled = [
        one._replace(features={"logits": torch.nn.functional.avg_pool2d(one.features["logits"], 2)}) for one in pair
    ]
    assert CategorySimilarity("benchmark")(*pair, target).item() == pytest.approx(
        CategorySimilarity("benchmark", temperature=4, window=1)(*pooled, target).item()
    )


@pytest.mark.parametrize("form", ["paper", "benchmark"])
def test_kept_void_counts(form: str) -> None:
    student, teacher, target = output(SAME, 1), output(SAME, 2), labels()
    kept = CategorySimilarity(form, void="keep")(student, teacher, target).item()
    assert kept == pytest.approx(CategorySimilarity(form)(student, teacher, labels(share=0)).item())
    assert not math.isclose(kept, CategorySimilarity(form)(student, teacher, target).item(), rel_tol=1e-3)
    assert PixelSimilarity("keep")(student, teacher, target) == PixelSimilarity()(student, teacher, labels(share=0))


def test_other_numbers_of_classes_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"^dsd_category compares the networks class by class: the student has 4, the teacher 5$"
    ):
        CategorySimilarity()(output(SAME, 1), output(dict(SAME) | {"logits": (5, 6, 7)}, 2), labels())


def test_maps_of_equal_attention_have_no_direction() -> None:
    """But for rounding, which scaled to length 1 would have a gradient of ten millions."""
    head = torch.rand(1, 5, 6, 7)
    student = Output(torch.zeros(1, 5, 6, 7), None, {"head": head, "logits": head.flip(1) / 3})
    _, gradient = taught(PixelSimilarity(), student, output(WIDER, 2, images=1), labels(images=1, share=0))
    assert all(one.abs().max() < 100 for one in gradient.values())
