"""Colours of classes, and the files in which annotation tools write down which colour or number is which class. Imports
no numpy.
"""

from __future__ import annotations

import colorsys
import csv
import io
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from rdd_deploy.data.label_space import LARGEST_ID
from rdd_deploy.errors import DataError
from rdd_deploy.utils.files import read_text

Colour: TypeAlias = tuple[int, int, int]
"""RGB."""

COLOUR_TABLE, ID_TABLE = "labelmap.txt", "_classes.csv"
"""Of CVAT (and Datumaro), and of Roboflow's semantic masks."""
_LARGEST_FILE = 1 << 20
_LINE = re.compile(r"(.+?)\s*:\s*(\d{1,3})\s*,\s*(\d{1,3})\s*,\s*(\d{1,3})\s*(?::.*)?")


@dataclass(frozen=True)
class LabelMap:
    """What masks hold, by name, in the order of the file.

    Attributes:
        path: of the file.
        colours: name -> the RGB colours that mean it; empty where the masks hold numbers.
        ids: name -> the numbers that mean it; empty where the masks hold colours.
    """

    path: Path
    colours: dict[str, list[Colour]] = field(default_factory=dict)
    ids: dict[str, list[int]] = field(default_factory=dict)


def read_label_map(path: Path) -> LabelMap:
    """Read a table of classes by its kind: a ``.csv`` of ``Pixel Value, Class`` (Roboflow), else lines ``name:r,g,b::``
    (CVAT's labelmap.txt).

    Raises:
        DataError: it can't be read, a line is something else, or a name, colour or number stands there twice.
    """
    try:
        text = read_text(path, _LARGEST_FILE, "utf-8-sig")
    except OSError as error:
        raise DataError(
            f"can't read the table of classes {path}: {error.strerror or error}; expected UTF-8 text"
        ) from error
    found = LabelMap(path)
    if path.suffix.lower() == ".csv":
        for name, number in _numbers(path, text):
            _once(path, found.ids, name, "name")
            found.ids[name] = [number]
        _distinct(path, found.ids)
    else:
        for name, colour in _colours(path, text):
            _once(path, found.colours, name, "name")
            found.colours[name] = [colour]
        _distinct(path, found.colours)
    if not (found.ids or found.colours):
        raise DataError(f"the table of classes {path} names no class; expected a line a class, e.g. road:128,64,128::")
    return found


def find_label_map(root: Path) -> Path | None:
    """The table that an annotation tool put into a data set's folder, or into that of a split; None where there is
    none.
    """
    places = [root, *(root / name for name in ("train", "valid", "val", "test"))]
    return next(
        (place / name for name in (COLOUR_TABLE, ID_TABLE) for place in places if os.path.isfile(place / name)), None
    )


def _colours(path: Path, text: str) -> Iterator[tuple[str, Colour]]:
    for number, line in enumerate(text.splitlines(), 1):
        if not (line := line.strip()) or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line)
        colour = tuple(map(int, match.groups()[1:])) if match else ()
        if match is None or max(colour) > 255:
            raise DataError(
                f"{path}, line {number} is {line!r:.80}; expected name:red,green,blue with numbers from 0 to 255, e.g."
                " road:128,64,128::"
            )
        yield match[1], (colour[0], colour[1], colour[2])


def _numbers(path: Path, text: str) -> Iterator[tuple[str, int]]:
    try:
        listed = [[cell.strip() for cell in row] for row in csv.reader(io.StringIO(text), skipinitialspace=True)]
    except csv.Error as error:
        raise DataError(f"{path} isn't valid CSV: {error}; export it again") from error
    rows = [row for row in listed if any(row)]
    if not rows or [cell.lower() for cell in rows[0]] != ["pixel value", "class"]:
        got = ", ".join(rows[0])[:80] if rows else "nothing"
        raise DataError(
            f"{path} begins with {got!r}; expected the columns 'Pixel Value, Class' of a table for semantic masks"
        )
    for row in rows[1:]:
        if len(row) != 2 or not re.fullmatch(r"\d{1,5}", row[0], re.ASCII) or int(row[0]) > LARGEST_ID or not row[1]:
            raise DataError(
                f"{path} has the row {', '.join(row)!r:.80}; expected a mask's value from 0 to {LARGEST_ID} and a name,"
                " e.g. 1, road"
            )
        yield row[1], int(row[0])


def _once(path: Path, found: dict[str, list[Colour]] | dict[str, list[int]], name: str, what: str) -> None:
    if name in found:
        raise DataError(f"{path} holds the {what} {name!r:.80} twice; expected each once")


def _distinct(path: Path, found: dict[str, list[Colour]] | dict[str, list[int]]) -> None:
    owners: dict[Colour | int, str] = {}
    for name, values in found.items():
        for value in values:
            if (other := owners.setdefault(value, name)) != name:
                raise DataError(
                    f"{path} gives {value} to both {other!r:.60} and {name!r:.60}; expected one name for each"
                )


def spread_colours(count: int) -> tuple[Colour, ...]:
    """RGB colours of evenly spread hue, alternating in brightness so that neighbours differ."""
    colours = []
    for i in range(count):
        r, g, b = colorsys.hsv_to_rgb(i / count, 0.75, 0.95 if i % 2 else 0.65)
        colours.append((round(255 * r), round(255 * g), round(255 * b)))
    return tuple(colours)


def voc_colour(index: int) -> Colour:
    """PASCAL VOC's colour of a number from 0 to 255, which most tools write: three bits of it for each bit of red,
    green and blue.
    """
    r, g, b = (sum((index >> 3 * bit + channel & 1) << 7 - bit for bit in range(3)) for channel in range(3))
    return r, g, b
