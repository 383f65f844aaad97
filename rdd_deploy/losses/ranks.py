"""How many pixels a recipe wants kept, and the k-th smallest number of all processes, found without the host waiting
for a device.
"""

from __future__ import annotations

import math
from numbers import Integral

import torch
from torch import Tensor

from rdd_deploy.losses.processes import everywhere

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
    keys = values.detach().contiguous().view(torch.int32).flatten()
    found, ones = keys.new_zeros(()), torch.ones_like(keys, dtype=torch.int64)
    for shift, bits in DIGITS:
        digit, alike = (keys >> shift) & (2**bits - 1), (keys >> (shift + bits)) == found
        counts = ones.new_zeros(2**bits + 1).scatter_add_(
            0, torch.where(alike, digit, 2**bits).long(), ones
        )  # the last one: no candidates
        reached = everywhere(counts)[:-1].cumsum(0)
        here = (reached < k).sum()
        before = reached.gather(0, (here - 1).clamp(min=0).view(1)).squeeze()
        k = k - torch.where(here > 0, before, 0)
        found = (found << bits) | here.to(torch.int32)
    return found.view(torch.float32)


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
