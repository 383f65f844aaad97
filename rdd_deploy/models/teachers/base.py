"""What distillation needs of a teacher, whoever built it, and what the adapters of networks from elsewhere share."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torchvision.transforms.v2.functional import resize
from typing_extensions import Self

from rdd_deploy.outputs import Output


class TeacherModel(Protocol):
    """A frozen network that says logits of raw frames. The cache, test-time augmentation and pictures use nothing else
    of a teacher.

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
    names: Sequence[str] | None = None
    """Of its classes in its own order; empty where they have none, None where they are the data's in the data's order."""
    about: str = ""
    """What it is and how frames are prepared for it, in a few words for people."""
    facts: Mapping[str, Any] = {}
    """JSON values for the run's summary, of a teacher that isn't one checkpoint as it is."""
    rescales: bool = False
    """Whether it resizes all that it is shown to a size of its own."""


class TeacherLoader(Protocol):
    """Loads a teacher from a local file or folder; raises WeightsError where it isn't whole or has other classes.

    ``classes`` are the data's; a loader that returns its own ``names`` leaves it to the class map to compare them.
    """

    def __call__(self, path: Path, classes: list[str], **options: Any) -> LoadedTeacher: ...


class Around:
    """Base of what puts teachers together: where they are, and how they are set, is passed on."""

    def __init__(self, *inner: TeacherModel) -> None:
        self.inner = inner

    def eval(self) -> Self:
        for one in self.inner:
            one.eval()
        return self

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        for one in self.inner:
            one.requires_grad_(requires_grad)
        return self

    def to(self, *args: Any, **kwargs: Any) -> Self:
        self.inner = tuple(one.to(*args, **kwargs) for one in self.inner)
        return self


class Adapter(nn.Module):
    """Base of networks from elsewhere.

    Args:
        classes: number of classes. mean, std: of red, green and blue, in units of ``scale`` · grey level.
        multiple: frames whose height or width isn't a multiple of it are resized to the next one; 1: any will do.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        classes: int,
        mean: Sequence[float] = (0, 0, 0),
        std: Sequence[float] = (1, 1, 1),
        scale: float = 1 / 255,
        multiple: int = 1,
    ) -> None:
        super().__init__()
        self.classes, self.multiple, self.scale = classes, multiple, scale
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(1, 3, 1, 1), persistent=False)

    @property
    def has_auxiliary(self) -> bool:
        """Whether there is an auxiliary head."""
        return False

    def prepared(self, frames: Tensor, size: Sequence[int] | None = None) -> Tensor:
        """Frames uint8 (N, 3, H, W) as the network takes them: float (N, 3, h, w), normalised, at ``size`` or the next
        multiple.
        """
        size = size or [-(-side // self.multiple) * self.multiple for side in frames.shape[-2:]]
        if list(frames.shape[-2:]) != list(size):
            frames = resize(frames, list(size), antialias=True)
        return (frames.float() * self.scale - self.mean) / self.std


IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Mean and spread of ImageNet's photographs, in [0, 1]."""
LEAST = 1e-7
"""Probability of a class that a network gives none: its logarithm is a logit."""


def chosen(known: Mapping[str, Tensor], maps: Collection[str]) -> dict[str, Tensor]:
    """The named maps. Raises ValueError where one isn't known."""
    if missing := sorted(set(maps) - set(known)):
        raise ValueError(f"the network has no map {', '.join(missing)}; expected some of {', '.join(known)}")
    return {name: known[name] for name in maps}


def stages(features: Sequence[Tensor], height: int) -> dict[str, Tensor]:
    """Feature maps (N, D, h, w) by the names of their strides: stage1 has stride 2, stage5 stride 32; of several of one
    stride the last.

    Args:
        height: of the frames that the network saw.
    """
    found = {}
    for one in features:
        number = round(math.log2(max(2, height / one.shape[-2])))
        found[f"stage{min(number, 5)}"] = one
    return found


def of_two(logits: Tensor) -> Tensor:
    """Logits (N, 2, h, w) of a network with one logit, whose sigmoid is the probability of the second class; others as
    they are.
    """
    return torch.cat((torch.zeros_like(logits), logits), 1) if logits.shape[1] == 1 else logits


def digest_of(*parts: Any) -> str:
    """Hex SHA-256 of JSON values."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
