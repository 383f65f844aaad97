"""List a folder of images or masks: those that are taken, and sentences about everything that is left out."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rdd_deploy.data.image_file import Header, header_of
from rdd_deploy.errors import DataError

IMAGES = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".webp", ".tif", ".tiff", ".ppm")
"""Endings of files that are read, in either case."""
MASKS = (".png",)
OTHERS = (
    ".heic", ".heif", ".avif", ".gif", ".jp2", ".j2k", ".jxl", ".pgm", ".pbm", ".pnm", ".tga", ".exr", ".hdr", ".psd", ".svg", ".ico", ".pcx",
    ".dng", ".cr2", ".cr3", ".nef", ".arw", ".raw", ".rw2", ".orf", ".npy", ".mat",
)  # fmt: skip
"""Endings of pictures that aren't."""
_COMPANIONS = {"thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx", "icon\r", "@eadir"}
"""What systems leave in every folder, in lower case; hidden files besides."""


@dataclass
class Listing:
    """A folder's images, sorted by name.

    Attributes:
        hidden: how many files of the system's own were passed over.
        others: names of pictures of kinds that aren't read.
        folders: sub-folders with images, which aren't looked into, as (name of the first image inside, how many).
    """

    folder: Path
    paths: list[Path] = field(default_factory=list)
    hidden: int = 0
    others: list[str] = field(default_factory=list)
    folders: list[tuple[str, int]] = field(default_factory=list)

    def notes(self) -> list[str]:
        """A sentence about each kind of thing that was left out."""
        notes = []
        if self.folders:
            images = sum(count for _, count in self.folders)
            notes.append(
                f"{plural(len(self.folders), 'sub-folder')} of {self.folder} with {plural(images, 'image')}, the first"
                f" is {self.folders[0][0]}: left out, move the images up to use them"
            )
        if self.others:
            kinds = ", ".join(sorted({Path(name).suffix.lower() for name in self.others}))
            notes.append(
                f"{plural(len(self.others), 'file')} in {self.folder} of other kinds ({kinds}), the first is"
                f" {self.others[0]}: left out, convert them to use them"
            )
        if self.hidden:
            notes.append(f"{plural(self.hidden, 'hidden or system file')} in {self.folder} passed over")
        return notes


def list_images(folder: Path, suffixes: Sequence[str] = IMAGES) -> Listing:
    """List a folder's images of some kinds. Pipes and broken links among them stay in the list: reading them is an
    error with their name.
    """
    listing = Listing(folder)
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        suffix = os.path.splitext(entry.name)[1].lower()
        if is_hidden(entry.name):
            listing.hidden += 1
        elif entry.is_dir(follow_symlinks=False) or (entry.is_symlink() and os.path.isdir(entry.path)):
            if inside := _images_inside(entry, (*IMAGES, *OTHERS)):
                listing.folders.append((f"{entry.name}/{inside[0]}", len(inside)))
            elif suffix in suffixes:
                listing.folders.append((f"{entry.name}/", 0))
        elif suffix in suffixes:
            listing.paths.append(folder / entry.name)
        elif suffix in IMAGES or suffix in OTHERS:
            listing.others.append(entry.name)
    return listing


def is_hidden(name: str) -> bool:
    return name.startswith(".") or name.lower() in _COMPANIONS


def _images_inside(folder: os.DirEntry[str], suffixes: Sequence[str]) -> list[str]:
    """Images anywhere below a folder, relative to it; what can't be listed counts for nothing."""
    found = []
    for place, folders, names in os.walk(folder.path):
        folders[:] = sorted(name for name in folders if not is_hidden(name))
        inside = [
            name for name in sorted(names) if not is_hidden(name) and os.path.splitext(name)[1].lower() in suffixes
        ]
        found += [os.path.relpath(os.path.join(place, name), folder.path) for name in inside]
    return found


def stem(path: Path) -> str:
    """A file's name without its ending, by which masks are found; composed, as some systems write é as e with an accent
    behind it.
    """
    return unicodedata.normalize("NFC", path.stem)


def by_stem(paths: Sequence[Path]) -> dict[str, Path]:
    """Files by ``stem``. Raises DataError where two have the same."""
    found: dict[str, Path] = {}
    for path in paths:
        if (twin := found.setdefault(stem(path), path)) is not path:
            raise DataError(
                f"{path.parent}: {twin.name} and {path.name} have the same name but for the ending; rename or"
                " remove one"
            )
    return found


def pair_up(frames: Path, masks: Path, kinds: Sequence[str] = IMAGES) -> tuple[list[tuple[Path, Path]], list[str]]:
    """Pair the frames of a folder with the masks of another, by ``stem``.

    Returns:
        (frame, mask) in the order of the frames' names, and sentences about what was left out.

    Raises:
        DataError: no frames, frames without a mask, two of one name.
    """
    images, labels = list_images(frames, kinds), list_images(masks, MASKS)
    notes = images.notes() + labels.notes()
    left_out = "".join(f"; {note}" for note in notes)
    if not images.paths:
        raise DataError(f"{frames} holds no images; expected files ending in {', '.join(kinds)}{left_out}")
    by_name, twins = by_stem(labels.paths), by_stem(images.paths)
    lost = [path for name, path in twins.items() if name not in by_name]
    if lost:
        raise DataError(
            f"{len(lost)} of {len(images.paths)} frames in {frames} have no mask in {masks}, e.g. {lost[0].name} needs"
            f" {lost[0].stem}.png{left_out}"
        )
    if lonely := [path.name for name, path in by_name.items() if name not in twins]:
        notes.append(
            f"{plural(len(lonely), 'mask')} in {masks} without a frame in {frames}, the first is {lonely[0]}: left out"
        )
    return [(path, by_name[stem(path)]) for path in images.paths], notes


def turned_notes(where: str, paths: Sequence[Path], headers: Sequence[Header | None]) -> list[str]:
    """A sentence about the images that are turned on reading."""
    turned = [
        (path.name, head.orientation)
        for path, head in zip(paths, headers, strict=True)
        if head and head.orientation != 1
    ]
    if not turned:
        return []
    return [
        f"{len(turned)} of {plural(len(paths), 'image')} in {where} {'is' if len(turned) == 1 else 'are'} turned on"
        f" reading, as their EXIF orientation says, the first is {turned[0][0]} (orientation {turned[0][1]}): masks"
        " must be turned as well"
    ]


def shape_notes(
    where: str, paths: Sequence[Path], headers: Sequence[Header | None], size: tuple[int, int]
) -> list[str]:
    """A sentence about images that lie across the network's frame, or across most others where that is square."""
    shapes = [(path.name, head.shown) for path, head in zip(paths, headers, strict=True) if head]
    upright = [(name, shape) for name, shape in shapes if shape[0] > shape[1]]
    wide = [(name, shape) for name, shape in shapes if shape[0] < shape[1]]
    height, width = size
    across = upright if height < width or (height == width and len(upright) <= len(wide)) else wide
    if not across or (height == width and not (upright and wide)):
        return []
    name, shape = across[0]
    return [
        f"{len(across)} of {plural(len(paths), 'image')} in {where} {'is' if len(across) == 1 else 'are'}"
        f" {'upright (portrait)' if across is upright else 'wide (landscape)'}, the first is {name}"
        f" ({shape[0]}x{shape[1]}): stretched to the network's {height}x{width} like all others, which distorts what"
        " they show; crop or leave them out if the target's camera gives none"
    ]


def headers_of(paths: Sequence[Path]) -> list[Header | None]:
    """What each file's header promises, None where it can't be read."""
    return [header_of(path) for path in paths]


def plural(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
