"""A folder of label maps beside a source: ``--labels FOLDER``."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from rdd_deploy.data.base import IGNORE, read_mask
from rdd_deploy.errors import DataError, SourceError, missing_package
from rdd_deploy.live.captures import Capture
from rdd_deploy.live.shot import Array, Shot
from rdd_deploy.live.sources import Folder, Source


class LabelFolder:
    """PNG index masks, found by the frame's name: the image's stem, or the frame's number in a video (``000017.png``, ``17.png``).

    Args:
        folder: the masks.
        source: its names are compared with the masks' at once.
        classes: how many ids there are.
        void: mask values that count as void, beside 255.

    Raises:
        SourceError: the folder is missing, or its names don't match the source's.
    """

    def __init__(self, folder: Path, source: Source, classes: int, void: tuple[int, ...]) -> None:
        if not folder.is_dir():
            raise SourceError(f"there is no label folder {folder}; expected a folder of PNG index masks")
        self._classes = classes
        self._table = np.full(256, -1, np.int16)
        self._table[:classes] = np.arange(classes)
        self._table[[IGNORE, *void]] = IGNORE
        masks = {path.stem: path for path in sorted(folder.glob("*.png"))}
        if isinstance(source, Folder):
            self._by_name = _matched(folder, masks, [path.stem for path in source.paths])
        elif isinstance(source, Capture) and not source.live:
            self._by_name = _numbered(folder, masks, source)
        else:
            raise SourceError(f"--labels goes with a video file or a folder of images; {source.title} has no labels in a folder")

    def truth(self, shot: Shot) -> Array | None:
        """Labels uint8 (H, W) of that frame, 255 for void; None where the video has none. Raises DataError for an unusable mask."""
        path = self._by_name.get(shot.name)
        if path is None:
            return None
        try:
            mask = read_mask(path)
        except ImportError as error:
            raise missing_package("pillow", "train", f"the palette mask {path}") from error
        if mask.shape != shot.frame.shape[:2]:
            raise DataError(f"{path} is of size {_size(mask)}, its frame {_size(shot.frame)}; give labels of the frames' size")
        mapped = self._table[mask]
        if (mapped < 0).any():
            unknown = np.unique(mask[mapped < 0]).tolist()
            void = " ".join(map(str, unknown))
            raise DataError(
                f"{path} holds the ids {unknown}, expected 0 to {self._classes - 1} or 255; if they mean void, pass --data-void {void}"
            )
        return mapped.astype(np.uint8)


def _matched(folder: Path, masks: dict[str, Path], names: list[str]) -> dict[str, Path]:
    missing = [name for name in names if name not in masks]
    if missing:
        raise SourceError(
            f"{len(missing)} of {len(names)} images have no mask of the same name in {folder}, the first is {missing[0]}.png; "
            "give the folder whose names match"
        )
    return masks


def _numbered(folder: Path, masks: dict[str, Path], source: Capture) -> dict[str, Path]:
    """Video: the mask's name is the frame's number."""
    named = {f"{int(stem):06d}": path for stem, path in masks.items() if stem.isdecimal()}
    if len(named) != len(masks) or not named:
        odd = next((stem for stem in masks if not stem.isdecimal()), None)
        got = f"{odd}.png isn't a number" if odd else "two of them have the same number" if masks else "it holds no PNG"
        raise SourceError(f"the masks in {folder} don't match {source.title}: {got}; expected the frame's number from 0, like 000017.png")
    last = max(map(int, named))
    if source.frames is not None and last >= source.frames:
        raise SourceError(
            f"the masks in {folder} go up to frame {last}, {source.title} has {source.frames} frames; give the folder that belongs to it"
        )
    return named


def _size(array: Array) -> str:
    return f"{array.shape[1]}x{array.shape[0]}"
