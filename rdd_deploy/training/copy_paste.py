"""Rare classes of one crop copied into another of the same batch.

As ClassMix does (Olsson et al., WACV 2021), whole classes are copied, with their labels and with what a teacher says of
them; as in copy-paste (Ghiasi et al., CVPR 2021) both crops have labels. Which class is drawn by rarity in the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from rdd_deploy.data.loader import Batch, BatchBeside
from rdd_deploy.data.rare_crops import POWER
from rdd_deploy.losses.processes import further, gathered, rank


class Pasted(NamedTuple):
    """What was copied into which crop of a batch.

    Attributes:
        mask: bool (N, h, w), the pixels of each crop that come from another one.
        shift: how much further in the whole batch that one is, around its end.
        lengths: of several processes, how many crops each has, by rank.
    """

    mask: Tensor
    shift: int
    lengths: Sequence[int] = ()

    def onto(self, values: Tensor) -> Tensor:
        """Values (N, ..., h, w) of the crops as they were, copied like the pixels; a map of another stride at the
        nearest ones. Of several processes all call this together.
        """
        mask = self.mask
        if values.shape[-2:] != mask.shape[-2:]:
            mask = F.interpolate(mask[:, None].float(), values.shape[-2:], mode="nearest-exact")[:, 0].bool()
        mask = mask.view(len(mask), *[1] * (values.ndim - 3), *mask.shape[-2:])
        return torch.where(mask, further(values, self.shift, self.lengths), values)


def copy_pasted(
    batch: Batch | BatchBeside,
    share: float,
    classes: int,
    labelled: int,
    seed: list[int],
    lengths: Sequence[int] = (),
) -> BatchBeside:
    """A batch in which a share of the crops shows one more class: all of its pixels in another crop.

    Args:
        share: of the crops, in [0, 1]. classes: number of classes.
        labelled: frames with labels, whose crops alone can be copied from; of any other the index is that or above.
        seed: what is drawn depends on nothing else but the batch.
        lengths: where several processes hold a part of the batch each: how many crops, by rank. All call this together,
            and draw what one process would.
    """
    device, first = batch.labels.device, sum(lengths[: rank()])
    own = slice(first, first + len(batch.labels))
    pixels = torch.stack([(batch.labels == c).sum((-2, -1)) for c in range(classes)], 1)  # (N, C)
    pixels = pixels * (batch.indices < labelled)[:, None]  # frames without labels hold 0, which is no class there
    usable = pixels > 0
    pixels, usable = (gathered(one, lengths) if lengths else one for one in (pixels, usable))
    count = len(pixels)
    numbers = np.random.default_rng(seed)
    shift = int(numbers.integers(1, max(2, count)))  # every crop is copied from once at most, and never into itself
    taken, which = torch.from_numpy(numbers.random((2, count)).astype(np.float32)).to(device, non_blocking=True)
    upto = (pixels.sum(0).clamp(min=1).float() ** -POWER * usable).cumsum(1).roll(-shift, 0)
    # The first class whose end lies above the number that was drawn.
    drawn = (upto <= which[:, None] * upto[:, -1:]).sum(1).clamp(max=classes - 1)
    there = (taken < share) & (upto[:, -1] > 0) & (count > 1)
    sources = further(batch.labels, shift, lengths)
    pasted = Pasted((sources == drawn[own, None, None]) & there[own, None, None], shift, lengths)
    return BatchBeside(
        pasted.onto(batch.images),
        pasted.onto(batch.labels),
        batch.windows,
        batch.indices,
        getattr(batch, "beside", {}),
        pasted,
    )
