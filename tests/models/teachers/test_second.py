"""Second opinions and ensembles: what each compares, and that averaging over views doesn't make them agree with
themselves.
"""

from collections.abc import Collection

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rdd_deploy.losses.rdd import teacher_full_evaluated
from rdd_deploy.models.teachers.base import TeacherModel
from rdd_deploy.models.teachers.second import Ensemble, Fitted, Mirrored, Scaled
from rdd_deploy.models.tta import TestTimeAugmentation, tta_logits
from rdd_deploy.outputs import Output, resized


class Sided(nn.Module):
    """A network that doesn't treat left and right alike."""

    def __init__(self, seed: int = 0, auxiliary: bool = False) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.classes, self.has_auxiliary = 3, auxiliary
        self.layer = nn.Conv2d(3, 3, 3, 2, 1)
        nn.init.normal_(self.layer.weight, std=2)

    def logits_at_stride(self, frames: Tensor, maps: Collection[str] = ()) -> Output:
        small = self.layer(frames.float() / 255)
        return Output(small, 0.5 * small if self.has_auxiliary else None, dict.fromkeys(maps, small))


@pytest.fixture
def frames() -> Tensor:
    return torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def test_flip_is_the_mirrored_frames_prediction_mirrored_back(frames: Tensor) -> None:
    inner = Sided()
    said = Mirrored(inner).logits_at_stride(frames, ["head"])
    assert torch.equal(said.primary, inner.logits_at_stride(frames).primary)
    assert torch.equal(said.auxiliary, inner.logits_at_stride(frames.flip(-1)).primary.flip(-1))  # type: ignore[arg-type]
    assert set(said.features) == {"head"}
    mirrored = Mirrored(inner).logits_at_stride(frames.flip(-1))
    torch.testing.assert_close(mirrored.primary.flip(-1), said.auxiliary)


def test_scale_is_the_prediction_of_the_other_size_on_the_same_grid(frames: Tensor) -> None:
    inner = Sided()
    said = Scaled(inner, 0.5).logits_at_stride(frames)
    small = resized(frames.float(), (32, 48)).round().to(torch.uint8)
    torch.testing.assert_close(said.auxiliary, resized(inner.logits_at_stride(small).primary, said.primary.shape[-2:]))


@pytest.mark.parametrize("second", [Mirrored(Sided()), Scaled(Sided(), 0.5)])
def test_averaging_over_the_same_views_leaves_the_second_opinion_apart(second: TeacherModel, frames: Tensor) -> None:
    said = tta_logits(second, frames, TestTimeAugmentation((64, 96), (0.5, 1.0), True), (32, 48))
    plain = tta_logits(second.first, frames, TestTimeAugmentation((64, 96), (0.5, 1.0), True), (32, 48))  # type: ignore[attr-defined]
    assert torch.equal(said.primary, plain.primary), "what it teaches is what it would teach alone"
    alone = second.logits_at_stride(frames).auxiliary
    torch.testing.assert_close(said.auxiliary, F.log_softmax(resized(alone, (32, 48)), 1))  # type: ignore[arg-type]
    assert teacher_full_evaluated(said.primary, said.auxiliary).mean() < 0.98  # type: ignore[arg-type]


def test_an_ensemble_says_the_mean_probability_and_compares_the_others(frames: Tensor) -> None:
    first, second = Sided(1), Sided(2)
    said = Ensemble([first, second], compared=True).logits_at_stride(frames, ["head"])
    a, b = (one.logits_at_stride(frames).primary for one in (first, second))
    torch.testing.assert_close(said.primary.exp(), (a.softmax(1) + b.softmax(1)) / 2)
    torch.testing.assert_close(said.auxiliary, F.log_softmax(b, 1))
    assert torch.equal(said.features["head"], a)
    assert not Ensemble([first, Sided(2, True)], False).has_auxiliary
    heads = Ensemble([Sided(1, True), Sided(2, True)], False).logits_at_stride(frames)
    torch.testing.assert_close(heads.auxiliary.exp(), ((a / 2).softmax(1) + (b / 2).softmax(1)) / 2)  # type: ignore[union-attr]


def test_each_class_of_an_ensemble_is_averaged_over_those_that_know_it(frames: Tensor) -> None:
    first, second = Sided(1, True), Sided(2, True)
    knows = torch.tensor([[True, True, False], [True, False, False]])
    said = Ensemble([first, second], False, knows).logits_at_stride(frames)
    a, b = (one.logits_at_stride(frames).primary.softmax(1) for one in (first, second))
    wanted = torch.stack(((a[:, 0] + b[:, 0]) / 2, a[:, 1], (a[:, 2] + b[:, 2]) / 2), 1)
    torch.testing.assert_close(said.primary.exp(), wanted / wanted.sum(1, keepdim=True))
    torch.testing.assert_close(said.auxiliary.exp().sum(1), torch.ones(2, 32, 48))  # type: ignore[union-attr]
    compared = Ensemble([first, second], True, knows).logits_at_stride(frames)
    assert compared.auxiliary.isfinite().all()  # type: ignore[union-attr]


def test_a_fitted_head_reads_its_map_and_hands_out_only_what_was_asked_for(frames: Tensor) -> None:
    inner = Sided()
    teacher = Fitted(inner, "stage4", 3).to(torch.device("cpu")).eval().requires_grad_(False)
    said = teacher.logits_at_stride(frames, ["head"])
    assert set(said.features) == {"head"}
    assert said.auxiliary.shape == (2, 3, 32, 48)  # type: ignore[union-attr]
    assert not any(p.requires_grad for p in (*teacher.head.parameters(), *inner.parameters()))
