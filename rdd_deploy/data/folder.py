"""Your own data: images and index masks in the same layout as CamVid (train/, trainannot/, …), any names, any classes."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from pathlib import Path

from rdd_deploy.data.base import FileSplit, Task
from rdd_deploy.errors import DataError

IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")


def open_folder(
    root: Path, split: str, classes: Sequence[str], palette: Sequence[tuple[int, int, int]] | None = None, void_ids: Sequence[int] = (255,)
) -> FileSplit:
    """One split of a folder data set: ``root/<split>/`` holds frames, ``root/<split>annot/`` one PNG index mask of the same stem each.

    Args:
        classes: names in the order of their ids.
        palette: RGB colours; default: evenly spread hues.
        void_ids: mask values that don't count.

    Raises:
        DataError: folders or masks missing.
    """
    frames, masks = root / split, root / f"{split}annot"
    if not frames.is_dir() or not masks.is_dir():
        raise DataError(
            f"no {split} split in {root}: expected the folders {split}/ (frames) and {split}annot/ (PNG index masks of the same stem)"
        )
    images = sorted(path for path in frames.iterdir() if path.suffix.lower() in IMAGES)
    if not images:
        raise DataError(f"{frames} holds no images; expected files ending in {', '.join(IMAGES)}")
    by_stem = {image.stem: image for image in images}
    if len(by_stem) < len(images):
        twin = next(image for image in images if by_stem[image.stem] != image)
        raise DataError(f"{frames}: {twin.name} and {by_stem[twin.stem].name} share the mask {twin.stem}.png; rename or remove one")
    lost = [image.name for image in images if not (masks / f"{image.stem}.png").is_file()]
    if lost:
        raise DataError(
            f"{len(lost)} of {len(images)} frames in {frames} have no mask in {masks}, e.g. {lost[0]} needs {Path(lost[0]).stem}.png"
        )
    colours = tuple(palette) if palette else spread_colours(len(classes))
    return FileSplit(Task(tuple(classes), colours), [(image, masks / f"{image.stem}.png") for image in images], void_ids)


def spread_colours(count: int) -> tuple[tuple[int, int, int], ...]:
    """RGB colours of evenly spread hue, alternating in brightness so that neighbours differ."""
    colours = []
    for i in range(count):
        r, g, b = colorsys.hsv_to_rgb(i / count, 0.75, 0.95 if i % 2 else 0.65)
        colours.append((round(255 * r), round(255 * g), round(255 * b)))
    return tuple(colours)
