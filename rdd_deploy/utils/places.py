"""Where things lie: ``~``, paths that are relative to a file, and the newest run where there are no symbolic links. No
torch here.
"""

from __future__ import annotations

import glob
import os
import re
from pathlib import Path

from rdd_deploy.errors import RddError

RUNS = Path("runs")
LATEST = "latest"
NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"
"""Of a run."""


def at_home(path: str) -> str:
    """The path with ``~`` expanded; ValueError where this user has no home folder."""
    if "\0" in path or any("\ud800" <= one <= "\udbff" for one in path):
        raise ValueError(f"got {path!r:.100}, which no file can be called; write a path")
    expanded = os.path.expanduser(path)
    if expanded.startswith("~"):
        raise ValueError(
            f"got '{path}', but no home folder is known for '{path.split('/')[0]}' (HOME isn't set, or there is no such"
            " user); write the whole path, or ./~ for a folder of that name"
        )
    return expanded


def beside(path: str, source: Path, here_first: bool = False) -> str:
    """A relative path of a file as it is found from here: beside that file, else in the current directory; as it is
    where it is in neither.

    Args:
        path: as it is written. source: the file that it is written in.
        here_first: the current directory comes before the file's folder, as for what was typed.
    """
    own = source.parent / path
    if Path(path).is_absolute() or not own.exists() or (here_first and Path(path).exists()):
        return path
    return path if own.absolute() == Path(path).absolute() else str(own)


def named_latest(path: Path) -> str | None:
    """The run that a text file in the place of the link ``latest`` names; None for any other file."""
    try:
        if path.is_symlink() or not path.is_file() or path.stat().st_size > 256:
            return None
        name = path.read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return None
    return name if re.fullmatch(NAME, name) and name != LATEST else None


def followed(path: Path) -> Path:
    """The path with each ``latest`` in it that is such a text file replaced by the run that it names."""
    walked = Path()
    for part in path.parts:
        name = named_latest(walked / part) if part == LATEST else None
        walked = walked / (name or part)
    return walked


def words_of(word: str) -> list[str]:
    """A word of the command line as a shell would give it: ``~`` expanded also in ``--data=~/x``; a text file
    ``latest`` followed like a link, and then also a pattern after it: ``runs/latest/export/*``.
    """
    option, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
    try:
        value = at_home(value) if value.startswith("~") else value
    except ValueError as error:
        raise RddError(str(error)) from error
    if LATEST not in value:
        return [option + equals + value]
    target = followed(Path(value))
    if target == Path(value):
        return [option + equals + value]
    return [option + equals + found for found in sorted(glob.glob(str(target))) or [str(target)]]
