import copy
import math
from pathlib import Path

import bank_process
import map_properties
import pytest
import torch
from bank_process import bank, step_of
from map_properties import SAME, VOID, WIDER, labels, output, taught
from torch import nn
from torch.nn import functional as F

from rdd_deploy.errors import RecipeError
from rdd_deploy.losses import LOSSES, cirkd_memory
from rdd_deploy.losses.cirkd_memory import MemoryBank
from rdd_deploy.losses.maps import labels_at, unit
from rdd_deploy.outputs import Output


@pytest.mark.parametrize(
    "options", [{}, {"pixel": 0, "contrast_temperature": 2.0}, {"region": 0.0, "temperature": 0.5}]
)
def test_properties(options: dict) -> None:
    map_properties.check(lambda: bank(**options), {"head"})


def test_zero_where_the_projection_says_what_the_teacher_does() -> None:
    one = MemoryBank(
        pixels=20, regions=20, classes=4, student_channels={"head": 5}, teacher_channels={"head": 5}
    ).eval()
    for layer in (one.project[0], one.project[3]):
        nn.init.eye_(layer.weight.data[:, :, 0, 0])
    same = output(SAME, 1)
    same = same._replace(features={"head": same.features["head"].abs()})
    value, gradient = taught(one, same, same, labels())
    assert value.item() == pytest.approx(0, abs=1e-6)
    assert gradient["head"].abs().max() < 1e-5


def test_by_hand() -> None:
    # Vectors (1, 0) and (0, 1); the student says the first, the teacher the second: softmax(1, 0) against softmax(0,
    # 1).
    one = MemoryBank(
        region=0, pixels=2, temperature=1, classes=1, student_channels={"head": 2}, teacher_channels={"head": 2}
    ).eval()
    for layer in (one.project[0], one.project[3]):
        nn.init.eye_(layer.weight.data[:, :, 0, 0])
    one.queues["pixel"].vectors.copy_(torch.eye(2)[None])
    student, teacher = (
        Output(torch.zeros(1, 1, 1, 1), None, {"head": torch.tensor(x).view(1, 2, 1, 1)}) for x in ([3.0, 0], [0, 0.5])
    )
    expected = math.tanh(0.5)  # (σ(1) − σ(−1)) · 1
    assert one(student, teacher, torch.zeros(1, 1, 1)).item() == pytest.approx(expected, abs=1e-6)


def test_is_the_formula() -> None:
    """With the vectors that are in the queues after the writing, all of which are drawn: there are fewer
    than 1024 / 4.
    """
    student, teacher, target = output(SAME, 1), output(WIDER, 2), labels()
    one = bank(pixel=0.7, region=0.2, contrast_temperature=1.5)
    before = copy.deepcopy(one)
    value, gradient = taught(one, student, teacher, target)
    leaf = student.features["head"].double().requires_grad_()
    valid = target[:, 2::4, 2::4] != VOID
    first, norm, _, last = before.double().project
    hidden = leaf.permute(0, 2, 3, 1)[valid] @ first.weight.flatten(1).T
    hidden = F.relu(
        (hidden - hidden.mean(0)) / (hidden.var(0, unbiased=False) + norm.eps).sqrt() * norm.weight + norm.bias
    )
    own = F.normalize(hidden @ last.weight.flatten(1).T, dim=1)
    other = F.normalize(teacher.features["head"].double().permute(0, 2, 3, 1)[valid], dim=1)
    expected = torch.zeros((), dtype=torch.float64)
    for name, weight in (("pixel", 0.7), ("region", 0.2)):
        stored = one.queues[name].vectors.double().flatten(0, 1)
        log_s, log_t = ((x @ stored.T / 0.1 / 1.5).log_softmax(1) for x in (own, other))
        expected = expected + weight * 1.5**2 * (log_t.exp() * (log_t - log_s)).sum(1).mean()
    expected.backward()
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)
    assert torch.allclose(gradient["head"], leaf.grad.float(), atol=1e-5)
    for name, parameter in one.project.named_parameters():
        assert torch.allclose(parameter.grad, dict(before.project.named_parameters())[name].grad.float(), atol=1e-5), (
            name
        )


def test_the_queues_hold_the_classes_own_pixels_and_means() -> None:
    one, teacher, target = bank(), output(WIDER, 2), labels()
    one(output(SAME, 1), teacher, target)
    vectors, small = unit(teacher.features["head"], 1), labels_at(target, (6, 7))
    for c in range(4):
        row = 0
        means = []
        for n in range(3):
            own = vectors[n][:, small[n] == c].T
            if not len(own):
                continue
            means.append(unit(own.mean(0), 0))
            count = min(16, len(own))
            stored = one.queues["pixel"].vectors[c, row : row + count].float()
            nearest = torch.cdist(stored, own).min(1)
            assert nearest.values.max() < 2e-3
            assert len(set(nearest.indices.tolist())) == count, "no pixel twice"
            row += count
        assert one.queues["pixel"].pointer[c] == row
        assert torch.allclose(one.queues["region"].vectors[c, : len(means)].float(), torch.stack(means), atol=1e-3)
        assert one.queues["region"].pointer[c] == len(means)


def test_an_image_adds_sixteen_pixels_of_a_class_from_anywhere() -> None:
    """Not those of the map's beginning: of a class that fills the map every part is drawn."""
    one, teacher, target = (
        bank(pixels=160),
        output({"head": (8, 20, 20)}, 2, images=1),
        torch.ones(1, 20, 20, dtype=torch.long),
    )
    places = []
    for _ in range(5):
        begin = int(one.queues["pixel"].pointer[1])
        one(output({"head": (5, 20, 20)}, 1, images=1), teacher, target)
        stored = one.queues["pixel"].vectors[1, begin : begin + 16].float()
        places += torch.cdist(stored, unit(teacher.features["head"], 1)[0].flatten(1).T).argmin(1).tolist()
        assert one.queues["pixel"].pointer.tolist() == [0, begin + 16, 0, 0]
    assert len(set(places)) > 60
    assert 130 < sum(places) / len(places) < 270


def test_step_and_seed_alone_say_what_is_drawn() -> None:
    runs = []
    for seed, noise in ((0, 1), (0, 2), (1, 1)):
        torch.manual_seed(noise)
        one = bank(seed=seed, pixels=3000)
        one.load_state_dict(
            {name: value for name, value in bank().state_dict().items() if "project" in name}, strict=False
        )
        state = torch.get_rng_state()
        values = [step_of(one, step, slice(0, 5)) for step in range(2)]
        assert torch.equal(state, torch.get_rng_state()), "the networks' own draws don't shift"
        runs.append((values, one.queues["pixel"].vectors))
    assert runs[0][0] == runs[1][0]
    assert torch.equal(runs[0][1], runs[1][1])
    assert runs[0][0] != runs[2][0]


def test_restored_it_goes_on_bit_for_bit() -> None:
    whole, parts = bank(pixels=3000), bank(pixels=3000, seed=0)
    for step in range(2):
        step_of(whole, step, slice(0, 5))
    parts.load_state_dict(whole.state_dict())
    assert parts.step == 2
    assert step_of(whole, 2, slice(0, 5)) == step_of(parts, 2, slice(0, 5))
    assert all(torch.equal(value, parts.state_dict()[name]) for name, value in whole.state_dict().items())


def test_in_eval_mode_nothing_is_written_and_without_gradient_it_is() -> None:
    one = bank()
    before = copy.deepcopy(one.state_dict())
    one.eval()(output(SAME, 1), output(WIDER, 2), labels())
    assert all(torch.equal(value, before[name]) for name, value in one.state_dict().items())
    with torch.no_grad():
        one.train()(output(SAME, 1), output(WIDER, 2), labels())
    assert one.step == 1
    assert one.queues["pixel"].pointer.any()


@pytest.mark.parametrize("pixels", [0, 1, 2])
def test_few_valid_pixels(pixels: int) -> None:
    """BatchNorm has no deviation of a single value, and of none it makes running means that are no number."""
    one, target = bank(), torch.full((3, 24, 28), VOID)
    target[0, 2, 2 : 2 + 4 * pixels : 4] = 1
    value, gradient = taught(one, output(SAME, 1), output(WIDER, 2), target)
    assert (value > 0) == (pixels > 0)
    assert gradient["head"].isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in one.parameters())
    assert all(buffer.isfinite().all() for buffer in one.buffers())
    assert one.queues["pixel"].pointer.tolist() == [0, pixels, 0, 0]
    assert one.step == 1


def test_a_part_without_weight_has_no_queue() -> None:
    assert set(bank(region=0).state_dict()) - set(bank(pixel=0).state_dict()) == {
        "queues.pixel.vectors",
        "queues.pixel.pointer",
    }
    assert bank(pixels=7).queues["pixel"].vectors.shape == (4, 7, 8)


def test_both_parts_without_weight_are_an_error() -> None:
    entry = LOSSES["cirkd_memory"]
    assert list(entry.problems({"pixel": 0, "region": 0.0}, "it")) == [
        ".options: pixel and region are both 0; give one of them a weight"
    ]
    assert not list(entry.problems({"pixel": 0}, "it"))
    with pytest.raises(RecipeError, match=r"^cirkd_memory: pixel and region are both 0"):
        bank(pixel=0, region=0)


def test_a_bank_that_does_not_fit_is_told_with_its_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cirkd_memory, "free_memory", lambda: 1e6)
    with pytest.raises(RecipeError) as told:
        bank(pixels=20_000, regions=2000)
    assert (
        str(told.value)
        == "cirkd_memory: its bank takes 1.4 MB (4 classes with 22000 places of 8 numbers in float16), more than half"
        " of the 1.0 MB of memory that are free; lower its options pixels and regions"
    )
    bank(pixels=5000, regions=2000)
    bank(pixels=5000, region=0, regions=1_000_000)
    monkeypatch.setattr(cirkd_memory, "free_memory", lambda: None)
    bank(pixels=20_000)


def test_two_processes_fill_one_bank(tmp_path: Path) -> None:
    first, second = bank_process.two(tmp_path)
    alone = bank()
    for step in range(bank_process.STEPS):
        step_of(alone, step, slice(0, 5))
    for name, value in alone.state_dict().items():
        if name == "step" or "queues" in name:
            assert torch.equal(first["bank"][name], second["bank"][name]), name
            assert torch.equal(first["bank"][name], value), name
    assert second["values"][-1] == 0, "all void"
    assert first["values"][-1] > 0
    for name, gradient in first["gradients"].items():
        assert torch.equal(gradient, second["gradients"][name]), name


def test_pixels_that_are_all_alike_have_no_direction() -> None:
    flat = output(SAME, 1)._replace(features={"head": torch.full((3, 5, 6, 7), 0.1)})
    _, gradient = taught(bank(), flat, output(WIDER, 2), labels())
    assert gradient["head"].abs().max() < 1
