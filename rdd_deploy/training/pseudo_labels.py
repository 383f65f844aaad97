"""The teacher's labels on frames that nobody labelled: where it is sure, by a threshold for each class.

Sohn et al., "FixMatch", NeurIPS 2020, for one threshold; Zou, Yu, Kumar, Wang, "Unsupervised Domain Adaptation for
Semantic Segmentation via Class-Balanced Self-Training", ECCV 2018, for thresholds by quantiles of each class, so that
classes which a teacher is never very sure of have labels, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rdd_deploy.data.base import IGNORE
from rdd_deploy.errors import RecipeError
from rdd_deploy.losses.config import WithoutLabels
from rdd_deploy.losses.processes import mean_pixels

BINS = 1000
"""Of the probabilities' histograms: a quantile is exact to a thousandth."""


class Targets(NamedTuple):
    """What a batch's losses are taken against.

    Attributes:
        task: int64 (N, H, W): labels; on frames without any the teacher's where it is sure, else void.
        everywhere: int64 (N, H, W): likewise, and the teacher's also where it isn't sure: what the further distillation
            losses see.
        taught: bool (N, H, W): pixels of the KD term, all that aren't void in ``everywhere``.
        sure: share of the pixels of frames without labels that have one in ``task``, float (); 0 where the batch holds
            none. Of several processes the mean of theirs is the batch's.
    """

    task: Tensor
    everywhere: Tensor
    taught: Tensor
    sure: Tensor


class PseudoLabels(nn.Module):
    """Makes labels of what the teacher says.

    Args:
        thresholds: float (C,), least probability of each class.
        labelled: number of frames with labels, whose indices come first.
    """

    thresholds: Tensor

    def __init__(self, thresholds: Tensor, labelled: int) -> None:
        super().__init__()
        self.register_buffer("thresholds", thresholds.float())  # saved: a resumed run has the same to the bit
        self.labelled = labelled

    def forward(self, labels: Tensor, indices: Tensor, teacher: Tensor, pasted: Tensor | None = None) -> Targets:
        """Args:
        labels: int64 (N, H, W); of frames without labels 0 in the frame and ``IGNORE`` beyond. indices: int64 (N,) of
        the frames. teacher: its logits, float (N, C, H, W). pasted: bool (N, H, W), pixels that were copied from
        frames with labels, and have theirs.
        """
        # No selection of the frames without labels: a GPU would wait for their number.
        bare = (indices >= self.labelled)[:, None, None]
        if pasted is not None:
            bare = bare & ~pasted
        inside = bare & (labels != IGNORE)
        probability, likeliest = F.softmax(teacher.float(), 1).max(1)
        sure = inside & (probability >= self.thresholds[likeliest])
        task = torch.where(bare, torch.where(sure, likeliest, IGNORE), labels)
        everywhere = torch.where(inside, likeliest, labels)
        return Targets(task, everywhere, everywhere != IGNORE, sure.sum() / mean_pixels(inside))


class Confidence:
    """How sure a teacher is of each class, counted over frames.

    Args:
        classes: their number.
    """

    def __init__(self, classes: int) -> None:
        self.classes = classes
        self.counts = torch.zeros(classes, BINS, dtype=torch.int64)

    def add(self, logits: Tensor) -> None:
        """Count the pixels of logits (N, C, h, w)."""
        probability, likeliest = F.softmax(logits.float(), 1).max(1)
        bins = (probability * BINS).long().clamp(0, BINS - 1)
        self.counts += torch.bincount((likeliest * BINS + bins).flatten().cpu(), minlength=self.classes * BINS).view(
            self.classes, BINS
        )

    def quantiles(self, share: float) -> Tensor:
        """Of each class the probability that so large a share of its pixels lie below, float (C,); 1 for a class
        without pixels.
        """
        below = self.counts.cumsum(1)
        total = below[:, -1:]
        first = (below >= (share * total).clamp(min=1)).float().argmax(1)
        return torch.where(total[:, 0] > 0, first / BINS, 1.0)

    def share_above(self, thresholds: Tensor) -> float:
        """Share of the pixels whose class's threshold, float (C,), they reach."""
        reached = torch.arange(BINS)[None] >= (thresholds * BINS).floor().long()[:, None]
        return float((self.counts * reached).sum() / self.counts.sum().clamp(min=1))


def thresholds_of(config: WithoutLabels, classes: Sequence[str], confidence: Confidence | None) -> Tensor:
    """The threshold of each class, float (C,).

    Args:
        confidence: of the teacher; None where ``config.quantile`` isn't asked for.

    Raises:
        RecipeError: a threshold for a class that the data set doesn't have.
    """
    check_names(config, classes)
    thresholds = torch.full((len(classes),), config.threshold)
    if config.quantile < 1 and confidence is not None:
        thresholds = torch.minimum(thresholds, confidence.quantiles(config.quantile))
    for name, value in config.thresholds.items():
        thresholds[list(classes).index(name)] = value
    return thresholds


def check_names(config: WithoutLabels, classes: Sequence[str]) -> None:
    """Raise RecipeError for a threshold of a class that there isn't."""
    if unknown := [name for name in config.thresholds if name not in classes]:
        raise RecipeError(
            f"distillation.unlabelled.thresholds: '{unknown[0]}' is no class of the data set; expected some of"
            f" {', '.join(classes)}"
        )
