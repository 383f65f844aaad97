"""What the options of all commands have in common: words that mean nothing are refused, numbers are finite, outputs can
be written.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path

import typer

from rdd_deploy.errors import RddError
from rdd_deploy.utils.addresses import must_be_source, without_secrets
from rdd_deploy.utils.files import check_file

MAX_COUNT = 10**9
"""Of frames, images and the like: more is a typing error, and no array holds it."""


def check_words(words: Sequence[str]) -> None:
    """Raise RddError for words that no option and no argument can mean: empty ones (an unset variable of the shell), a
    NUL inside, addresses.
    """
    for before, word in zip(["", *words], words, strict=False):
        option, equals, value = word.partition("=") if word.startswith("--") else (before, "=", word)
        where = f" for {option}" if option.startswith("--") else ""
        if equals and not value:
            raise RddError(f"got an empty value{where}; give one, or leave it out (is a variable of the shell unset?)")
        if option != "--source" and must_be_source(value):  # else it would become a folder's name, or stand in a report
            raise RddError(f"got the address {without_secrets(value)}{where}; only live takes one, as --source")
        if "\0" in word:
            raise RddError(f"got a value with a NUL character{where}; no name and no number holds one")


def repeated(words: Sequence[str], options: Sequence[str]) -> list[str]:
    """Command-line words with ``--option A B`` written as ``--option A --option B``, the one way that typer reads
    several values.
    """
    written: list[str] = []
    current = ""
    for number, word in enumerate(words):
        if word.startswith("-") and not _is_number(word):
            current = word if word in options else ""
        elif current and words[number - 1] != current:
            written.append(current)
        written.append(word)
    return written


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def finite(value: float | None) -> float | None:
    """Callback of a float option: NaN passes every limit, so it is refused here."""
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"{value} is not a finite number.")
    return value


def output_file(path: Path | None) -> Path | None:
    """Callback of an option that names a file to write: one that can't be written is refused before the work, not after
    it.
    """
    check_file(path)
    return path


def writable(folder: Path) -> bool:
    """Whether files can be written there; what is missing of the folder is made when it is needed."""
    place = next(place for place in (folder.absolute(), *folder.absolute().parents) if os.path.exists(place))
    return place.is_dir() and os.access(place, os.W_OK)
