"""Which pixels are hard: how many a recipe wants kept, and the smallest numbers of all processes, found without the host
waiting for a device.
"""

from __future__ import annotations

import math
from numbers import Integral

import torch
from torch import Tensor
from torch.nn import functional as F

from rdd_deploy.losses.processes import everywhere, gathered, several

DIGITS = ((20, 11), (10, 10), (0, 10))
"""(shift, bits) of each digit of a float32 >= 0, the highest first; its bits, read as a whole number, are in the numbers' own order."""


def is_near(values: Tensor) -> bool:
    """Whether their numbers may be read at any time; a GPU would be waited for."""
    return bool(values.device.type == "cpu")


def kth_smallest(values: Tensor, k: Tensor) -> Tensor:
    """The k-th smallest of the values of all processes, by counting digit by digit: exact, and three sums over the
    processes.

    Args:
        values: float32, any shape, 0 to inf, no NaN; each process may have another number of them.
        k: int64 (), from 1 on, the same on every process, at most the number of all values.

    Returns:
        float32 ().
    """
    return kth_smallest_of_each(values, torch.zeros_like(values, dtype=torch.int64), k.view(1))[0]


def kth_smallest_of_each(values: Tensor, group: Tensor, k: Tensor) -> Tensor:
    """``kth_smallest`` of each group of values at once.

    Args:
        values: as there. group: int64, of the same shape, 0 to G - 1. k: int64 (G,).

    Returns:
        float32 (G,); of a group without values anything.
    """
    keys, group = values.detach().contiguous().view(torch.int32).flatten(), group.flatten()
    found, ones = keys.new_zeros(len(k)), torch.ones_like(group)
    for shift, bits in DIGITS:
        wide = 2**bits + 1  # the last one: no candidates
        digit, alike = (keys >> shift) & (2**bits - 1), (keys >> (shift + bits)) == found[group]
        counts = ones.new_zeros(len(k) * wide).scatter_add_(
            0, group * wide + torch.where(alike, digit, 2**bits).long(), ones
        )
        reached = everywhere(counts).view(-1, wide)[:, :-1].cumsum(1)
        here = (reached < k[:, None]).sum(1)
        before = reached.gather(1, (here - 1).clamp(min=0)[:, None])[:, 0]
        k = k - torch.where(here > 0, before, 0)
        found = (found << bits) | here.to(torch.int32)
    return found.view(torch.float32)


def hardest_of_each(probability: Tensor, valid: Tensor, target: Tensor, classes: int, least: float) -> Tensor:
    """The pixels of each class whose true-class probability is smallest, over the pixels of all processes.

    Args:
        probability: float32 (N, H, W) of the true class. valid: bool (N, H, W). target: int (N, H, W), the class where
            valid.
        least: of each class: share of its pixels (float) or count (int); all of a class that has fewer. Pixels that are
            as hard as the last one of them are taken, too.

    Returns:
        bool (N, H, W).
    """
    group = torch.where(valid, target, classes).long()
    counts = valid.new_zeros(classes + 1, dtype=torch.int64).scatter_add_(
        0, group.flatten(), valid.flatten().to(torch.int64)
    )
    counts = everywhere(counts)
    wanted = torch.minimum(kept_of_all(least, counts), counts)
    most = kth_smallest_of_each(probability, group, wanted.clamp(min=1))
    return valid & (wanted > 0)[group] & (probability <= most[group])


def kept_count(min_kept: float, pixels: int) -> int:
    """The number of pixels that min_kept means: a float is a share of ``pixels``, rounded up; an int is a count.

    Raises:
        ValueError: negative, or a share above 1.
    """
    share = not isinstance(min_kept, Integral)  # NumPy's numbers too: int() would make a float32 share a count of 0
    if not min_kept >= 0 or (share and min_kept > 1):
        raise ValueError(f"min_kept is {min_kept}; expected a share from 0.0 to 1.0, or a whole number of pixels")
    return math.ceil(min_kept * pixels - 1e-6) if share else int(min_kept)


def kept_of_all(min_kept: float, pixels: Tensor) -> Tensor:
    """``kept_count`` of a number of pixels that lies on a device, int64 ()."""
    if isinstance(min_kept, Integral):
        return torch.full_like(pixels, kept_count(min_kept, 0))
    return (kept_count(min_kept, 0) + min_kept * pixels.double() - 1e-6).ceil().long()


def hard_pixels(probability: Tensor, valid: Tensor, threshold: float, min_kept: float) -> Tensor:
    """Valid pixels whose true-class probability is at most max(threshold, the min_kept-th smallest of all processes).

    Args:
        probability: float (N, H, W) of the true class.
        valid: bool (N, H, W).
        threshold: t in (0, 1). min_kept: share of all pixels (float) or count (int).

    Returns:
        bool (N, H, W).
    """
    hard = (probability <= threshold) & valid
    if is_near(probability):
        # Look whether the threshold suffices before selecting. A GPU isn't asked: that would make the host wait for it.
        found = torch.stack((hard.new_tensor(hard.numel(), dtype=torch.int64), hard.sum(), valid.sum()))
        pixels, hard_count, valid_count = everywhere(found).tolist()
        missing = kept_count(min_kept, pixels) - hard_count
        if missing <= 0:
            return hard
        if hard_count + missing >= valid_count:
            return valid.clone()
        rest = probability[valid & ~hard]  # the pixels above the threshold, a plain vector
        if several():  # the smallest of all are among the smallest of each process
            smallest = rest.topk(min(missing, rest.numel()), largest=False, sorted=False).values
            rest = gathered(F.pad(smallest, (0, missing - smallest.numel()), value=torch.inf))
        if rest.device.type != "cpu":  # torch's selection there isn't deterministic
            return valid & (probability <= rest.topk(missing, largest=False, sorted=False).values.max())
        return valid & (probability <= rest.kthvalue(missing).values)
    ranked = torch.where(valid, probability, torch.inf)
    if several():
        pixels = everywhere(hard.new_full((), hard.numel(), dtype=torch.int64))
        wanted = kept_of_all(min_kept, pixels).clamp(max=pixels)
        smallest = kth_smallest(ranked, wanted.clamp(min=1))
        return torch.where(wanted > 0, valid & (probability <= smallest.clamp(min=threshold)), hard)
    count = kept_count(min_kept, hard.numel())
    if count == 0:
        return hard
    smallest = ranked.flatten().topk(min(count, ranked.numel()), largest=False, sorted=False).values.max()
    return valid & (probability <= smallest.clamp(min=threshold))


def ohem_pixels(true: Tensor, valid: Tensor, target: Tensor, classes: int, per_class: float = 0) -> Tensor:
    """What OHEM learns from (Shrivastava et al., CVPR 2016): bool (N, H, W), valid pixels whose true class has p ≤ 0.7,
    at least 5 % of the batch's pixels, and of each class at least so many as ``per_class`` says.

    Args:
        true: float32 (N, H, W), the true class's probability. valid: bool, target: int, likewise.
        per_class: see ``hardest_of_each``; 0: none.
    """
    kept = hard_pixels(true, valid, threshold=0.7, min_kept=0.05)
    return kept | hardest_of_each(true, valid, target, classes, per_class) if per_class else kept
