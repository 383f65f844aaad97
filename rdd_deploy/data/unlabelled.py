"""Frames that nobody labelled, for distillation: of folders, videos, or a data set's own training frames whose masks
aren't used. No torch here.

They are looked at once, by all processes together (see ``data.frame_index``): what can't be read, what looks like a
frame that is there already, and what looks like a frame that the network is measured on is left out. Which remain, and
in which order, depends on the files alone.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from rdd_deploy import console
from rdd_deploy.data.base import Frame, Labels, LabelSpace, Split
from rdd_deploy.data.config import REST, DataOptions
from rdd_deploy.data.frame_index import FileSource, Source, SplitSource, index_of, list_source
from rdd_deploy.data.open import open_data, warn_once
from rdd_deploy.data.similar import DISTANCE, Seen
from rdd_deploy.data.subset import labelled_indices
from rdd_deploy.data.video_frames import cut_videos, look_at_video
from rdd_deploy.errors import DataError, RddError

INSIDE = 0
"""Of the labels of a frame without labels: the pixel is one of the frame's. Beyond the frame crops hold ``IGNORE``."""


class _MadeNames(Sequence[str]):
    """Names that are put together when they are asked for: a million would take much memory."""

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...
    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return self._at(index)

    def _at(self, index: int) -> str:
        raise NotImplementedError


class _Names(_MadeNames):
    def __init__(self, split: Unlabelled) -> None:
        self._split = split

    def __len__(self) -> int:
        return len(self._split.where)

    def _at(self, index: int) -> str:
        source, at = map(int, self._split.where[index])
        return self._split.sources[source].name(at)


class Unlabelled(Split):
    """Frames without labels; their label maps hold ``INSIDE`` at every pixel.

    Args:
        sources: where they lie. where: int (N, 2), source and place in it of each. records: what each is,
            ``frame_index.RECORD`` (N,).
    """

    def __init__(
        self, label_space: LabelSpace, sources: Sequence[Source], where: NDArray[np.int64], records: NDArray[Any]
    ) -> None:
        self.label_space, self.sources, self.where, self._records = label_space, list(sources), where, records
        self.names = _Names(self)

    @property
    def digests(self) -> Sequence[str]:
        """What each frame is."""
        return _Digests(self._records["digest"])

    @property
    def digest(self) -> str:
        """Of all of them in their order."""
        return hashlib.sha256(np.ascontiguousarray(self._records["digest"]).tobytes()).hexdigest()

    def frame(self, index: int) -> Frame:
        source, at = map(int, self.where[index])
        return self.sources[source].frame(at)

    def labels(self, index: int) -> Labels:
        record = self._records[index]
        return np.full((int(record["height"]), int(record["width"])), INSIDE, np.uint8)


class _Digests(Sequence[str]):
    def __init__(self, contents: NDArray[Any]) -> None:
        self._contents = contents

    def __len__(self) -> int:
        return len(self._contents)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...
    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        found = self._contents[index]
        return [one.tobytes().hex() for one in found] if isinstance(index, slice) else str(found.tobytes().hex())


class JoinedSplit(Split):
    """Frames with labels, behind them others without."""

    def __init__(self, labelled: Split, others: Unlabelled) -> None:
        self.labelled, self.others, self.label_space = labelled, others, labelled.label_space
        self.names = _JoinedNames(labelled.names, others.names)

    def _at(self, index: int) -> tuple[Split, int]:
        count = len(self.labelled)
        return (self.labelled, index) if index < count else (self.others, index - count)

    def frame(self, index: int) -> Frame:
        split, at = self._at(index)
        return split.frame(at)

    def labels(self, index: int) -> Labels:
        split, at = self._at(index)
        return split.labels(at)


class _JoinedNames(_MadeNames):
    def __init__(self, one: Sequence[str], other: Sequence[str]) -> None:
        self._one, self._other = one, other

    def __len__(self) -> int:
        return len(self._one) + len(self._other)

    def _at(self, index: int) -> str:
        return self._one[index] if index < len(self._one) else self._other[index - len(self._one)]


@dataclass
class LeftOut:
    """How many frames were left out, and why."""

    unreadable: int = 0
    near: int = 0
    measured: int = 0
    labelled: int = 0
    over: int = 0

    def told(self) -> str:
        said = {
            "near-duplicates": self.near,
            "that look like frames of val or test": self.measured,
            "that have labels": self.labelled,
            "that can't be read": self.unreadable,
            "over data.thin.limit": self.over,
        }
        return ", ".join(f"{count} {what}" for what, count in said.items() if count)


def open_unlabelled(data: DataOptions, label_space: LabelSpace) -> tuple[Unlabelled, LeftOut]:
    """Open the frames that ``data.unlabelled`` names, thinned out as ``data.thin`` says. Videos are cut into frames
    first.

    Raises:
        DataError: a place isn't there, a video can't be decoded, or no frame remains.
        DiskError: ``data.scratch`` can't be written.
    """
    scratch, thin = Path(data.scratch), data.thin
    train = open_data(data, "train")
    sources = [_every(source, thin.every) for source in _sources(data, train)]
    labelled = index_of(SplitSource(train, np.arange(len(train))), scratch)
    measured = Seen(max(DISTANCE, thin.within or 0))
    for split in _measured(data):
        records = index_of(SplitSource(split, np.arange(len(split))), scratch)
        for one in records["hash"][records["height"] > 0]:  # what can't be read has none
            measured.add(int(one))
    left_out = LeftOut()
    found = [index_of(source, scratch) for source in sources]
    for source, records in zip(sources, found, strict=True):
        _tell_unreadable(source, records, left_out)
    where = _chosen(
        found,
        measured,
        {one.tobytes() for one in labelled["digest"][labelled["height"] > 0]},
        thin.within,
        left_out,
    )
    if thin.limit is not None and len(where) > thin.limit:
        left_out.over = len(where) - thin.limit
        where = where[np.linspace(0, len(where) - 1, thin.limit).round().astype(np.int64)]
    if not len(where):
        raise DataError(
            f"data.unlabelled: no frame of {', '.join(data.unlabelled)} remains"
            f" ({left_out.told() or 'there are none'}); name others"
        )
    records = np.concatenate([one[where[where[:, 0] == source, 1]] for source, one in enumerate(found)])
    return Unlabelled(label_space, sources, where, records), left_out


def look_at_unlabelled(data: DataOptions) -> int:
    """The number of images and videos that ``data.unlabelled`` names; of each video one frame is decoded, and nothing
    is written.

    Raises:
        DataError: as ``open_unlabelled``, as far as it shows without reading everything.
    """
    count = 0
    for place in data.unlabelled:
        if place == REST:
            count += len(_rest(data))
            continue
        listing = list_source(Path(place))
        for video in listing.videos:
            look_at_video(video)
        count += len(listing.names) + len(listing.videos)
    return count


def _sources(data: DataOptions, train: Split) -> Iterator[Source]:
    """One each for images of a folder, and for each video.

    Args:
        train: the frames with labels; their masks, and those of the other splits, are no frames.
    """
    masks = {
        os.path.abspath(mask) for split in (train, *_measured(data)) for _, mask in getattr(split, "pairs", None) or ()
    }
    for place in data.unlabelled:
        if place == REST:
            yield _rest(data)
            continue
        listing = list_source(Path(place))
        warn_once(listing.notes())
        if listing.names:
            yield FileSource(listing.folder, listing.names).without(masks)
        yield from cut_videos(listing.videos, Path(data.scratch), data.thin.every, data.thin.within)


def _every(source: Source, step: int) -> Source:
    """Every so many-th frame; a video was cut into such already."""
    return source.some(slice(None, None, step)) if step > 1 and not source.is_thinned else source


def _rest(data: DataOptions) -> Source:
    """The training frames whose masks ``data.labelled`` leaves out."""
    whole = open_data(data.model_copy(update={"labelled": 1.0}), "train")
    used = labelled_indices(len(whole), data.labelled)
    return SplitSource(whole, np.setdiff1d(np.arange(len(whole)), used))


def _measured(data: DataOptions) -> Iterator[Split]:
    """The splits that networks are measured on, those that are there."""
    for name in ("val", "test"):
        with suppress(RddError):
            yield data.open(name)


def _tell_unreadable(source: Source, records: NDArray[Any], left_out: LeftOut) -> None:
    bad = np.flatnonzero(records["height"] == 0)
    if not len(bad):
        return
    try:
        source.frame(int(bad[0]))
        why = (
            f"{source.name(int(bad[0]))} can be read now; start again with another data.scratch to look at all of them"
            " once more"
        )
    except DataError as error:
        why = str(error)
    console.warn(
        f"{len(bad)} of {len(records)} unlabelled frames in {source.title} can't be read and are left out, the first:"
        f" {why}"
    )
    left_out.unreadable += len(bad)


def _chosen(
    found: Sequence[NDArray[Any]],
    measured: Seen,
    labelled: Collection[bytes],
    within: int | None,
    left_out: LeftOut,
) -> NDArray[np.int64]:
    """(source, place) of each frame that is kept, int (N, 2).

    Args:
        found: ``RECORD`` of each source's frames. labelled: digests of the frames with labels.
    """
    seen = None if within is None else Seen(within)
    kept: list[tuple[int, int]] = []
    for source, records in enumerate(found):
        for at, record in enumerate(records):
            if not record["height"]:
                continue
            one = int(record["hash"])
            if record["digest"].tobytes() in labelled:
                left_out.labelled += 1
            elif measured.near(one) is not None:
                left_out.measured += 1
            elif seen is not None and seen.near(one) is not None:
                left_out.near += 1
            else:
                if seen is not None:
                    seen.add(one)
                kept.append((source, at))
    return np.array(kept, np.int64).reshape(-1, 2)
