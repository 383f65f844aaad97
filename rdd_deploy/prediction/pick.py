"""The frames to annotate next: those that are most uncertain, of several that look alike only one."""

from __future__ import annotations

import itertools
import os
import shutil
from pathlib import Path

from rdd_deploy.data.similar import Seen
from rdd_deploy.errors import DiskError
from rdd_deploy.prediction.frames import Frames
from rdd_deploy.prediction.journal import Journal, Row
from rdd_deploy.prediction.layouts import Layout
from rdd_deploy.utils import files

FOLDER, LIST = "picked", "picked.txt"


def pick(count: int, frames: Frames, layout: Layout, journal: Journal) -> str:
    """Write ``picked.txt``, the most uncertain frame first, and ``picked/``, those frames and their masks in the
    layout.

    Frames on which models disagree most come first, of one model those of which it is least sure. A folder of the same
    choice is left as it is, one of another choice moved aside: somebody may have corrected masks there.

    Returns:
        A sentence about it. Raises DataError, DiskError.
    """
    chosen, alike = _chosen(count, journal)
    names = [row.frame for row in chosen]
    target = layout.folder / FOLDER
    counted = "1 frame" if len(names) == 1 else f"{len(names)} frames"
    thinned = f"; {alike} that look like one of them were passed over" if alike else ""
    if _frames_in(target / layout.frames) == {layout.file_name(name) for name in names}:
        told = (
            f"{counted} to annotate next {'is' if len(names) == 1 else 'are'} in {target} already, which is left as it"
            f" is{thinned}"
        )
    else:
        aside = _replace(target, names, frames, layout)
        told = (
            f"{counted} to annotate next -> {target},"
            f" {LIST}{thinned}{f'; an earlier choice is now {aside}' if aside else ''}"
        )
    files.write_text(layout.folder / LIST, "".join(f"{name}\n" for name in names))
    return told


def _frames_in(folder: Path) -> set[str]:
    return (
        {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
        if folder.is_dir()
        else set()
    )


def _replace(target: Path, names: list[str], frames: Frames, layout: Layout) -> Path | None:
    """Write the folder, and return where an earlier one is now."""
    part = files.temporary_beside(target)
    aside = None
    try:
        part.mkdir(parents=True)
        _fill(part, names, frames, layout)
        if os.path.lexists(target):
            aside = next(
                free
                for number in itertools.count(1)
                if not os.path.lexists(free := target.with_name(f"{target.name}.{number}"))
            )
            os.rename(target, aside)
        os.rename(part, target)
    except OSError as error:
        raise DiskError(
            f"can't write {target}: {error.strerror or error}; free some space or choose another folder"
        ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return aside


def _chosen(count: int, journal: Journal) -> tuple[list[Row], int]:
    """The frames, and how many were passed over."""
    seen, alike = Seen(), 0
    chosen: list[Row] = []
    for row in sorted(journal.rows(), key=_certainty):
        if len(chosen) == count:
            break
        if seen.near(row.look) is not None:
            alike += 1
            continue
        seen.add(row.look)
        chosen.append(row)
    return chosen, alike


def _certainty(row: Row) -> float:
    if row.disagreement is not None:
        return -row.disagreement
    return row.confidence if row.confidence is not None else 1.0


def _fill(folder: Path, names: list[str], frames: Frames, layout: Layout) -> None:
    own = type(layout)(folder, layout.classes, layout.palette)
    for file, content in frames.content(names):
        files.write_bytes(folder / layout.frames / file, content)
    for name in names:
        files.write_bytes(own.mask(name), own.encoded(layout.labels(name)))
    own.finish(names)
