"""The teacher's labels where it is sure, against plain loops; the losses on frames with and without labels."""

import numpy as np
import pytest
import torch
from gloo import together
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from rdd_deploy.data.loader import Batch
from rdd_deploy.errors import RecipeError
from rdd_deploy.losses.config import WithoutLabels
from rdd_deploy.losses.rdd import RelativeDifficultyLoss
from rdd_deploy.outputs import Output
from rdd_deploy.training.objective import DistillationObjective
from rdd_deploy.training.pseudo_labels import BINS, Confidence, PseudoLabels, thresholds_of
from rdd_deploy.training.teacher_cache import TeacherPrediction

CLASSES = ("a", "b", "c")


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), labelled=st.integers(0, 4))
def test_labels_are_those_of_a_plain_loop(seed: int, labelled: int) -> None:
    torch.manual_seed(seed)
    teacher, thresholds = 3 * torch.randn(4, 3, 5, 6), torch.rand(3)
    labels, indices = torch.randint(0, 3, (4, 5, 6)), torch.randperm(4)
    labels[indices >= labelled] = 0
    labels[torch.rand(4, 5, 6) < 0.2] = 255
    got = PseudoLabels(thresholds, labelled)(labels, indices, teacher)
    probability = F.softmax(teacher, 1).numpy()
    task, everywhere, sure, inside = labels.numpy().copy(), labels.numpy().copy(), 0, 0
    for n, y, x in np.ndindex(4, 5, 6):
        if indices[n] < labelled or labels[n, y, x] == 255:
            continue
        likeliest = int(probability[n, :, y, x].argmax())
        reached = probability[n, likeliest, y, x] >= thresholds[likeliest].item()
        task[n, y, x], everywhere[n, y, x] = (likeliest if reached else 255), likeliest
        sure, inside = sure + reached, inside + 1
    assert np.array_equal(got.task.numpy(), task)
    assert np.array_equal(got.everywhere.numpy(), everywhere)
    assert torch.equal(got.taught, labels != 255)
    assert got.sure.item() == pytest.approx(sure / max(1, inside))


def test_what_was_pasted_keeps_its_labels() -> None:
    """Copied from a crop with labels into one without: rare classes, of which the teacher is the least sure."""
    teacher = torch.zeros(2, 3, 2, 2)
    teacher[:, 1] = 5
    labels, pasted = torch.zeros(2, 2, 2, dtype=torch.int64), torch.zeros(2, 2, 2, dtype=torch.bool)
    labels[1, 0], pasted[1, 0] = 2, True
    got = PseudoLabels(torch.tensor([0.9, 0.9, 0.9]), 1)(labels, torch.tensor([0, 1]), teacher, pasted)
    assert got.task.tolist() == got.everywhere.tolist() == [[[0, 0], [0, 0]], [[2, 2], [1, 1]]]
    assert got.sure == 1, "of the pixels without labels"


def test_a_gpu_is_never_waited_for() -> None:
    """Tensors without values can't be looked at."""
    labels, indices, teacher = (
        torch.empty(shape, dtype=kind, device="meta")
        for shape, kind in (((4, 5, 6), torch.int64), ((4,), torch.int64), ((4, 3, 5, 6), torch.float32))
    )
    assert PseudoLabels(torch.rand(3), 2).to("meta")(labels, indices, teacher).task.shape == labels.shape


def test_thresholds_are_quantiles_of_each_class() -> None:
    torch.manual_seed(0)
    logits = 2 * torch.randn(6, 3, 40, 50)
    logits[:, 2] -= 50  # a class that the teacher never says
    confidence = Confidence(3)
    for part in logits.split(2):
        confidence.add(part)
    probability, likeliest = F.softmax(logits, 1).max(1)
    for share in (0.0, 0.2, 0.5, 0.9, 1.0):
        got = confidence.quantiles(share)
        for one in (0, 1):
            assert got[one].item() == pytest.approx(
                np.quantile(probability[likeliest == one].numpy(), share), abs=2 / BINS
            )
        assert got[2] == 1
    one = thresholds_of(WithoutLabels(), CLASSES, confidence)
    assert torch.allclose(one, torch.minimum(confidence.quantiles(0.5), torch.tensor(0.9)))
    assert thresholds_of(WithoutLabels(quantile=1.0, threshold=0.8), CLASSES, confidence).tolist() == pytest.approx(
        [0.8] * 3
    )
    assert thresholds_of(WithoutLabels(thresholds={"b": 0.3}), CLASSES, None).tolist() == pytest.approx([0.9, 0.3, 0.9])
    reached = (probability >= one[likeliest]).float().mean().item()
    assert confidence.share_above(one) == pytest.approx(reached, abs=0.01)
    with pytest.raises(
        RecipeError,
        match=r"distillation\.unlabelled\.thresholds: 'car' is no class of the data set; expected some of a, b, c",
    ):
        thresholds_of(WithoutLabels(thresholds={"car": 0.3}), CLASSES, None)


class Said(torch.nn.Module):
    """A teacher that says what it is given."""

    def __init__(self, taught: TeacherPrediction) -> None:
        super().__init__()
        self.taught = taught

    def __call__(self, batch: Batch, auxiliary: bool, maps: object = None) -> TeacherPrediction:
        return self.taught


def case(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, Batch]:
    """Student's and teacher's logits, stage 1's weight, and a batch whose second half has no labels."""
    torch.manual_seed(seed)
    student, teacher = torch.randn(4, 3, 8, 9, requires_grad=True), 3 * torch.randn(4, 3, 8, 9)
    labels = torch.randint(0, 3, (4, 8, 9))
    labels[2:] = 0
    labels[:, :2] = 255
    none = torch.zeros(4, 3, 8, 9, dtype=torch.uint8)
    return student, teacher, torch.rand(4, 8, 9), Batch(none, labels, torch.zeros(4, 5), torch.tensor([0, 1, 5, 6]))


def objective(
    teacher: torch.Tensor, agreement: torch.Tensor, thresholds: torch.Tensor | None, **changes: object
) -> DistillationObjective:
    loss = RelativeDifficultyLoss(**changes)  # type: ignore[arg-type]
    pseudo = None if thresholds is None else PseudoLabels(thresholds, 2)
    return DistillationObjective(loss, Said(TeacherPrediction(teacher, None, {}, agreement)), [], 0.4, pseudo)


@pytest.mark.parametrize("progress", [0.0, 0.5])
def test_kd_is_everywhere_and_the_task_where_the_teacher_is_sure(progress: float) -> None:
    student, teacher, agreement, batch = case()
    thresholds = torch.tensor([0.6, 0.7, 0.8])
    got = objective(teacher, agreement, thresholds)(Output(student, None), batch, progress)
    targets = PseudoLabels(thresholds, 2)(batch.labels, batch.indices, teacher)
    as_labels = RelativeDifficultyLoss()(student, teacher, None, targets.task, progress, agreement=agreement)
    assert got.terms["task"].item() == as_labels.terms["task"].item()
    assert 0 < got.terms["sure"].item() < 1
    log_s, log_t = F.log_softmax(student, 1), F.log_softmax(teacher, 1)
    kl = (log_t.exp() * (log_t - log_s)).sum(1)
    assert got.terms["kd"].item() == pytest.approx(kl[batch.labels != 255].mean().item(), rel=1e-5)
    got.total.backward()
    own = student.grad
    assert own is not None
    again = student.detach().clone().requires_grad_()
    log_s = F.log_softmax(again, 1)
    task = RelativeDifficultyLoss(kd_weight=0.0)(
        again, teacher, None, targets.task, progress, agreement=agreement
    ).total
    (task + (log_t.exp() * (log_t - log_s)).sum(1)[batch.labels != 255].mean()).backward()
    assert torch.allclose(own, again.grad, atol=1e-6)  # type: ignore[arg-type]
    assert (own[:, :, :2] == 0).all(), "void and beyond the frame nothing pulls"
    assert (own[2:, :, 2:] != 0).any(1).all(), "every pixel of a frame without labels does"


def test_void_of_any_value_is_inert() -> None:
    student, teacher, agreement, batch = case()
    with torch.no_grad():
        student[:, :, :2] = torch.nan
        teacher[:, :, :2] = torch.inf
    result = objective(teacher, agreement, torch.full((3,), 0.7), ce_weight=0.5)(Output(student, None), batch, 0.5)
    result.total.backward()
    assert result.total.isfinite()
    assert student.grad is not None
    assert student.grad.isfinite().all()
    assert (student.grad[:, :, :2] == 0).all()


def test_without_such_frames_nothing_changes() -> None:
    student, teacher, agreement, batch = case()
    batch = batch._replace(indices=torch.tensor([0, 1, 1, 0]))
    grads = []
    for thresholds in (None, torch.full((3,), 0.7)):
        again = student.detach().clone().requires_grad_()
        result = objective(teacher, agreement, thresholds)(Output(again, None), batch, 0.5)
        result.total.backward()
        grads.append((again.grad, {name: value for name, value in result.terms.items() if name != "sure"}))
    assert torch.equal(grads[0][0], grads[1][0])  # type: ignore[arg-type]
    assert grads[0][1] == grads[1][1]


def _part(rows: list[int]) -> list[torch.Tensor]:
    student, teacher, agreement, batch = case()
    own = student.detach()[rows].requires_grad_()
    result = objective(teacher[rows], agreement[rows], torch.full((3,), 0.7))(
        Output(own, None), Batch(*(one[rows] for one in batch)), 0.5
    )
    result.total.backward()
    assert own.grad is not None
    return [result.total.detach(), own.grad, result.terms["sure"]]


def test_two_processes_are_one_batch_also_where_one_has_no_labels() -> None:
    student, teacher, agreement, batch = case()
    result = objective(teacher, agreement, torch.full((3,), 0.7))(Output(student, None), batch, 0.5)
    result.total.backward()
    one, other = together(_part, [[0, 1], [2, 3]])
    assert ((one[0] + other[0]) / 2).item() == pytest.approx(result.total.item(), rel=1e-5)
    assert torch.allclose(torch.cat((one[1], other[1])) / 2, student.grad, atol=1e-6)  # type: ignore[arg-type]
    assert ((one[2] + other[2]) / 2).item() == pytest.approx(result.terms["sure"].item(), rel=1e-5)
