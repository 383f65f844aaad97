"""List files: which frames belong to a split, a line each."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from rdd_deploy.data.folder.patterns import Found, Layout, key_of
from rdd_deploy.data.listing import IMAGES, MASKS, plural
from rdd_deploy.errors import DataError
from rdd_deploy.utils.files import read_text

_LARGEST_FILE = 256 << 20


def read_list(path: Path) -> list[tuple[int, str]]:
    """The lines of a list with their numbers from 1, without empty ones. Raises DataError."""
    try:
        text = read_text(path, _LARGEST_FILE, "utf-8-sig")
    except OSError as error:
        raise DataError(
            f"can't read the list {path}: {error.strerror or error}; expected UTF-8 text, a line a frame"
        ) from error
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1)]
    return [(number, line) for number, line in lines if line]


def listed_pairs(
    root: Path, path: Path, layout: Layout | None, split: str
) -> tuple[list[tuple[Path, Path]], list[str]]:
    """The (frame, mask) pairs that a list names, in its order.

    A line is the path of a frame below the data set's folder, with or without ending, or its name alone where no other
    frame has it; or two paths, a frame's and its mask's. A slash before a path means the data set's folder, too;
    absolute paths into it and Windows' separators are read as well. A line that begins with # and names no frame is a
    comment.

    Args:
        layout: the patterns by which frames and masks are found; None where each line must be a pair.

    Returns:
        The pairs, and sentences about what was left out.

    Raises:
        DataError: a line names nothing, several frames, a path outside the folder, or a frame that another line has.
    """
    found: list[Found] = []
    name = split
    if layout is not None:
        found, name = layout.frames(split)
    index = _index(found)
    tops = (os.path.abspath(root), os.path.realpath(root))
    lines: dict[str, int] = {}
    order: list[str | tuple[Path, Path]] = []
    chosen: list[Found] = []
    for number, line in read_list(path):
        where = f"{path}, line {number}"
        name_ = _name(index, line, tops)
        if line.startswith("#") and name_ not in index:
            continue  # a comment
        pair = None if name_ in index else _pair(root, line, where, tops)
        if pair is None and layout is None:
            raise DataError(
                f"{where} is {line!r:.100}; expected two paths, a frame's and its mask's, or give data.images and"
                " data.masks, by which names are found"
            )
        if pair is not None:
            key = key_of(os.path.relpath(pair[0], root))
            order.append(pair)
        else:
            frame = _one(index.get(name_, []), line, where, layout, root)
            key = frame.key
            order.append(key)
            chosen.append(frame)
        if (first := lines.setdefault(key, number)) != number:
            raise DataError(f"{where} names {key}, which line {first} does already; expected each frame once")
    if not order:
        raise DataError(f"the list {path} names no frame; expected a name or path a line")
    masked = (
        dict(zip((frame.key for frame in chosen), layout.pairs(list(chosen), name, whole=False), strict=True))
        if layout and chosen
        else {}
    )
    notes = list(layout.notes) if layout else []
    if layout and (rest := len(found) - len(chosen)) > 0 and not any(isinstance(one, tuple) for one in order):
        notes.append(
            f"{plural(rest, 'image')} of {len(found)} in {root} not used for {split}: {path.name} doesn't list"
            f" {'it' if rest == 1 else 'them'}"
        )
    return [masked[one] if isinstance(one, str) else one for one in order], notes


def _index(found: list[Found]) -> dict[str, list[Found]]:
    """Frames by every name that a line may give them."""
    index: dict[str, list[Found]] = {}
    for frame in found:
        for name in {
            frame.key,
            os.path.splitext(frame.key)[0],
            frame.fields["path"],
            frame.fields["stem"],
            os.path.basename(frame.key),
        }:
            index.setdefault(name, []).append(frame)
    return index


def _name(index: Mapping[str, list[Found]], line: str, tops: tuple[str, ...]) -> str:
    """What the index may have a line under."""
    name = key_of(_below(line, tops))
    return name if name in index else key_of(_below(line.replace("\\", "/"), tops))


def _below(text: str, tops: tuple[str, ...]) -> str:
    """A path as one below the data set's folder, of which ``tops`` are the absolute paths."""
    for top in tops:
        text = text.removeprefix(f"{top}/")
    return text.lstrip("/").removeprefix("./")


def _one(frames: list[Found], line: str, where: str, layout: Layout | None, root: Path) -> Found:
    if not frames:
        pattern = layout.images if layout else ""
        raise DataError(
            f"{where} names {line!r:.100}, which is none of the images {pattern} in {root}; correct it, or remove it"
        )
    if len(frames) > 1:
        raise DataError(
            f"{where} names {line!r:.100}, which {frames[0].key} and {frames[1].key} are both called; give the path"
            " below data.root"
        )
    return frames[0]


def _pair(root: Path, line: str, where: str, tops: tuple[str, ...]) -> tuple[Path, Path] | None:
    """The two files that a line names, None where it isn't a pair. Raises DataError where they lie outside, aren't
    there, or are other kinds.
    """
    parts = line.split("\t") if "\t" in line else line.split(",") if line.count(",") == 1 else line.split()
    if len(parts) != 2 or not all(os.path.splitext(part)[1] for part in parts):
        return None  # a name may hold a space or comma
    paths = []
    for part, kinds, what in zip(parts, (IMAGES, MASKS), ("an image", "a PNG mask"), strict=True):
        part = _below(part.strip(), tops)
        relative = Path(part if (root / part).is_file() else _below(part.replace("\\", "/"), tops))
        if ".." in relative.parts or "\0" in part:
            raise DataError(
                f"{where} names {part!r:.100}, which lies outside the data set's folder; expected a path below"
                " data.root"
            )
        if relative.suffix.lower() not in kinds:
            raise DataError(f"{where} names {part!r:.100}; expected {what} ({', '.join(kinds)})")
        if not (root / relative).is_file():
            raise DataError(f"{where} names {part!r:.100}, which isn't in {root}; correct it, or remove it")
        paths.append(root / relative)
    return paths[0], paths[1]
