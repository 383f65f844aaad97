"""Read every pair of a split once, and keep a few numbers of each: what is wrong with it, and what the page is made
from.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from rdd_deploy.data.base import IGNORE, Frame, Labels, Split, size_problem
from rdd_deploy.data.similar import fingerprint
from rdd_deploy.errors import DataError

_THREADS = 4
_WINDOW = np.ones((3, 3), np.uint8)


@dataclass(frozen=True)
class FrameFacts:
    """What is kept of a pair.

    Attributes:
        size: (height, width) of the frame.
        pixels, thin: per class, (C,): its pixels, and those of them that lie in no 3x3 square of the class, so in
            structures at most 2 pixels wide.
        void: pixels of none. pieces: connected pieces of thin pixels of all classes.
        look: perceptual hash; digest: of the frame's pixels.
    """

    size: tuple[int, int]
    pixels: NDArray[np.int32]
    thin: NDArray[np.int32]
    void: int
    pieces: int
    look: int
    digest: bytes


@dataclass
class Scan:
    """A split, read.

    Attributes:
        facts: of each sample, None where it can't be used.
        problems: sentences about what training would refuse.
        notes: sentences about what it would warn of.
    """

    name: str
    split: Split
    facts: list[FrameFacts | None] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def usable(self) -> Iterable[tuple[int, FrameFacts]]:
        """(index, facts) of the samples that can be used."""
        return ((index, facts) for index, facts in enumerate(self.facts) if facts is not None)

    def totals(self) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
        """Pixels per class, frames per class that have any of it, and void pixels."""
        classes = len(self.split.label_space)
        pixels, frames, void = np.zeros(classes, np.int64), np.zeros(classes, np.int64), 0
        for _, facts in self.usable:
            pixels += facts.pixels
            frames += facts.pixels > 0
            void += facts.void
        return pixels, frames, void


def scan(name: str, split: Split, advance: Callable[[], None] = lambda: None) -> Scan:
    """Read every pair of a split, several at a time; nothing in it raises, everything that is wrong is kept."""
    found = Scan(name, split)
    if not len(split):
        found.problems.append(f"the {name} split holds no frames; expected at least one with its mask")
        return found

    def look(index: int) -> tuple[FrameFacts | None, list[str]]:
        problems: list[str] = []
        frame = _read(split.frame, index, problems)
        labels = _read(split.labels, index, problems)
        facts = None
        if frame is not None and labels is not None:
            problems += _pair_problems(split, index, frame, labels)
            facts = facts_of(frame, labels, len(split.label_space)) if not problems else None
        advance()
        return facts, problems

    pool = ThreadPoolExecutor(_THREADS)
    try:
        for facts, problems in pool.map(look, range(len(split))):
            found.facts.append(facts)
            found.problems += problems
    finally:
        pool.shutdown(cancel_futures=True)
    pixels, _, _ = found.totals()
    if any(found.facts) and not pixels.sum():
        found.problems.append(f"every pixel of the {name} split is void; expected class ids, see data.void_ids")
    absent = [one for one, count in zip(split.label_space.classes, pixels, strict=True) if not count]
    if absent and pixels.sum():
        found.notes.append(
            f"no pixel of {', '.join(absent)} in {name}; {'it' if len(absent) == 1 else 'they'} can't be learned or"
            " measured there"
        )
    return found


def _read(read: Callable[[int], NDArray[np.uint8]], index: int, problems: list[str]) -> NDArray[np.uint8] | None:
    try:
        return read(index)
    except DataError as error:
        problems += error.lines
        return None


def _pair_problems(split: Split, index: int, frame: Frame, labels: Labels) -> list[str]:
    if frame.shape[:2] != labels.shape:
        return [f"{split.names[index]}: {size_problem(frame.shape, labels.shape)}; both must be of one size"]
    unknown = np.flatnonzero(np.bincount(labels.ravel(), minlength=IGNORE + 1)[len(split.label_space) : IGNORE])
    if unknown.size:
        ids = [len(split.label_space) + int(i) for i in unknown]
        return [
            f"{split.names[index]}: the labels hold unknown class ids {ids}; expected 0 to {len(split.label_space) - 1}"
            " or void"
        ]
    return []


def facts_of(frame: Frame, labels: Labels, classes: int) -> FrameFacts:
    """The numbers of a pair: frame uint8 (H, W, 3), labels uint8 (H, W)."""
    counts = np.bincount(labels.ravel(), minlength=IGNORE + 1)
    thin = _thin(labels)
    return FrameFacts(
        (frame.shape[0], frame.shape[1]),
        counts[:classes].astype(np.int32),
        np.bincount(labels[thin], minlength=IGNORE + 1)[:classes].astype(np.int32),
        int(counts[IGNORE]),
        cv2.connectedComponents(thin.astype(np.uint8), connectivity=8)[0] - 1,
        fingerprint(frame),
        hashlib.blake2b(np.ascontiguousarray(frame).data, digest_size=16).digest(),
    )


def _thin(labels: Labels) -> NDArray[np.bool_]:
    """Pixels of a class that no 3x3 square of one label holds; beyond the edge all is as at the edge."""
    around = cv2.copyMakeBorder(labels, 2, 2, 2, 2, cv2.BORDER_REPLICATE)
    uniform = cv2.erode(around, _WINDOW) == cv2.dilate(around, _WINDOW)
    thick = cv2.dilate(uniform.astype(np.uint8), _WINDOW)[2:-2, 2:-2]
    return np.asarray((thick == 0) & (labels != IGNORE))


def problems_between(train: Scan, other: Scan) -> list[str]:
    """What training would refuse of two splits that are each fine."""
    first = {facts.digest: train.split.names[index] for index, facts in train.usable}
    shared = [(first[facts.digest], other.split.names[index]) for index, facts in other.usable if facts.digest in first]
    if not shared:
        return []
    told = "; ".join(f"{one} and {two}" for one, two in shared[:10])
    return [
        f"{len(shared)} images are in both train and {other.name}, e.g. {told}; remove them from one, or the measured"
        " mIoU means nothing"
    ]
