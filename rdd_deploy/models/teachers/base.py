"""What distillation needs of a teacher, whoever built it."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from torch import Tensor

from rdd_deploy.outputs import Output


class TeacherModel(Protocol):
    """A frozen network that says logits of raw frames. The cache, test-time augmentation and pictures use nothing else of a teacher.

    Attributes:
        classes: number of classes, in the data set's order.
        has_auxiliary: whether ``Output.auxiliary`` is there, which stage 1 of RDD compares with.
    """

    classes: int

    @property
    def has_auxiliary(self) -> bool: ...

    def logits_at_stride(self, frames: Tensor, maps: Collection[str] = ()) -> Output:
        """Logits (N, C, h, w) of uint8 RGB frames (N, 3, H, W) at the network's own resolution, and the named maps.

        Raises:
            ValueError: a map that the network doesn't have.
        """
        ...

    # As every ``nn.Module`` has them.
    def eval(self) -> Any: ...
    def requires_grad_(self, requires_grad: bool = True) -> Any: ...
    def to(self, *args: Any, **kwargs: Any) -> Any: ...


class LoadedTeacher(NamedTuple):
    """A teacher as its loader returns it."""

    model: TeacherModel
    size: tuple[int, int] | None
    """(height, width) of the frames that it was trained on; None where it doesn't say."""
    sha256: str
    """Of the bytes that were loaded: a run resumes with the same ones only, a cache belongs to them."""


class TeacherLoader(Protocol):
    """Loads a teacher from a local file or folder; raises WeightsError where it isn't whole or has other classes."""

    def __call__(self, path: Path, classes: list[str], **options: Any) -> LoadedTeacher: ...
