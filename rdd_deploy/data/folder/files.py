"""Open a split of a ``folder`` data set: which files, and what their masks mean."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from rdd_deploy import console
from rdd_deploy.data.base import FileSplit
from rdd_deploy.data.colour_masks import ColourMap, colour_map
from rdd_deploy.data.colours import Colour
from rdd_deploy.data.folder.lists import listed_pairs
from rdd_deploy.data.folder.meaning import VOID, Meaning
from rdd_deploy.data.folder.patterns import Layout
from rdd_deploy.data.folder.shares import digest_of, groups_of, share_out
from rdd_deploy.data.ids import Ids
from rdd_deploy.data.label_space import IGNORE, LabelSpace
from rdd_deploy.data.listing import pair_up
from rdd_deploy.errors import DataError

_TOLD_FROM = 500
"""So many masks take long enough to be read for a progress bar."""


def ids_of(
    meaning: Meaning, palette: Sequence[Colour], where: str, pictures: Meaning | None = None, pictures_where: str = ""
) -> Ids:
    """How masks are read.

    Args:
        palette: the classes' colours where the user gave them.
        where: what names the masks' colours, for messages.
        pictures: the same of masks that are pictures, where the others hold numbers.
    """
    colours = None
    if meaning.colours:
        colours = map_of(meaning, where)
    elif pictures is not None:
        colours = map_of(pictures, pictures_where, always=False)
    return Ids(
        len(meaning.classes), meaning.ids, meaning.void_ids, meaning.others_void, colours=palette, colour_map=colours
    )


def map_of(meaning: Meaning, where: str, always: bool = True) -> ColourMap:
    """The colours of a meaning, as a table."""
    rows = [(name, index, meaning.colours[index]) for index, name in enumerate(meaning.classes)]
    return colour_map(
        [*rows, (VOID, IGNORE, meaning.void_colours)], where=where, always=always, others_void=meaning.others_void
    )


def folder_split(root: Path, split: str, meaning: Meaning, ids: Ids) -> FileSplit:
    """``root/<split>/`` holds frames, ``root/<split>annot/`` one PNG mask of the same stem each. Raises DataError."""
    frames, masks = root / split, root / f"{split}annot"
    if not frames.is_dir() or not masks.is_dir():
        raise DataError(
            f"no {split} split in {root}: expected the folders {split}/ (frames) and {split}annot/ (PNG index masks of"
            " the same stem); of any other layout say with data.images and data.masks where they are"
        )
    pairs, notes = pair_up(frames, masks)
    return FileSplit(LabelSpace(meaning.classes, meaning.palette), pairs, ids, notes)


def pattern_split(root: Path, split: str, images: str, masks: str, meaning: Meaning, ids: Ids) -> FileSplit:
    """Frames and masks by patterns with ``{split}``. Raises DataError."""
    layout = Layout(root, images, masks)
    frames, name = layout.frames(split)
    pairs = layout.pairs(frames, name)
    return FileSplit(LabelSpace(meaning.classes, meaning.palette), pairs, ids, layout.notes)


def list_split(
    root: Path,
    split: str,
    lists: Mapping[str, str | None],
    images: str | None,
    masks: str | None,
    meaning: Meaning,
    ids: Ids,
) -> FileSplit:
    """The frames that the split's list file names. Raises DataError."""
    path = lists.get(split)
    if path is None:
        raise DataError(
            f"data.lists names no list for {split}; give data.lists.{split}, a text file with a frame a line"
        )
    layout = Layout(root, images, masks) if images and masks else None
    pairs, notes = listed_pairs(root, root / path, layout, split)
    return FileSplit(LabelSpace(meaning.classes, meaning.palette), pairs, ids, notes)


_shared: dict[object, tuple[list[str], list[str]]] = {}
"""What was shared out before: the splits of a data set are opened one after the other, and each time all masks would be read."""
_lock = threading.Lock()


def shared_split(
    root: Path,
    split: str,
    images: str,
    masks: str,
    shares: Mapping[str, float],
    seed: int,
    by: str,
    digest: str | None,
    meaning: Meaning,
    ids: Ids,
) -> FileSplit:
    """A share of all frames, by their classes.

    Args:
        shares: split -> its share.
        by: what isn't torn apart, see ``shares.groups_of``.
        digest: of the frames' names when they were shared out before; others are warned of.

    Raises:
        DataError: no frames, frames without a mask, or none for this split.
    """
    if not shares.get(split):
        raise DataError(f"data.split gives {split} no share; set data.split.{split}, e.g. to 0.1")
    layout = Layout(root, images, masks)
    frames, _ = layout.frames(split)
    pairs = layout.pairs(frames, split)
    paths = [frame.fields["path"] for frame in frames]
    assigned, notes = _assigned(
        pairs, paths, shares, seed, by, ids, (root, meaning, *sorted(shares.items()), seed, by, *paths)
    )
    if digest is not None and digest != digest_of(paths):
        notes = [
            *notes,
            (
                f"{root} no longer holds just the frames that it did when they were shared out: some of {split} may"
                " have been trained on; keep splits in lists (data.lists) where frames are added"
            ),
        ]
    mine = [pair for pair, one in zip(pairs, assigned, strict=True) if one == split]
    if not mine:
        raise DataError(
            f"of {len(paths)} frames in {root}, {len(set(groups_of(paths, by)[0]))} by data.split.by={by}, none came to"
            f" {split}; give it a larger share, or set data.split.by=frame"
        )
    return FileSplit(LabelSpace(meaning.classes, meaning.palette), mine, ids, [*layout.notes, *notes])


def frames_digest(root: Path, images: str, masks: str) -> str | None:
    """Of the names of all frames; None where there are none to be found."""
    try:
        layout = Layout(root, images, masks)
        frames, name = layout.frames("train")
        layout.pairs(frames, name)
        return digest_of([frame.fields["path"] for frame in frames])
    except (DataError, OSError):
        return None


def _assigned(
    pairs: Sequence[tuple[Path, Path]],
    paths: Sequence[str],
    shares: Mapping[str, float],
    seed: int,
    by: str,
    ids: Ids,
    about: object,
) -> tuple[list[str], list[str]]:
    """The split of each frame, and sentences about sequences."""
    stamps = tuple((mask, *_stamp(mask)) for _, mask in pairs)
    key = (repr(about), stamps)
    with _lock:
        if key not in _shared:
            groups, long = groups_of(paths, by)
            notes = [f"{note}; if they are no video, say data.split.by=frame" for note in long]
            _shared.clear()
            _shared[key] = share_out(groups, _classes([mask for _, mask in pairs], ids), shares, seed), notes
        return _shared[key]


def _stamp(path: Path) -> tuple[int, int]:
    try:
        status = os.stat(path)
    except OSError:
        return 0, 0
    return status.st_mtime_ns, status.st_size


def _classes(masks: Sequence[Path], ids: Ids) -> list[list[int]]:
    """The classes in each mask. One that can't be read has none: what is wrong with it is told where its split is
    checked.
    """

    def look(path: Path) -> list[int]:
        try:
            found = np.unique(ids.labels(path)).tolist()
        except DataError:
            found = []
        bar.advance()
        return [one for one in found if one != IGNORE]

    told = len(masks) >= _TOLD_FROM and console.process_rank() == 0
    with console.progress("classes of the masks", len(masks), enabled=told) as bar, ThreadPoolExecutor(4) as pool:
        return list(pool.map(look, masks))
