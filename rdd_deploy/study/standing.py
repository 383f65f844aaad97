"""Where a run stands, read from its folder: not begun, begun, finished, or made by another recipe or
another teacher.
"""

from __future__ import annotations

import csv
import json
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple

from rdd_deploy.errors import RddError
from rdd_deploy.study.plan import Run, TeacherRun
from rdd_deploy.training.run_folder import RunFolder
from rdd_deploy.utils import files

LARGEST_FILE = 16 << 20
"""Of a run's summary or metrics."""
PLACES = {
    "data.root", "data.workers", "data.in_memory", "data.device", "teacher.recipe", "teacher.checkpoint", "train.save_minutes", "train.pictures_every",
    "evaluation.batch",
}  # fmt: skip
"""Keys that change nothing of what a run learns: where things lie, how they are loaded, what is saved. The teacher itself is compared."""


class Standing(Enum):
    """Of a run."""

    NEW = "new"
    BEGUN = "begun"
    DONE = "done"
    OTHER = "other"


class Found(NamedTuple):
    """What a run's folder says."""

    standing: Standing
    why: str = ""
    """What differs, where it is another run's folder."""


def look(run: Run | TeacherRun) -> Found:
    """Where a run stands. Imports torch."""
    folder = run.folder
    there = folder.summary.is_file() or folder.state.is_file()
    if not there or not folder.recipe.is_file():
        # As put there by hand: a teacher's checkpoint without a run is used as it is, as everywhere.
        by_hand = isinstance(run, TeacherRun) and folder.teacher.is_file() and not folder.recipe.is_file()
        return Found(Standing.DONE if by_hand else Standing.NEW)
    from rdd_deploy.training.session import CHECKED, changes
    from rdd_deploy.training.teacher import WHERE

    same = CHECKED  # more than that stops a run that is resumed
    if folder.summary.is_file():
        same = PLACES | WHERE if isinstance(run, TeacherRun) else PLACES
    try:
        differing = [line for line in changes(folder, run.recipe) if line.partition(":")[0] not in same]
    except RddError as error:
        differing = [f"its recipe can't be read: {error.lines[0]}"]
    if differing:
        return Found(Standing.OTHER, ", ".join(differing))
    finished = folder.summary.is_file()
    if finished and read_summary(folder) is None:
        return Found(Standing.OTHER, f"its {folder.summary.name} can't be read")
    # Of other teachers the hash isn't one file's; resuming compares it.
    plain = (
        isinstance(run, Run)
        and run.teacher is not None
        and run.recipe.teacher is not None
        and run.recipe.teacher.is_plain
    )
    taught = (taught_by(folder) if finished else begun_by(folder)) if plain else ""
    if isinstance(run, Run) and taught and (teacher := checkpoint_hash(run.teacher)) and taught != teacher:
        return Found(Standing.OTHER, f"its teacher had the hash {taught[:12]}, {run.teacher} has {teacher[:12]}")
    return Found(Standing.DONE if finished else Standing.BEGUN)


def read_summary(folder: RunFolder) -> dict[str, Any] | None:
    """A finished run's summary; None where it isn't there or isn't one."""
    try:
        summary = files.parse_json(files.read_file(folder.summary, LARGEST_FILE))
        known = (
            isinstance(summary, dict)
            and all(isinstance(summary[key], dict) for key in ("best", "last", "protocol"))
            and all(isinstance(summary.get(key) or {}, dict) for key in ("teacher", "versions"))
            and isinstance(summary["last"].get("iou_pct") or {}, dict)
        )
    except (OSError, ValueError, KeyError):
        return None
    return summary if known else None


def read_rows(folder: RunFolder) -> list[dict[str, str]]:
    """A run's ``metrics.csv`` so far."""
    try:
        text = files.read_file(folder.metrics, LARGEST_FILE).decode("utf-8")
        return list(csv.DictReader(text.splitlines()))
    except (OSError, ValueError, csv.Error):
        return []


def taught_by(folder: RunFolder) -> str:
    """The hash of the teacher that taught a finished student, from its checkpoint; empty where none did or it isn't
    known.
    """
    try:
        from safetensors import safe_open

        with safe_open(folder.student, "np") as file:
            facts = json.loads((file.metadata() or {}).get("facts", "{}"))
        return str(facts.get("teacher_sha256") or "")
    except Exception:  # the library raises kinds of its own; the weights aren't needed for the table
        return ""


def begun_by(folder: RunFolder) -> str:
    """The same of an unfinished student, from its state."""
    import torch

    try:
        state = torch.load(folder.state, map_location="cpu", mmap=True, weights_only=True)
        return str(state["origin"].get("teacher_sha256") or "")
    except Exception:  # whatever is wrong with it is told when the run is resumed
        return ""


_hashes: dict[tuple[str, int, int], str] = {}


def checkpoint_hash(path: Path | None) -> str:
    """Of a teacher's checkpoint; empty where it isn't there, or is no file. Read once as long as the file doesn't
    change.
    """
    if path is None or not path.is_file():
        return ""
    stat = path.stat()
    key = (str(path), stat.st_size, stat.st_mtime_ns)
    if key not in _hashes:
        _hashes[key] = files.sha256(path)
    return _hashes[key]
