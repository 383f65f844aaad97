"""Which of a data set's training frames are used with their masks. No torch here."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rdd_deploy.data.base import Split, Subset


def labelled_indices(count: int, share: float) -> NDArray[np.int64]:
    """Every 1/share-th of ``count`` frames, from the first on, at least one.

    Frames of a recording follow each other by name, so each recording has its part. Of 1/8 all are among those of 1/4.
    """
    wanted = max(1, round(count * share))
    return np.minimum((np.arange(wanted) / share + 1e-9).astype(np.int64), count - 1)


def labelled(split: Split, share: float) -> Split:
    """The split, or the part of it that ``labelled_indices`` names."""
    return split if share >= 1 else Subset(split, labelled_indices(len(split), share).tolist())
