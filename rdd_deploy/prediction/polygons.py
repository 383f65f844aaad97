"""Outlines of a mask as COCO's polygons, which cover exactly its pixels: along the pixels' edges, and regions with
holes cut apart at them.
"""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
from numpy.typing import NDArray

_TIMES = 3
"""The mask is enlarged so many times: then an outline through the centres of pixels tells on which side of it the region lies."""


def polygons(mask: NDArray[np.bool_]) -> Iterator[list[int]]:
    """Outlines [x, y, x, y, ...] in pixels from the upper left corner, of a mask (H, W); one or more for each piece
    whose pixels touch at a side.
    """
    pieces = [(mask.astype(np.uint8), 0, 0)]
    while pieces:
        part, left, top = pieces.pop()
        count, numbers, stats, _ = cv2.connectedComponentsWithStats(part, connectivity=4)
        for number in range(1, count):
            x, y, width, height = (int(value) for value in stats[number, :4])
            own = (numbers[y : y + height, x : x + width] == number).astype(np.uint8)
            if (row := _row_of_hole(own)) is None:
                yield _outline(own, left + x, top + y)
            else:
                pieces += [(own[:row], left + x, top + y), (own[row:], left + x, top + y + row)]


def _row_of_hole(part: NDArray[np.uint8]) -> int | None:
    """A row that cuts through a hole: not its first one, so that both parts get an end of it where it has more; None
    without a hole.
    """
    # An outline steps from pixel to pixel across corners as well, so what only a corner leads into is a hole, too.
    outside = cv2.copyMakeBorder(1 - part, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=1)
    count, _, stats, _ = cv2.connectedComponentsWithStats(outside, connectivity=4)
    if count <= 2:  # the region itself, and what is around it
        return None
    holes = stats[1:][stats[1:, cv2.CC_STAT_TOP] > 0]
    # Rows count from the border that was added. A cut above a hole's lowest row opens it.
    middle = holes[len(holes) // 2]  # of many about as many lie above it as below
    return int(middle[cv2.CC_STAT_TOP] - 1 + middle[cv2.CC_STAT_HEIGHT] // 2)


def _outline(part: NDArray[np.uint8], left: int, top: int) -> list[int]:
    large = part.repeat(_TIMES, 0).repeat(_TIMES, 1)
    contours, _ = cv2.findContours(large, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    # Of centres 3i and 3i + 2 the edges i and i + 1.
    corners = (contours[0][:, 0] + 1) // _TIMES + np.array([left, top])
    kept = corners[_turns(corners)]
    return [int(value) for value in kept.ravel()]


def _turns(points: NDArray[np.int_]) -> NDArray[np.bool_]:
    """Which points of a closed outline are corners of it; a point that follows itself isn't."""
    fresh = (points != np.roll(points, 1, 0)).any(1)
    places = np.flatnonzero(fresh)
    once = points[places]
    before, after = once - np.roll(once, 1, 0), np.roll(once, -1, 0) - once
    turns = np.zeros(len(points), bool)
    turns[places] = before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0] != 0
    # Where an outline comes back on itself there is no turn by this product, but a corner.
    turns[places] |= (before * after).sum(1) < 0
    return turns
