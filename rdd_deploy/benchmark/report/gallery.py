"""Pictures of the frames on which the bundles disagree most."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from rdd_deploy.benchmark.images import Images, decode_labels
from rdd_deploy.benchmark.timing import Measured
from rdd_deploy.data.base import IGNORE, Frame, Labels
from rdd_deploy.drawing import Overlay
from rdd_deploy.preprocess import resize_frame, resize_labels

FRAMES = 6
COLUMNS = 5
"""Bundles shown beside frame and truth, the first and those that differ most from it; more would be too small to see."""
_WIDTH = 400
_OPACITY = 0.6
_QUALITY = 82


@dataclass(frozen=True)
class Picture:
    """One captioned JPEG."""

    caption: str
    detail: str
    jpeg: bytes


@dataclass(frozen=True)
class DisagreementExample:
    """One frame: itself, its truth, what each bundle says, and where they differ.

    Attributes:
        disagreement_pct: share of the non-void pixels on which not all bundles agree; with one bundle, on which it is
            wrong.
    """

    name: str
    disagreement_pct: float
    pictures: tuple[Picture, ...]


def disagreements(results: Sequence[Measured], images: Images) -> NDArray[np.float64]:
    """Share of differing pixels per image, in [0, 1]; with one result, its share of wrong pixels."""
    shares = np.zeros(len(images))
    for image in range(len(images)):
        truth = images.truth(image)
        known = truth != IGNORE
        differs = _differs([decode_labels(result.labels[image]) for result in results], truth)
        shares[image] = differs[known].mean() if known.any() else 0.0
    return shares


def gallery(named: Sequence[tuple[str, Measured]], images: Images, frames: int = FRAMES) -> list[DisagreementExample]:
    """The frames with the highest disagreement, highest first; none for no result."""
    if not named:
        return []
    shares = disagreements([result for _, result in named], images)
    return [_example(image, float(shares[image]), named, images) for image in spread_worst(shares, frames)]


def spread_worst(shares: NDArray[np.float64], frames: int) -> list[int]:
    """The numbers with the highest shares above 0, highest first, none next to another: neighbours in a video show the
    same twice.
    """
    apart = max(1, len(shares) // (4 * frames))
    chosen: list[int] = []
    for image in map(int, np.argsort(-shares, kind="stable")):
        if shares[image] > 0 and all(abs(image - other) >= apart for other in chosen) and len(chosen) < frames:
            chosen.append(image)
    return chosen


def _example(image: int, share: float, named: Sequence[tuple[str, Measured]], images: Images) -> DisagreementExample:
    frame, truth = images.decode(image), images.truth(image)
    # Frames of video size are drawn small at once: blending 2 megapixels five times over would take longer than
    # measuring them.
    size = (round(frame.shape[0] * _WIDTH / frame.shape[1]), _WIDTH)
    small, small_truth = resize_frame(frame, size), resize_labels(truth, size)
    overlay = Overlay(np.array(images.label_space.palette, np.uint8), _OPACITY)
    labels = [resize_labels(decode_labels(result.labels[image]), size) for _, result in named]
    what = "not all agree" if len(named) > 1 else "wrong"
    differs = _differs(labels, small_truth) & (small_truth != IGNORE)
    pictures = [
        Picture("frame", "", _jpeg(small)),
        Picture("truth", "", _jpeg(overlay.draw(small, small_truth))),
        Picture(what, f"{100 * share:.1f} % of the pixels", _jpeg(_marked(small, differs))),
    ]
    for number in _most_different(labels, COLUMNS):
        (name, result), own = named[number], labels[number]
        matrix = result.matrices[image]
        right = 100 * np.trace(matrix) / max(1, matrix.sum())
        pictures.append(Picture(name, f"{right:.1f} % of its pixels right", _jpeg(overlay.draw(small, own))))
    return DisagreementExample(images.names[image], round(100 * share, 2), tuple(pictures))


def _most_different(labels: Sequence[Labels], count: int) -> list[int]:
    """The first one and those that differ most from it, in their order: who disagrees must be seen."""
    others = sorted(range(1, len(labels)), key=lambda number: -int((labels[number] != labels[0]).sum()))
    return sorted([0, *others[: count - 1]])


def _differs(labels: Sequence[Labels], truth: Labels) -> NDArray[np.bool_]:
    if len(labels) == 1:
        return np.asarray(labels[0] != truth)
    differs = np.zeros(truth.shape, np.bool_)
    for other in labels[1:]:
        differs |= other != labels[0]
    return differs


def _marked(frame: Frame, where: NDArray[np.bool_]) -> Frame:
    """The frame in pale grey with orange where it is marked; BGR."""
    grey = cv2.cvtColor(cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
    marked = np.asarray(255 - (255 - grey) // 3, np.uint8)
    marked[where] = (20, 90, 230)
    return marked


def _jpeg(picture: Frame) -> bytes:
    done, encoded = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    if not done:
        raise RuntimeError("OpenCV can't encode JPEG")
    return bytes(encoded.tobytes())
