"""Which pairs a person should look at first, each with the reason in words. None of it is an error: only
people know.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from typing import NamedTuple

import numpy as np

from rdd_deploy.data.report.scan import FrameFacts, Scan
from rdd_deploy.data.similar import distance, near_duplicates

KINDS = {
    "void": "all or mostly void", "single": "of one class only", "slivers": "with thin slivers", "size": "of an odd size",
    "tiny": "with tiny regions", "shares": "with unusual class shares",
}  # fmt: skip
"""Kinds of suspicion, the gravest first."""

MOSTLY_VOID = 0.9
FEW_PIXELS = 9
"""A class with fewer in a frame is a tiny region."""
SLIVER, USUALLY_THIN = 0.9, 0.5
"""Share of a class's pixels in a frame that are thin, from which it is there as slivers alone; and its usual share where it is no news."""
MANY_THIN, MANY_PIECES, TIMES = 0.08, 120, 4.0
"""Share of thin pixels and number of their pieces that are many, where they are so many times the split's median as well."""
USUAL = 0.5
"""A kind that more of a split's frames show is how that data is, and is told once."""
FAR = 3.0
"""Interquartile ranges beyond the third quartile from which class shares are far from the split's mean."""


@dataclass(frozen=True)
class Suspicion:
    """A sample with one reason; ``weight`` orders those of one kind."""

    kind: str
    split: str
    index: int
    reason: str
    weight: float


class Duplicate(NamedTuple):
    """Two frames of different splits that look alike: indices, and the bits in which their hashes differ."""

    first: int
    second: int
    distance: int


def suspicions(scan: Scan, size: tuple[int, int]) -> tuple[list[Suspicion], list[str]]:
    """Samples of a split to look at, the gravest of each kind first; and sentences about kinds that most of its frames
    show.

    Args:
        size: (height, width) of the network's frames.
    """
    found: dict[str, list[Suspicion]] = defaultdict(list)
    for one in (*_by_classes(scan), *_slivers(scan), *_sizes(scan, size), *_shares(scan)):
        found[one.kind].append(one)
    kept: list[Suspicion] = []
    notes, count = list(_thin_classes(scan)), sum(1 for _ in scan.usable)
    for kind in KINDS:
        frames = len({one.index for one in found[kind]})
        if frames > max(3, USUAL * count):
            notes.append(
                f"{frames} of {count} frames of {scan.name} are {KINDS[kind]}: that seems to be how this data is"
            )
        kept += sorted(found[kind], key=lambda one: -one.weight)
    return kept, notes


def in_turn(found: list[Suspicion]) -> list[tuple[str, int, list[str]]]:
    """(split, index, reasons) of each sample, a sample of each kind in turn so that no kind hides the others."""
    reasons: dict[tuple[str, int], list[str]] = defaultdict(list)
    by_kind: dict[str, list[Suspicion]] = {kind: [] for kind in KINDS}
    for one in found:
        reasons[one.split, one.index].append(one.reason)
        by_kind[one.kind].append(one)
    order = dict.fromkeys((one.split, one.index) for row in zip_longest(*by_kind.values()) for one in row if one)
    return [(split, index, reasons[split, index]) for split, index in order]


def _by_classes(scan: Scan) -> Iterator[Suspicion]:
    names = scan.split.label_space.classes
    for index, facts in scan.usable:
        valid = int(facts.pixels.sum())
        void = facts.void / (facts.void + valid)
        if void >= MOSTLY_VOID:
            yield Suspicion("void", scan.name, index, "all void" if not valid else f"{100 * void:.1f} % void", void)
        present = np.flatnonzero(facts.pixels)
        if len(present) == 1:
            yield Suspicion("single", scan.name, index, f"nothing but {names[present[0]]}", 1 - void)
        tiny = [int(c) for c in present if facts.pixels[c] < FEW_PIXELS]
        if tiny:
            told = ", ".join(f"{names[c]} ({facts.pixels[c]})" for c in tiny)
            yield Suspicion("tiny", scan.name, index, f"only a few pixels of {told}", len(tiny))


def _slivers(scan: Scan) -> Iterator[Suspicion]:
    names = scan.split.label_space.classes
    usually = _usually_thin(scan)
    shares = [_thin_share(facts) for _, facts in scan.usable]
    median = float(np.median(shares)) if shares else 0.0
    pieces = float(np.median([facts.pieces for _, facts in scan.usable])) if shares else 0.0
    for index, facts in scan.usable:
        thin = [
            int(c)
            for c in np.flatnonzero(facts.pixels >= FEW_PIXELS)
            if facts.thin[c] >= SLIVER * facts.pixels[c] and usually[int(c)] <= USUALLY_THIN
        ]
        share = _thin_share(facts)
        if thin:
            told = ", ".join(f"{names[c]} ({facts.pixels[c]} pixels)" for c in thin)
            reason = f"{told} only as slivers at most 2 pixels wide, as at edges that were smoothed or resized"
            yield Suspicion("slivers", scan.name, index, reason, len(thin) + share)
        elif share > max(MANY_THIN, TIMES * median) or facts.pieces > max(MANY_PIECES, TIMES * pieces):
            reason = (
                f"{100 * share:.1f} % of the pixels in {facts.pieces} slivers at most 2 pixels wide (median"
                f" {100 * median:.1f} %)"
            )
            yield Suspicion("slivers", scan.name, index, reason, share)


def _usually_thin(scan: Scan) -> dict[int, float]:
    """Per class that occurs the median over its frames of its share of thin pixels."""
    by_class: dict[int, list[float]] = defaultdict(list)
    for _, facts in scan.usable:
        for c in np.flatnonzero(facts.pixels):
            by_class[int(c)].append(float(facts.thin[c] / facts.pixels[c]))
    return {c: float(np.median(shares)) for c, shares in by_class.items()}


def _thin_classes(scan: Scan) -> Iterator[str]:
    for c, share in _usually_thin(scan).items():
        if share > USUALLY_THIN:
            yield (
                f"{scan.split.label_space.classes[c]} is mostly slivers at most 2 pixels wide in {scan.name}"
                f" ({100 * share:.0f} % of its pixels in half of its frames): a thin thing, or what smoothed or resized"
                " edges of other classes leave"
            )


def _thin_share(facts: FrameFacts) -> float:
    valid = int(facts.pixels.sum())
    return float(facts.thin.sum() / valid) if valid else 0.0


def _sizes(scan: Scan, size: tuple[int, int]) -> Iterator[Suspicion]:
    sizes = Counter(facts.size for _, facts in scan.usable)
    if not sizes:
        return
    (usual, times), total = sizes.most_common(1)[0], sum(sizes.values())
    wanted = size[1] / size[0]
    for index, facts in scan.usable:
        height, width = facts.size
        stretch = max(width / height / wanted, wanted / (width / height))
        if facts.size != usual and times >= 0.9 * total:
            yield Suspicion(
                "size",
                scan.name,
                index,
                f"{height}x{width}, where {times} of {total} are {usual[0]}x{usual[1]}",
                stretch,
            )
        elif stretch > 1.5:
            reason = f"{height}x{width} is stretched {stretch:.1f} times to the network's {size[0]}x{size[1]}"
            yield Suspicion("size", scan.name, index, reason, stretch)


def _shares(scan: Scan) -> Iterator[Suspicion]:
    usable = [
        (index, facts.pixels / max(1, int(facts.pixels.sum()))) for index, facts in scan.usable if facts.pixels.any()
    ]
    if len(usable) < 8:
        return
    mean = np.mean([shares for _, shares in usable], 0)
    far = np.array([np.abs(shares - mean).sum() / 2 for _, shares in usable])
    low, high = np.percentile(far, [25, 75])
    names = scan.split.label_space.classes
    for (index, shares), apart in zip(usable, far, strict=True):
        if apart > high + FAR * max(high - low, 0.02):
            most = int(np.abs(shares - mean).argmax())
            reason = f"{names[most]} {100 * shares[most]:.0f} % of the frame (mean {100 * mean[most]:.0f} %)"
            yield Suspicion("shares", scan.name, index, reason, float(apart))


def duplicates(train: Scan, other: Scan) -> list[Duplicate]:
    """For each frame of ``other`` the train frame that looks most like it, if any does; those that are
    nearest first.
    """
    known, asked = ([(index, facts.look) for index, facts in one.usable if facts.look] for one in (train, other))
    pairs = near_duplicates([look for _, look in known], [look for _, look in asked])
    found = [Duplicate(known[a][0], asked[b][0], distance(known[a][1], asked[b][1])) for a, b in pairs]
    return sorted(found, key=lambda pair: pair.distance)
