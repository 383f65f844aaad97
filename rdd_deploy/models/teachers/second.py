"""Second opinions for stage 1 of RDD, of teachers without an auxiliary head (or instead of it), and teachers put
together.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from rdd_deploy.models.heads import FCN
from rdd_deploy.models.teachers.base import Around, TeacherModel
from rdd_deploy.outputs import Output, resized


class SecondView(Around):
    """A teacher whose second opinion is what it says of another view of the same frame."""

    has_auxiliary = True

    def __init__(self, teacher: TeacherModel) -> None:
        super().__init__(teacher)
        self.classes = teacher.classes

    @property
    def first(self) -> TeacherModel:
        """The teacher itself."""
        return self.inner[0]

    def logits_at_stride(self, frames: Tensor, maps: Collection[str] = ()) -> Output:
        output = self.first.logits_at_stride(frames, maps)
        return Output(output.primary, resized(self.second(frames), output.primary.shape[-2:]), output.features)

    def second(self, frames: Tensor) -> Tensor:
        """Logits float32 (N, C, h, w) of the other view, as they lie on the frames."""
        raise NotImplementedError


class Mirrored(SecondView):
    """``second: flip``: of the mirrored frame, mirrored back."""

    def second(self, frames: Tensor) -> Tensor:
        return self.first.logits_at_stride(frames.flip(-1)).primary.float().flip(-1)


class Scaled(SecondView):
    """``second: scale``: of the frame at another scale."""

    def __init__(self, teacher: TeacherModel, scale: float) -> None:
        super().__init__(teacher)
        self.scale = scale

    def second(self, frames: Tensor) -> Tensor:
        size = [max(32, round(side * self.scale)) for side in frames.shape[-2:]]
        return self.first.logits_at_stride(resized(frames.float(), size).round_().to(torch.uint8)).primary.float()


class Fitted(Around):
    """``second: fitted``: of an auxiliary FCN head on one of the teacher's maps.

    Args:
        map_name: which. channels: its width.
    """

    has_auxiliary = True

    def __init__(self, teacher: TeacherModel, map_name: str, channels: int) -> None:
        self.head = FCN(channels, teacher.classes, 0.0).eval().requires_grad_(False)
        super().__init__(teacher)
        self.classes, self.map_name = teacher.classes, map_name

    def eval(self) -> Fitted:
        self.head.eval()
        return super().eval()

    def requires_grad_(self, requires_grad: bool = True) -> Fitted:
        self.head.requires_grad_(requires_grad)
        return super().requires_grad_(requires_grad)

    def to(self, *args: object, **kwargs: object) -> Fitted:
        self.head.to(*args, **kwargs)  # type: ignore[call-overload]
        return super().to(*args, **kwargs)

    def logits_at_stride(self, frames: Tensor, maps: Collection[str] = ()) -> Output:
        output = self.inner[0].logits_at_stride(frames, {*maps, self.map_name})
        features = {name: output.features[name] for name in maps}
        return Output(output.primary, self.head(output.features[self.map_name]), features)


class Ensemble(Around):
    """Several teachers that say the logarithm of their mean probability. Maps are the first one's.

    Args:
        knows: bool (teachers, C), which of them knows which class: each class is averaged over those that do, and all
            are scaled to add up to 1; default: all know all.
        compared: whether the second opinion is that of all but the first; else it is that of their auxiliary heads,
            where all have one.
    """

    def __init__(self, teachers: Sequence[TeacherModel], compared: bool, knows: Tensor | None = None) -> None:
        super().__init__(*teachers)
        self.classes, self.compared = teachers[0].classes, compared
        self.knows = torch.ones(len(teachers), self.classes, dtype=torch.bool) if knows is None else knows

    @property
    def has_auxiliary(self) -> bool:
        return self.compared or all(one.has_auxiliary for one in self.inner)

    def logits_at_stride(self, frames: Tensor, maps: Collection[str] = ()) -> Output:
        first, *others = outputs = [
            one.logits_at_stride(frames, maps if number == 0 else ()) for number, one in enumerate(self.inner)
        ]
        size = max((tuple(one.primary.shape[-2:]) for one in outputs), key=math.prod)
        primary = mean_probability([one.primary for one in outputs], size, self.knows)
        if not self.has_auxiliary:
            return Output(primary, None, first.features)
        second = [one.primary for one in others] if self.compared else [one.auxiliary for one in outputs]
        knows = self.knows[1:] if self.compared else self.knows
        return Output(
            primary, mean_probability([one for one in second if one is not None], size, knows), first.features
        )


def mean_probability(logits: Sequence[Tensor], size: Sequence[int], knows: Tensor) -> Tensor:
    """The logarithm of the mean of softmax(logits), float32 (N, C, *size); ``knows`` as in ``Ensemble``."""
    several = torch.stack([F.log_softmax(resized(one.float(), size), 1) for one in logits])
    if bool(knows.all()):
        return torch.logsumexp(several, 0) - math.log(len(several))
    # A class that none of them knows has the little that each gives it.
    knows = (knows | ~knows.any(0)).to(several.device)[:, None, :, None, None]
    mean = torch.where(knows, several, -torch.inf).logsumexp(0) - knows.sum(0).log()
    return F.log_softmax(mean, 1)
