"""Where a network's points are lost: by class, by the distance to the labels' edges, by the size of the labelled
objects. In numpy and OpenCV.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from rdd_deploy import console
from rdd_deploy.data.base import IGNORE, Labels
from rdd_deploy.metrics import Confusion, iou_from, percent

EDGES = (2.0, 4.0, 8.0)
"""Distances to the labels' edges that part the bands, in pixels of the annotation."""
THIN, SMALL = 0.02, 0.005
"""An object is thin where the largest circle in it is less than so much of the frame's height across; else small where it covers less than so
much of the frame; else large."""
KINDS = ("thin", "small", "large")


class LostPixels:
    """Counts right and wrong pixels of label maps; void pixels of the truth never count.

    Args:
        classes: their names.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        self.confusion = Confusion(classes)
        self._edges = np.zeros((len(EDGES) + 1, 2), np.int64)
        self._kinds = np.zeros((len(classes), len(KINDS), 3), np.int64)  # objects, pixels, right pixels

    def add(self, truth: Labels, predicted: Labels) -> None:
        """Count one label map, uint8 (H, W) each."""
        self.confusion.add(truth, predicted)
        valid, right = truth != IGNORE, truth == predicted
        band = np.digitize(edge_distance(truth), EDGES)
        for number in range(len(EDGES) + 1):
            inside = valid & (band == number)
            self._edges[number] += (np.count_nonzero(inside), np.count_nonzero(inside & right))
        for c in range(len(self.confusion.classes)):
            self._add_objects(c, truth == c, right)

    def _add_objects(self, c: int, mask: NDArray[np.bool_], right: NDArray[np.bool_]) -> None:
        count, objects = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
        if count == 1:
            return
        radius = np.zeros(count)
        np.maximum.at(radius, objects, _distance(mask))
        pixels = np.bincount(objects.ravel(), minlength=count)
        hits = np.bincount(objects.ravel(), right.ravel(), count).astype(np.int64)
        thin = 2 * radius - 1 < THIN * mask.shape[0]
        kind = np.where(thin, 0, np.where(pixels < SMALL * mask.size, 1, 2))
        for number in range(len(KINDS)):
            chosen = kind[1:] == number  # component 0 is all that isn't the class
            self._kinds[c, number] += (np.count_nonzero(chosen), pixels[1:][chosen].sum(), hits[1:][chosen].sum())

    def summary(self) -> dict[str, Any]:
        """Percentages, as ``evaluate --lost --json`` writes them; None where nothing was counted.

        ``classes``: of each its IoU, the points of mIoU that it costs, its recall and precision and what it is taken
        for most often; of its objects by kind their number, the share of the class's pixels and their recall.
        ``edges``: of each band of distances to an edge the share of all pixels, of all wrong pixels, and the share of
        it that is wrong.
        """
        matrix, names = self.confusion.matrix, self.confusion.classes
        iou, occurring = iou_from(matrix), int(np.isfinite(iou_from(matrix)).sum())
        classes = {}
        for c, name in enumerate(names):
            others = matrix[c].copy()
            others[c] = 0
            taken = int(others.argmax())
            classes[name] = {
                "iou_pct": percent(iou[c]), "points_lost": percent((1 - iou[c]) / max(occurring, 1)), "recall_pct": _share(matrix[c, c], matrix[c].sum()),
                "precision_pct": _share(matrix[c, c], matrix[:, c].sum()), "taken_for": names[taken] if others[taken] else None,
                "taken_for_pct": _share(others[taken], matrix[c].sum()),
                "objects": {
                    kind: {"count": int(count), "pixels_pct": _share(pixels, self._kinds[c, :, 1].sum()), "recall_pct": _share(hits, pixels)}
                    for kind, (count, pixels, hits) in zip(KINDS, self._kinds[c], strict=True)
                },
            }  # fmt: skip
        wrong = self._edges[:, 0] - self._edges[:, 1]
        edges = {
            name: {"pixels_pct": _share(all_, self._edges[:, 0].sum()), "wrong_pct": _share(bad, all_), "of_all_wrong_pct": _share(bad, wrong.sum())}
            for name, (all_, _), bad in zip(band_names(), self._edges, wrong, strict=True)
        }  # fmt: skip
        return {"classes": classes, "edges": edges}


def show_lost(summary: dict[str, Any]) -> None:
    """Print a summary as two tables: classes, those first that cost the most points, and bands of
    distances to an edge.
    """
    worst_first = sorted(summary["classes"].items(), key=lambda item: -(item[1]["points_lost"] or 0))
    rows = [
        [name, *(_text(one[key]) for key in ("iou_pct", "points_lost", "recall_pct", "precision_pct")),
         f"{one['taken_for']} {_text(one['taken_for_pct'])}" if one["taken_for"] else "-",
         *(f"{_text(one['objects'][kind]['recall_pct'])} of {_text(one['objects'][kind]['pixels_pct'])}" for kind in KINDS)]
        for name, one in worst_first
    ]  # fmt: skip
    heads = ("class", "IoU %", "points lost", "recall %", "precision %", "taken for, %", *KINDS)
    console.show("where the points of mIoU are lost", console.table(heads, rows))
    console.info(
        "thin, small, large objects: % of their pixels that are found, of their share of the class's pixels; thin:"
        f" less than {100 * THIN:g} % of the frame's height across, small: less than {100 * SMALL:g} % of its area"
    )
    bands = [[name, *map(_text, one.values())] for name, one in summary["edges"].items()]
    console.show(
        "by distance to an edge of the labels",
        console.table(("distance", "% of pixels", "% wrong", "% of all wrong pixels"), bands),
    )


def _text(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def band_names() -> list[str]:
    """The bands of distances to an edge, in pixels, from the nearest on."""
    bounds = ["0", *(f"{edge:g}" for edge in EDGES)]
    return [*(f"{low} to {high} px" for low, high in itertools.pairwise(bounds)), f"from {bounds[-1]} px on"]


def edge_distance(labels: Labels) -> NDArray[np.float32]:
    """Distance of each pixel to the nearest one of another label, void among them, in pixels, less one: 0 beside an
    edge. float32 (H, W).
    """
    inside = np.ones(labels.shape, np.uint8)
    for axis in (0, 1):
        differs = np.diff(labels.astype(np.int16), axis=axis) != 0
        first, second = (differs, np.zeros_like(differs[:1])), (np.zeros_like(differs[:1]), differs)
        if axis:
            none = np.zeros_like(differs[:, :1])
            first, second = (differs, none), (none, differs)
        inside[np.concatenate(first, axis) | np.concatenate(second, axis)] = 0
    if inside.all():  # one label: far from any edge
        return np.full(labels.shape, np.inf, np.float32)
    return np.asarray(cv2.distanceTransform(inside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE), np.float32)


def _distance(mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Distance to the nearest pixel outside the mask, beyond the frame included."""
    padded = np.pad(mask.astype(np.uint8), 1)
    return np.asarray(cv2.distanceTransform(padded, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1], np.float32)


def _share(part: Any, whole: Any) -> float | None:
    return percent(int(part) / int(whole)) if whole else None
