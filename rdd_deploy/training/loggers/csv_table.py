"""``metrics.csv``: one row an epoch."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rdd_deploy.data.base import Frame
from rdd_deploy.training.run_folder import RunFolder
from rdd_deploy.utils import files


class CsvLog:
    """Writes the whole table at every epoch, so that the file is never half a row; see ``RunLog``."""

    package = None

    def __init__(self, run: Path, recipe: dict[str, Any], done: int) -> None:
        self._path = RunFolder(run).metrics

    def epoch(self, rows: Sequence[Mapping[str, Any]], iou_pct: Mapping[str, float | None]) -> None:
        files.write_text(self._path, table(rows))

    def picture(self, picture: Frame, epoch: int) -> None:
        """A table holds none."""

    def close(self, failed: bool) -> None:
        """Every row is written already."""


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """CSV text of rows whose keys may differ."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
