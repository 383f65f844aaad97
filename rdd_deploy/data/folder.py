"""Your own data: images and index masks in the same layout as CamVid (train/, trainannot/, …), any names, any classes."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from pathlib import Path

from rdd_deploy.data.base import FileSplit, LabelSpace
from rdd_deploy.data.ids import Ids
from rdd_deploy.data.listing import pair_up
from rdd_deploy.errors import DataError


def open_folder(
    root: Path,
    split: str,
    classes: Sequence[str],
    palette: Sequence[tuple[int, int, int]] | None = None,
    ids: Sequence[Sequence[int]] | None = None,
    void_ids: Sequence[int] = (255,),
    others_void: bool = False,
) -> FileSplit:
    """One split of a folder data set: ``root/<split>/`` holds frames, ``root/<split>annot/`` one PNG index mask of the same stem each.

    Args:
        classes: names in the order of their ids.
        palette: RGB colours; default: evenly spread hues.
        ids: per class the mask values that mean it; default: class 0 is 0, class 1 is 1, …
        void_ids: mask values that don't count.
        others_void: whether all other values don't count either.

    Raises:
        DataError: folders or masks missing.
    """
    frames, masks = root / split, root / f"{split}annot"
    if not frames.is_dir() or not masks.is_dir():
        raise DataError(
            f"no {split} split in {root}: expected the folders {split}/ (frames) and {split}annot/ (PNG index masks of the same stem)"
        )
    pairs, notes = pair_up(frames, masks)
    colours = tuple(palette) if palette else spread_colours(len(classes))
    meaning = Ids(len(classes), ids, void_ids, others_void, colours=palette or ())
    return FileSplit(LabelSpace(tuple(classes), colours), pairs, meaning, notes)


def spread_colours(count: int) -> tuple[tuple[int, int, int], ...]:
    """RGB colours of evenly spread hue, alternating in brightness so that neighbours differ."""
    colours = []
    for i in range(count):
        r, g, b = colorsys.hsv_to_rgb(i / count, 0.75, 0.95 if i % 2 else 0.65)
        colours.append((round(255 * r), round(255 * g), round(255 * b)))
    return tuple(colours)
