"""A folder of label maps beside a source: ``--labels FOLDER``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rdd_deploy.data.ids import Ids
from rdd_deploy.data.image_file import Header
from rdd_deploy.data.label_space import IGNORE
from rdd_deploy.data.listing import MASKS, by_stem, list_images, stem
from rdd_deploy.errors import DataError, SourceError
from rdd_deploy.live.captures import Capture
from rdd_deploy.live.sources import Folder, Source
from rdd_deploy.live.types import Array, CapturedFrame


class LabelFolder:
    """PNG index masks, found by the frame's name: the image's stem, alone or with one ending behind all of them
    (``frame1_mask.png``), or the frame's number in a video (``000017.png``, ``17.png``).

    Args:
        folder: the masks.
        source: its names are compared with the masks' at once.
        classes: how many ids there are.
        void: mask values that count as void, beside 255.
        recorded: what the mask values mean by the bundle's own data (``data.open.label_ids``); counts where ``void`` is
            empty.

    Raises:
        SourceError: the folder is missing, or its names don't match the source's.
        DataError: two masks have one name.
    """

    def __init__(
        self,
        folder: Path,
        source: Source,
        classes: int,
        void: tuple[int, ...],
        recorded: Mapping[str, Any] | None = None,
    ) -> None:
        if not folder.is_dir():
            raise SourceError(f"there is no label folder {folder}; expected a folder of PNG index masks")
        meaning = recorded if recorded and not void else {"void_ids": dict.fromkeys((*void, IGNORE))}
        self._ids = Ids(classes, **meaning, way_out="if they mean void, pass --data-void {values}")
        masks = by_stem(list_images(folder, MASKS).paths)
        self._headers: dict[str, Header | None] = {}
        if isinstance(source, Folder):
            self._headers = dict(zip((path.stem for path in source.paths), source.headers, strict=True))
            self._by_name = _matched(folder, masks, source.paths)
        elif isinstance(source, Capture) and not source.live:
            self._by_name = _numbered(folder, masks, source)
        else:
            raise SourceError(
                f"--labels goes with a video file or a folder of images; {source.title} has no labels in a folder"
            )

    def truth(self, captured: CapturedFrame) -> Array | None:
        """Labels uint8 (H, W) of that frame, 255 for void; None where the video has none. Raises DataError for an
        unusable mask.
        """
        path = self._by_name.get(captured.name)
        if path is None:
            return None
        labels = self._ids.labels(path)
        if labels.shape != captured.frame.shape[:2]:
            head = self._headers.get(captured.name)
            turned = (
                f"; the frame is turned on reading, as its EXIF orientation {head.orientation} says"
                if head and head.orientation > 1
                else ""
            )
            raise DataError(
                f"{path} is of size {_size(labels)}, its frame {_size(captured.frame)}{turned}; give labels of the"
                " frames' size"
            )
        return labels


def _matched(folder: Path, masks: dict[str, Path], images: Sequence[Path]) -> dict[str, Path]:
    """The images' names, as captured frames have them, with their masks."""
    names = [stem(path) for path in images]
    missing = [path.stem for path, name in zip(images, names, strict=True) if name not in masks]
    if not missing:
        return {path.stem: masks[name] for path, name in zip(images, names, strict=True)}
    if ending := _common_ending(names, masks):
        return {path.stem: masks[name + ending] for path, name in zip(images, names, strict=True)}
    raise SourceError(
        f"{len(missing)} of {len(images)} images have no mask of the same name in {folder}, the first is"
        f" {missing[0]}.png; give the folder whose names match, or differ by one ending (frame1.jpg, frame1_mask.png)"
    )


def _common_ending(names: Sequence[str], masks: Mapping[str, Path]) -> str:
    """What stands behind every image's name in its mask's, e.g. ``_mask``; empty where there is no such ending, or
    several.
    """
    first = names[0]
    endings = {mask[len(first) :] for mask in masks if mask.startswith(first) and not mask[len(first) :][:1].isalnum()}
    found = [ending for ending in endings if ending and all(name + ending in masks for name in names)]
    return found[0] if len(found) == 1 else ""


def _numbered(folder: Path, masks: dict[str, Path], source: Capture) -> dict[str, Path]:
    """Video: the mask's name is the frame's number."""
    named = {f"{int(stem):06d}": path for stem, path in masks.items() if stem.isdecimal()}
    if len(named) != len(masks) or not named:
        odd = next((stem for stem in masks if not stem.isdecimal()), None)
        got = f"{odd}.png isn't a number" if odd else "two of them have the same number" if masks else "it holds no PNG"
        raise SourceError(
            f"the masks in {folder} don't match {source.title}: {got}; expected the frame's number from 0, like"
            " 000017.png"
        )
    last = max(map(int, named))
    if source.frames is not None and last >= source.frames:
        raise SourceError(
            f"the masks in {folder} go up to frame {last}, {source.title} has {source.frames} frames; give the folder"
            " that belongs to it"
        )
    return named


def _size(array: Array) -> str:
    return f"{array.shape[1]}x{array.shape[0]}"
