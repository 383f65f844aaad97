"""Read every pair of a split once before training, so that a bad file is an error with its path, not a crash later."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rdd_deploy.data.base import IGNORE, Split, size_problem
from rdd_deploy.errors import DataError


@dataclass(frozen=True)
class SplitFacts:
    """What the check saw of one split."""

    count: int
    pixels: NDArray[np.int64]
    """Pixels per class, (C,)."""
    void_share: float
    digests: dict[str, str]
    """Digest of the frame's pixels -> sample name."""
    digest: str
    """Digest of all frames in their order, repeated ones too: what is kept per index belongs to exactly this."""
    labels_digest: str
    """The same of their labels."""

    def absent(self, classes: tuple[str, ...]) -> list[str]:
        """Classes without a single pixel."""
        return [name for name, pixels in zip(classes, self.pixels, strict=True) if pixels == 0]


def check_split(
    split: Split,
    advance: Callable[[], None] = lambda: None,
    pair: Callable[[int], tuple[np.ndarray, np.ndarray]] | None = None,
) -> SplitFacts:
    """Read every pair of a split.

    Args:
        advance: called after each sample, for a progress bar.
        pair: reads (frame, labels) of an index; default: from the split itself.

    Raises:
        DataError: a file that can't be read, sizes that differ, unknown class ids, no samples, or only void pixels.
    """
    if not len(split):
        raise DataError("the split holds no samples; expected at least one frame with its mask")

    def look(index: int) -> tuple[str, str, NDArray[np.int64], int]:
        frame, labels = pair(index) if pair else (split.frame(index), split.labels(index))
        if frame.shape[:2] != labels.shape:
            raise DataError(
                f"{split.names[index]}: {size_problem(frame.shape, labels.shape)}; both must be of one size"
            )
        counts = np.bincount(labels.ravel(), minlength=IGNORE + 1)
        if counts[len(split.label_space) : IGNORE].any():
            ids = [len(split.label_space) + int(i) for i in np.flatnonzero(counts[len(split.label_space) : IGNORE])]
            raise DataError(
                f"{split.names[index]}: the labels hold unknown class ids {ids}; expected 0 to"
                f" {len(split.label_space) - 1} or void"
            )
        advance()
        return _digest(frame), _digest(labels), counts[: len(split.label_space)], int(counts[IGNORE])

    with ThreadPoolExecutor(4) as pool:
        seen = list(pool.map(look, range(len(split))))
    frames, labels, counts, voids = zip(*seen, strict=True)
    pixels, void = np.sum(counts, 0), sum(voids)
    if not pixels.sum():
        raise DataError("every pixel of the split is void; expected class ids, see data.void_ids")
    digests = dict(zip(frames, split.names, strict=True))
    return SplitFacts(len(split), pixels, void / (void + int(pixels.sum())), digests, _all(frames), _all(labels))


def _digest(pixels: NDArray[np.uint8]) -> str:
    return hashlib.blake2b(np.ascontiguousarray(pixels).data, digest_size=16).hexdigest()


def _all(digests: Iterable[str]) -> str:
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def check_apart(train: SplitFacts, other: SplitFacts, name: str) -> None:
    """Raise DataError where the same image is in both splits: its mIoU would be too good to be true."""
    shared = sorted(set(train.digests) & set(other.digests))
    if shared:
        first = shared[0]
        raise DataError(
            f"{len(shared)} images are in both train and {name}, e.g. {train.digests[first]} and"
            f" {other.digests[first]}; remove them from one, or the measured mIoU means nothing"
        )
