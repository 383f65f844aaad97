"""Which frames calibrate: from the train split, chosen to cover classes and brightness, or a folder of
the user's own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from rdd_deploy.console import progress
from rdd_deploy.data.base import Frame, Split
from rdd_deploy.data.listing import IMAGES, headers_of, list_images, shape_notes, turned_notes
from rdd_deploy.data.open import warn_once
from rdd_deploy.data.reader import read_frame
from rdd_deploy.errors import DataError
from rdd_deploy.preprocess import resize_frame

BRIGHTNESS_BINS = 8
LEAST_CORRELATION = 0.3
"""Of horizontally adjacent pixels. Photographs and drawings lie far above, noise near 0."""
THUMBNAIL = 32
ALIKE = 1.0
"""Mean grey levels of 255 between thumbnails: above what halving and JPEG do to a frame, below what a drive's next frame differs by."""


@dataclass(frozen=True)
class CalibrationFrames:
    """Frames at the network's size, uint8 (1, H, W, 3) BGR, read one at a time.

    Attributes: ``digest`` identifies the frames' pixels and the size.
    """

    names: list[str]
    paths_or_indices: list[Path] | list[int]
    split: Split | None
    size: tuple[int, int]
    digest: str

    def __len__(self) -> int:
        return len(self.names)

    def network_input(self, position: int) -> Frame:
        """Frame ``position`` through the same path as every deployed frame."""
        place = self.paths_or_indices[position]
        frame = read_frame(place) if isinstance(place, Path) else self.split.frame(place)  # type: ignore[union-attr]
        return np.ascontiguousarray(resize_frame(frame, self.size)[np.newaxis, ..., ::-1])


def from_train(train: Split, others: Sequence[Split], count: int, size: tuple[int, int]) -> CalibrationFrames:
    """Choose ``count`` frames of the train split.

    Args:
        others: splits that accuracy is measured on; no image of theirs may calibrate.

    Raises:
        DataError: an image is in both, or is noise.
    """
    facts, digests = [], []
    with progress("look at train frames", len(train)) as bar:
        for index in range(len(train)):
            frame, labels = train.frame(index), train.labels(index)
            digests.append(_digest(frame))
            facts.append(_Facts.of(frame, labels, len(train.label_space)))
            bar.advance()
    _refuse_shared(digests, [str(name) for name in train.names], others)
    chosen = _cover(facts, min(count, len(train)))
    for index in chosen:
        _refuse_noise(train.frame(index), train.names[index])
    key = hashlib.sha256("".join(digests[i] for i in chosen).encode() + str(size).encode()).hexdigest()
    return CalibrationFrames([train.names[i] for i in chosen], chosen, train, size, key)


def from_folder(folder: Path, others: Sequence[Split], count: int, size: tuple[int, int]) -> CalibrationFrames:
    """Take up to ``count`` images of a folder, evenly over their names. They may have any size, as what the live app
    shows.

    Raises:
        DataError: no folder, no images, an unreadable one, noise, or images that are also in ``others``.
    """
    if not folder.is_dir():
        raise DataError(
            f"no calibration folder {folder}; put images of the target's camera there, or leave calibration.folder out"
        )
    listing = list_images(folder)
    paths, notes = listing.paths, listing.notes()
    if not paths:
        told = "".join(f"; {note}" for note in notes)
        raise DataError(
            f"the calibration folder {folder} holds no images ({', '.join(IMAGES)}); put some there, or leave it"
            f" out{told}"
        )
    paths = [paths[i] for i in np.linspace(0, len(paths) - 1, min(count, len(paths))).round().astype(int)]
    headers = headers_of(paths)
    warn_once([*notes, *turned_notes(str(folder), paths, headers), *shape_notes(str(folder), paths, headers, size)])
    digests, shrunk = [], []
    for path in paths:
        frame = read_frame(path)
        _refuse_noise(frame, str(path))
        digests.append(_digest(frame))
        shrunk.append(_thumbnail(frame))
    _refuse_shared(digests, [str(path) for path in paths], others)
    _refuse_alike(shrunk, [str(path) for path in paths], others)
    key = hashlib.sha256("".join(digests).encode() + str(size).encode()).hexdigest()
    return CalibrationFrames([path.stem for path in paths], paths, None, size, key)


@dataclass(frozen=True)
class _Facts:
    classes: NDArray[np.float64]
    """Share of the frame per class."""
    brightness: int
    """Bin of the mean grey value."""

    @classmethod
    def of(cls, frame: Frame, labels: NDArray[np.uint8], classes: int) -> _Facts:
        counts = np.bincount(labels.ravel(), minlength=256)[:classes]
        return cls(counts / labels.size, min(BRIGHTNESS_BINS - 1, int(frame.mean() * BRIGHTNESS_BINS / 256)))


def _cover(facts: Sequence[_Facts], count: int) -> list[int]:
    """Greedy cover: each step takes the frame that adds most to what has been seen least, by square
    roots of the sums.
    """
    shares = np.stack([fact.classes for fact in facts])
    shares = shares / np.maximum(shares.sum(0), 1e-12)  # a rare class weighs as much as a common one
    bins = np.eye(BRIGHTNESS_BINS)[[fact.brightness for fact in facts]]
    features = np.concatenate([shares, bins / np.maximum(bins.sum(0), 1)], 1)
    seen = np.zeros(features.shape[1])
    free = list(range(len(facts)))
    chosen: list[int] = []
    while len(chosen) < count:
        gains = (np.sqrt(seen + features[free]) - np.sqrt(seen)).sum(1)
        best = free.pop(int(gains.argmax()))
        seen += features[best]
        chosen.append(best)
    return sorted(chosen)


def _digest(frame: Frame) -> str:
    return hashlib.blake2b(np.ascontiguousarray(frame).tobytes(), digest_size=16).hexdigest()


def _refuse_shared(digests: Sequence[str], names: Sequence[str], others: Sequence[Split]) -> None:
    known = {digest: position for position, digest in enumerate(digests)}
    for position, other in _seen(others, lambda frame: known.get(_digest(frame))):
        raise DataError(
            f"the calibration image {names[position]} is also {other} of the split that accuracy is measured on; "
            "take it out of one, or the measured drop is too good to be true"
        )


def _seen(others: Sequence[Split], find: Callable[[Frame], int | None]) -> Iterator[tuple[int, str]]:
    """What ``find`` finds of the other splits' frames, with the name of the frame there."""
    for other in others:
        for index in range(len(other)):
            if (position := find(other.frame(index))) is not None:
                yield position, other.names[index]


def _thumbnail(frame: Frame) -> NDArray[np.float32]:
    """A small grey picture, (THUMBNAIL, THUMBNAIL), which scaling and compression hardly change."""
    small = cv2.resize(frame.mean(2).astype(np.float32), (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA)
    return np.asarray(small, np.float32)


def _refuse_alike(thumbnails: Sequence[NDArray[np.float32]], names: Sequence[str], others: Sequence[Split]) -> None:
    """A folder may hold frames of val scaled or compressed again, which no digest finds."""
    known = np.stack(thumbnails)

    def find(frame: Frame) -> int | None:
        distances = np.abs(known - _thumbnail(frame)).mean((1, 2))
        return int(distances.argmin()) if distances.min() < ALIKE else None

    for position, other in _seen(others, find):
        raise DataError(
            f"the calibration image {names[position]} shows what {other} of the split that accuracy is measured on"
            " shows; take it out, or the measured drop is too good to be true"
        )


def _refuse_noise(frame: Frame, name: str) -> None:
    correlations = []
    for channel in np.moveaxis(frame.astype(np.float32), 2, 0):
        left, right = channel[:, :-1].ravel(), channel[:, 1:].ravel()
        # A channel of one value says nothing; a black frame is poor, but real cameras give them.
        correlations.append(float(np.corrcoef(left, right)[0, 1]) if min(left.std(), right.std()) > 1e-3 else 1.0)
    if max(correlations) < LEAST_CORRELATION:
        raise DataError(
            f"the calibration image {name} is noise (neighbouring pixels don't resemble each other); expected real"
            " frames"
        )
