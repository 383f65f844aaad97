"""Regions of one image as one map of classes, by a stated rule where they overlap."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rdd_deploy.data.imports.export import Area, Overlap, Region
from rdd_deploy.errors import DataError

Labels = NDArray[np.uint8]


@dataclass
class Composed:
    """A map of classes.

    Attributes:
        decided: pixels where regions of different classes overlapped.
        empty, hidden: regions without a pixel, and those of which others left none.
        drawn: regions of each label that are seen.
    """

    labels: Labels
    decided: int = 0
    empty: list[str] = field(default_factory=list)
    hidden: list[str] = field(default_factory=list)
    drawn: Counter[str] = field(default_factory=Counter)


@dataclass
class _Patch:
    """A region's pixels in their box."""

    region: Region
    place: tuple[slice, slice]
    pixels: Area
    count: int


def compose(
    regions: Sequence[Region], height: int, width: int, ids: Mapping[str, int], unlabelled: int, rule: Overlap
) -> Composed:
    """Draw regions over each other.

    Args:
        ids: of each label. unlabelled: the id of all other pixels.
        rule: ``order``: later ones on top, within their layers; ``small-on-top``: those of fewer pixels; ``error``:
            none may overlap.

    Raises:
        DataError: a region that can't be drawn, or an overlap under ``error``.
    """
    empty, patches = [], []
    for region in regions:
        patch = _cut(region, region.paint(height, width))
        if patch.count:
            patches.append(patch)
        else:
            empty.append(region.where)
    if rule == "small-on-top":
        patches.sort(key=lambda patch: (not patch.region.beneath, -patch.count))
    else:
        patches.sort(key=lambda patch: (not patch.region.beneath, patch.region.z))
    owner = np.full((height, width), -1, np.int32)
    first = np.full((height, width), -1, np.int16)
    decided = np.zeros((height, width), bool)
    for number, patch in enumerate(patches):
        below, own = first[patch.place], ids[patch.region.label]
        decided[patch.place] |= patch.pixels & (below >= 0) & (below != own)
        below[patch.pixels & (below < 0)] = own
        owner[patch.place][patch.pixels] = number
        if rule == "error" and decided[patch.place].any():
            raise DataError(
                f"{patch.region.where} ({patch.region.label}) overlaps a region of another class in"
                f" {int(decided.sum())} pixels, and --overlap error allows none; fix it in the tool, or choose order or"
                " small-on-top"
            )
    table = np.array([*(ids[patch.region.label] for patch in patches), unlabelled], np.uint8)
    seen = np.bincount(owner.ravel() + 1, minlength=len(patches) + 1)[1:]
    hidden = [patch.region.where for patch, count in zip(patches, seen, strict=True) if not count]
    drawn = Counter(patch.region.label for patch, count in zip(patches, seen, strict=True) if count)
    return Composed(table[owner], int(decided.sum()), empty, hidden, drawn)


def _cut(region: Region, area: Area) -> _Patch:
    rows, columns = np.flatnonzero(area.any(1)), np.flatnonzero(area.any(0))
    if not rows.size:
        return _Patch(region, (slice(0, 0), slice(0, 0)), area[:0, :0], 0)
    place = slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)
    pixels = area[place].copy()
    return _Patch(region, place, pixels, int(pixels.sum()))


def by_values(values: NDArray[Any], meaning: Mapping[int, str], ids: Mapping[str, int], where: str) -> Labels:
    """An index mask's values as classes. Raises DataError for values that mean nothing."""
    found, inverse = np.unique(values, return_inverse=True)
    if unknown := [int(value) for value in found if int(value) not in meaning]:
        known = ", ".join(f"{value} {label}" for value, label in list(meaning.items())[:8])
        raise DataError(
            f"{where} holds the values {unknown[:8]}, which mean nothing here; expected"
            f" {known}{' …' if len(meaning) > 8 else ''}"
        )
    table = np.array([ids[meaning[int(value)]] for value in found], np.uint8)
    return table[inverse].reshape(values.shape)
