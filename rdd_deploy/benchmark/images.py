"""The images of a benchmark: decoded from their files inside the timer, checked and hashed once outside it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from rdd_deploy import console
from rdd_deploy.data import DATASETS
from rdd_deploy.data.base import IGNORE, FileSplit, Frame, Labels, Split
from rdd_deploy.data.config import options_of
from rdd_deploy.data.open import OtherClassesError, open_data, open_recorded
from rdd_deploy.data.reader import read_image
from rdd_deploy.errors import DataError
from rdd_deploy.runtime import Manifest

_NAMED = 3
"""So many unreadable images are named; a wrong folder of labels would name them all."""


class Images:
    """The readable images of a split, evenly thinned to ``limit``.

    A split that makes its frames (streets) is encoded to PNG here, so that its decoding costs what a file's does and
    its rendering costs nothing.

    Attributes:
        names: of the images that are used.
        skipped: names of those that couldn't be read; the first few are reported.
        sha256: over all frames and labels, in order.

    Raises:
        DataError: no image is readable, or all labels are void.
    """

    def __init__(self, split: Split, limit: int | None = None) -> None:
        self._split = split
        self.label_space = split.label_space
        wanted = (
            range(len(split))
            if limit is None or limit >= len(split)
            else np.linspace(0, len(split) - 1, limit).round().astype(int)
        )
        self._encoded: dict[int, tuple[Frame, Frame]] = {}
        self._indices: list[int] = []
        self.skipped: list[str] = []
        digest = hashlib.sha256()
        any_known = self._look_at(map(int, wanted), digest)
        if not self._indices:
            raise DataError(
                f"none of the {len(self.skipped)} images can be used; the first:"
                f" {self.skipped[0] if self.skipped else 'none'}"
            )
        if not any_known:
            raise DataError(
                f"all pixels of the {len(self._indices)} label maps are void, so there is no mIoU; "
                "check the labels and the void ids of the data set, or take more images"
            )
        self.sha256 = digest.hexdigest()
        self.names = [split.names[index] for index in self._indices]

    def _look_at(self, wanted: Iterable[int], digest: hashlib._Hash) -> bool:
        """Read, hash and keep what can be used; whether any pixel of it is known."""
        any_known = False
        for index in wanted:
            try:
                frame, labels = self._split.frame(index), self._split.labels(index)
                if frame.shape[:2] != labels.shape:
                    raise DataError(
                        f"the frame {self._split.names[index]} is {frame.shape[:2]}, its labels are {labels.shape};"
                        " make them one size"
                    )
            except DataError as error:
                self.skipped.append(self._split.names[index])
                if len(self.skipped) <= _NAMED:
                    console.warn(f"{error}; left out")
                continue
            digest.update(f"{frame.shape}".encode() + frame.tobytes() + labels.tobytes())
            any_known = any_known or bool((labels != IGNORE).any())
            self._keep(index, frame, labels)
        return any_known

    def _keep(self, index: int, frame: Frame, labels: Labels) -> None:
        self._indices.append(index)
        if not isinstance(self._split, FileSplit):
            self._encoded[index] = (
                encode_png(np.asarray(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR), np.uint8)),
                encode_png(labels),
            )

    def __len__(self) -> int:
        return len(self._indices)

    def decode(self, number: int) -> Frame:
        """Read one image as the live app would: file to uint8 (H, W, 3) BGR."""
        index = self._indices[number]
        if isinstance(self._split, FileSplit):
            try:
                return read_image(self._split.pairs[index][0])
            except DataError as error:
                raise DataError(f"{error}; it was readable before: leave the data alone during a benchmark") from error
        return np.asarray(cv2.imdecode(self._encoded[index][0], cv2.IMREAD_COLOR), np.uint8)

    def truth(self, number: int) -> Labels:
        """Label map uint8 (H, W) with IGNORE for void."""
        index = self._indices[number]
        return (
            self._split.labels(index) if isinstance(self._split, FileSplit) else decode_labels(self._encoded[index][1])
        )

    def known(self, number: int) -> NDArray[np.bool_]:
        """Where the truth isn't void, bool (H, W)."""
        return np.asarray(self.truth(number) != IGNORE)


def encode_png(image: Frame | Labels) -> Frame:
    """Image or label map -> PNG bytes, uint8 (n,), quickly."""
    done, encoded = cv2.imencode(".png", image, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    if not done:
        raise RuntimeError("OpenCV can't encode PNG")
    return np.asarray(encoded, np.uint8)


def decode_labels(encoded: Frame) -> Labels:
    """The label map of ``encode_png``."""
    return np.asarray(cv2.imdecode(encoded, cv2.IMREAD_UNCHANGED), np.uint8)


def open_images(
    manifests: Sequence[Manifest], data: Path | None, name: str | None, split: str, limit: int | None
) -> tuple[str, Images]:
    """The images to measure on, and their data set's name: as asked for, else what the first readable bundle was made
    from.

    Where that is the data set that was asked for it is opened as the bundle's manifest says (size, seed, void ids).
    Bundles of other classes than the data's are passed over; they fail in their rows.
    """
    others: OtherClassesError | None = None
    for one in manifests:
        recorded = one.provenance.get("data")
        if recorded and name in (None, recorded):
            if data is not None and recorded in DATASETS and not options_of(str(recorded)).in_folder:
                others_in_folders = " or ".join(known for known in DATASETS if options_of(known).in_folder)
                raise DataError(
                    f"'{one.name}' was made from {recorded}, which lie in no folder; "
                    + (f"say what {data} is: --data-name {others_in_folders}" if name is None else "leave --data out")
                )
            try:
                return str(recorded), Images(open_recorded(one, split, data), limit)
            except OtherClassesError as error:
                others = others or error
    if others is not None:
        raise others
    manifest = next(iter(manifests), None)
    name = name or "camvid"
    chosen = options_of(name).for_bundle(str(data or Path("data") / name), manifest)
    return name, Images(open_data(chosen, split, fetch=False), limit)
