"""Data sets by name: ``open_split("camvid", "data/camvid", "val")``. A new one is a file here and a line in ``_OPENERS``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from rdd_deploy.data.base import IGNORE, LabelSpace, Split

__all__ = ["DATASETS", "IGNORE", "LabelSpace", "Split", "open_split"]


def _camvid(root: Path, split: str, options: dict[str, Any]) -> Split:
    from rdd_deploy.data.camvid import open_camvid

    return open_camvid(root, split)


def _folder(root: Path, split: str, options: dict[str, Any]) -> Split:
    from rdd_deploy.data.folder import open_folder

    return open_folder(root, split, **options)


def _streets(root: Path, split: str, options: dict[str, Any]) -> Split:
    from rdd_deploy.data.streets.dataset import open_streets

    return open_streets(split, **options)


_OPENERS: dict[str, Callable[[Path, str, dict[str, Any]], Split]] = {"camvid": _camvid, "folder": _folder, "streets": _streets}
DATASETS = tuple(_OPENERS)


def open_split(name: str, root: str | Path, split: str, **options: Any) -> Split:
    """Open one split of a data set.

    Args:
        name: one of DATASETS.
        root: where its files lie (``streets`` has none and ignores it).
        split: ``train``, ``val`` or ``test``.
        options: the data set's own (``folder``: classes, palette, ids, void_ids, others_void; ``streets``: height, width, count, seed).

    Raises:
        DataError: unknown data set or split, files missing or inconsistent.
    """
    from rdd_deploy.errors import DataError

    if name not in _OPENERS:
        raise DataError(f"unknown data set '{name}'; expected one of {', '.join(DATASETS)}")
    return _OPENERS[name](Path(root), split, options)
