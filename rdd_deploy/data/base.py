"""Base classes of data sets: named pairs of frames and label maps with a class list. Imports no torch: the edge reads
data, too.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rdd_deploy.data.ids import Ids
from rdd_deploy.data.image_file import Header
from rdd_deploy.data.label_space import IGNORE, LabelSpace
from rdd_deploy.data.listing import headers_of, shape_notes, turned_notes
from rdd_deploy.data.reader import read_frame
from rdd_deploy.errors import DataError

__all__ = ["IGNORE", "FileSplit", "Frame", "LabelSpace", "Labels", "Split", "frame_paths", "size_problem"]


Frame = NDArray[np.uint8]
"""uint8 (H, W, 3), RGB unless a name says BGR."""
Labels = NDArray[np.uint8]
"""uint8 (H, W), class ids 0…C-1 and IGNORE."""


class Split(ABC):
    """One split of a data set: ``len``, ``names`` and, per index, a frame and its labels at the same size."""

    label_space: LabelSpace
    names: Sequence[str]

    def __len__(self) -> int:
        return len(self.names)

    @abstractmethod
    def frame(self, index: int) -> Frame:
        """RGB frame, uint8 (H, W, 3)."""

    @abstractmethod
    def labels(self, index: int) -> Labels:
        """Label map, uint8 (H, W), at the frame's size; void is IGNORE."""


class FileSplit(Split):
    """A split whose frames and index masks are image files.

    Args:
        label_space: the classes.
        pairs: (frame path, mask path) per sample.
        ids: which mask value is which class.
        notes: sentences about what was left out of it.
    """

    def __init__(
        self, label_space: LabelSpace, pairs: Sequence[tuple[Path, Path]], ids: Ids, notes: Sequence[str] = ()
    ) -> None:
        self.label_space = label_space
        self.pairs = list(pairs)
        self.names = [image.stem for image, _ in self.pairs]
        self.ids = ids
        self._notes = list(notes)

    @cached_property
    def headers(self) -> list[Header | None]:
        """The header of each frame's file; None where it can't be read."""
        return headers_of(frame_paths(self))

    def notes(self, size: tuple[int, int] | None = None) -> list[str]:
        """Sentences about what was left out, is turned on reading or is stretched to frames of ``size`` (height,
        width).
        """
        images = frame_paths(self)
        where = str(images[0].parent) if images else ""
        across = shape_notes(where, images, self.headers, size) if size else []
        return [*self._notes, *turned_notes(where, images, self.headers), *across]

    def frame(self, index: int) -> Frame:
        return read_frame(self.pairs[index][0])

    def labels(self, index: int) -> Labels:
        """Labels of a sample. Raises DataError also where the mask's size isn't the frame's."""
        image, mask = self.pairs[index]
        labels = self.ids.labels(mask)
        head = self.headers[index]
        if head is not None and head.shown != labels.shape:
            raise DataError(
                f"{self.names[index]}: {size_problem(head.shown, labels.shape, head)}; fix {image} or {mask}"
            )
        return labels


def frame_paths(split: Split) -> list[Path]:
    """The frames' files, none where the split makes its frames itself."""
    return [image for image, _ in getattr(split, "pairs", None) or ()]


def size_problem(frame: tuple[int, ...], mask: tuple[int, ...], head: Header | None = None) -> str:
    """What is wrong where a frame's (height, width) isn't its mask's."""
    said = f"the frame is {frame[0]}x{frame[1]}, its mask {mask[0]}x{mask[1]}"
    if head is not None and head.orientation != 1 and (head.height, head.width) == tuple(mask):
        said += (
            f", which is the frame's size as stored: its EXIF orientation is {head.orientation}, so it is turned on"
            " reading. Turn the mask as well, or store the frame as the mask was drawn, without the tag"
        )
    return said


class Subset(Split):
    """Some samples of a split, by their indices."""

    def __init__(self, split: Split, indices: Sequence[int]) -> None:
        self.inner, self.label_space, self.indices = split, split.label_space, indices
        self.names = [split.names[i] for i in indices]

    @property
    def pairs(self) -> list[tuple[Path, Path]]:
        """The files of those that have any."""
        pairs = getattr(self.inner, "pairs", None)
        return [pairs[i] for i in self.indices] if pairs else []

    def frame(self, index: int) -> Frame:
        return self.inner.frame(self.indices[index])

    def labels(self, index: int) -> Labels:
        return self.inner.labels(self.indices[index])


def evenly_spaced(split: Split, count: int) -> Subset:
    """At most ``count`` samples, evenly over a split."""
    return Subset(split, np.linspace(0, len(split) - 1, min(count, len(split))).round().astype(int).tolist())


def limited(split: Split, limit: int | None, name: str) -> Split:
    """The split, or its first ``limit`` samples; DataError if it holds none."""
    if limit is not None and limit < 1:
        raise DataError(f"the limit is {limit}; expected 1 frame or more")
    if not len(split):
        raise DataError(f"the {name} split holds no frames; expected at least one with its mask")
    return split if limit is None or limit >= len(split) else Subset(split, range(limit))
