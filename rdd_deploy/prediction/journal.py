"""What of a prediction is done: ``predict.json`` says whose it is, ``progress.jsonl`` has a line for each frame whose
mask is written.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rdd_deploy.errors import DataError, RddError
from rdd_deploy.prediction.frames import Frames
from rdd_deploy.prediction.layouts import Layout
from rdd_deploy.utils import files

ABOUT, PROGRESS = "predict.json", "progress.jsonl"
LARGEST_ABOUT = 4 << 20


class Row(BaseModel):
    """A frame that is done.

    Attributes:
        shares: of the classes, in [0, 1].
        confidence, confidence_p5: mean and 5th percentile over the frame, in [0, 1]; None where there is none.
        disagreement: share of the pixels, in [0, 1], on which not all models say the same; None for one model.
        look: its perceptual hash.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    frame: str
    stamp: str
    height: int
    width: int
    shares: list[float]
    confidence: float | None = None
    confidence_p5: float | None = None
    disagreement: float | None = None
    look: int = Field(ge=0, lt=2**64)


class Journal:
    """The progress of one prediction.

    Args:
        folder: where the masks go. classes: how many.
    """

    def __init__(self, folder: Path, classes: int) -> None:
        self.path, self._classes = folder / PROGRESS, classes
        self.done: dict[str, str] = {}
        self._file: int | None = None

    def load(self, frames: Frames, layout: Layout, repair: bool = True) -> None:
        """Find out what is done; with ``repair``, drop lines that aren't whole or whose mask isn't there.

        Raises:
            DataError: frames that are done aren't among the frames any more, or were changed since.
        """
        kept = []
        for row in self.rows():
            if not frames.has(row.frame, row.stamp):
                raise DataError(
                    f"{self.path.parent} holds the prediction of {row.frame}, which was changed since or isn't in"
                    f" {frames.path} any more; name a new folder for the masks, or remove this one"
                )
            if layout.mask(row.frame).is_file():
                kept.append(row)
                self.done[row.frame] = row.stamp
        frames.include(self.done)
        if repair and self.path.exists() and len(kept) < self._lines():
            files.write_text(self.path, "".join(_line(row) for row in kept))

    def rows(self) -> Iterator[Row]:
        """The frames that are done, in the order in which they were; what was torn or edited is passed over, the last
        of two counts.
        """
        seen: dict[str, int] = {}
        for number, row in self._read():
            seen[row.frame] = number
        for number, row in self._read():
            if seen.get(row.frame) == number:  # not there: added meanwhile
                yield row

    def _read(self) -> Iterator[tuple[int, Row]]:
        try:
            file = self.path.open("rb")
        except FileNotFoundError:
            return
        with file:
            for number, line in enumerate(file):
                try:
                    row = Row.model_validate(files.parse_json(line))
                except (ValidationError, ValueError):
                    continue
                if len(row.shares) == self._classes and line.endswith(b"\n"):
                    yield number, row

    def _lines(self) -> int:
        with self.path.open("rb") as file:
            return sum(1 for _ in file)

    def add(self, row: Row) -> None:
        """Add a frame whose files are written. One write, which a killed process has made or not."""
        if self._file is None:
            self._file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_CLOEXEC", 0), 0o666)
        os.write(self._file, _line(row).encode())
        self.done[row.frame] = row.stamp

    def close(self) -> None:
        """May be called twice."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


def _line(row: Row) -> str:
    return json.dumps(row.model_dump()) + "\n"  # ASCII: bytes of a file's name that aren't UTF-8 come back as they were


def claim(folder: Path, parts: Mapping[str, Any]) -> None:
    """Make a folder the place of a prediction, or find that it is.

    Args:
        parts: what the prediction depends on; the path in a part that has one with a ``sha256`` is only told.

    Raises:
        RddError: it holds something else, or the prediction of another model, other frames or with other options.
    """
    path = folder / ABOUT
    if folder.is_dir() and not path.is_file():
        if any(not one.name.startswith(".") for one in folder.iterdir()):
            raise RddError(
                f"{folder} isn't empty and holds no prediction (no {ABOUT}); name a new folder for the masks"
            )
    elif folder.exists() and not folder.is_dir():
        raise RddError(f"{folder} is a file; name a new folder for the masks")
    if not path.is_file():
        return
    try:
        found = files.parse_json(files.read_file(path, LARGEST_ABOUT))
        before = found["parts"]
        if not isinstance(before, dict):
            raise TypeError
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RddError(
            f"{path} can't be read, so it can't be told whose masks lie there; name a new folder for them, or remove"
            " this one"
        ) from error
    wanted = json.loads(json.dumps(dict(parts)))
    differ = [key for key in wanted if _essence(before.get(key)) != _essence(wanted[key])]
    if differ:
        told = "; ".join(f"{key}: {_shown(before.get(key))} there, {_shown(wanted[key])} now" for key in differ)
        raise RddError(
            f"{folder} holds another prediction ({told}); name a new folder for this one, or remove that one"
        )


def write_about(folder: Path, parts: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    """Write ``predict.json``: what the prediction depends on, and what helps to read it."""
    files.write_json(folder / ABOUT, {"schema_version": 1, "parts": dict(parts), **facts})


def _essence(value: Any) -> Any:
    if isinstance(value, list):
        return [_essence(one) for one in value]
    if isinstance(value, dict) and "sha256" in value:
        return value["sha256"]
    return value


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(map(_shown, value)) or "none"
    if isinstance(value, dict):
        kept = str(value.get("path", ""))
        return f"{kept} ({str(value['sha256'])[:8]}…)" if "sha256" in value else kept or json.dumps(value)
    if value is None:
        return "none"
    return ("yes" if value else "no") if isinstance(value, bool) else str(value)
