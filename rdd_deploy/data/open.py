"""Open a split as a recipe's data part, or a bundle's provenance, names it. No torch here: the edge evaluates too."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from rdd_deploy import console
from rdd_deploy.data import open_split
from rdd_deploy.data.base import IGNORE, FileSplit, Split
from rdd_deploy.data.camvid import VOID_ID
from rdd_deploy.errors import DataError

if TYPE_CHECKING:
    from rdd_deploy.data.config import Data
    from rdd_deploy.runtime import Manifest


def open_data(data: Data, split: str, *, fetch: bool = True) -> Split:
    """Open one split as a recipe's data part names it. A CamVid that is missing is fetched if ``fetch`` says so."""
    if data.name == "camvid" and fetch:
        from rdd_deploy.data.download import fetch_camvid

        fetch_camvid(Path(data.root))
    options: dict[str, Any] = {}
    if data.name == "folder":
        options = {key: getattr(data, key) for key in ("classes", "palette", "ids", "void_ids", "others_void")}
    elif data.name == "streets":
        options = {"height": data.size[0], "width": data.size[1], "seed": data.seed}
        if data.count is not None and split == "train":
            options["count"] = data.count
    try:
        opened = open_split(data.name, data.root, split, **options)
    except DataError as error:
        root = Path(data.root)
        if data.name == "streets" or root.is_absolute() or root.is_dir():
            raise
        raise DataError(
            f"{error} ({root} is taken relative to {Path.cwd()}; give another place with data.root=, or with --data)"
        ) from error
    if isinstance(opened, FileSplit):
        tell(opened.notes(data.size))
    return opened


def data_at(data: Data, root: Path | None) -> Data:
    """The data part with the folder that ``--data`` named, if any. Raises DataError for a data set that lies in no folder."""
    if root is None:
        return data
    if data.name == "streets":
        raise DataError(f"got --data {root}, but streets are made as they are needed and lie in no folder; leave --data out")
    return data.model_copy(update={"root": str(root)})


_told: set[str] = set()
"""What was said already: a command opens a split more than once."""


def tell(notes: Sequence[str]) -> None:
    """Warn of each, once in a process."""
    for note in notes:
        if note not in _told and console.process_rank() == 0:
            console.warn(note)
        _told.add(note)


def data_provenance(data: Data) -> dict[str, str | int | None]:
    """What a bundle's manifest must say for ``open_recorded`` to find the data again; plain values only."""
    return {
        "data": data.name,
        "data_root": os.path.abspath(data.root) if data.name != "streets" else None,
        "data_height": data.size[0],
        "data_width": data.size[1],
        "data_seed": data.seed,
        "data_count": data.count,
        "data_ids": " ".join(",".join(map(str, values)) for values in data.ids) if data.ids is not None else None,
        "data_void_ids": " ".join(map(str, data.void_ids)),
        "data_others_void": int(data.others_void),
    }


class OtherClassesError(DataError):
    """The data set is there, and has other classes than the bundle."""


def open_recorded(manifest: Manifest, split: str, root: Path | None = None) -> Split:
    """Open the data set that a bundle was made from; nothing is fetched.

    Args:
        root: where it lies here; default: where it lay when the bundle was made.

    Raises:
        DataError: the manifest names no data set, or it isn't there, or (OtherClassesError) its classes aren't the bundle's.
    """
    recorded = _recorded(manifest)
    data, lay = data_at(recorded, root), Path(recorded.root)
    if root is None and data.name != "streets" and not lay.is_absolute() and not lay.is_dir():
        raise DataError(
            f"the data of '{manifest.name}' isn't in {lay.absolute()}: its manifest says {lay}, which is relative to the folder that the run was "
            "started in; say where it lies now with --data"
        )
    opened = open_data(data, split, fetch=False)
    if tuple(opened.label_space.classes) != tuple(manifest.classes):
        raise OtherClassesError(
            f"the bundle '{manifest.name}' knows the classes {', '.join(manifest.classes)}, the {data.name} data has "
            f"{', '.join(opened.label_space.classes)}; give the data that it was trained for with --data"
        )
    return opened


def _recorded(manifest: Manifest) -> Data:
    """The data part of the recipe as the manifest tells it. Raises DataError."""
    from rdd_deploy.data.config import Data

    recorded: Mapping[str, Any] = manifest.provenance
    if not recorded.get("data"):
        raise DataError(f"the manifest of '{manifest.name}' names no data set to measure on; export the bundle again from its run folder")
    own: dict[str, Any] = {}  # what belongs to that data set alone
    try:
        if recorded["data"] == "folder":
            own = {"classes": list(manifest.classes), "palette": list(manifest.palette), **_recorded_ids(recorded)}
        elif recorded["data"] == "streets":
            own = {"seed": int(recorded.get("data_seed") or 0), "count": recorded.get("data_count")}
        return Data(
            name=recorded["data"],
            root=str(recorded.get("data_root") or "data"),
            size=(int(recorded["data_height"]), int(recorded["data_width"])),
            workers=0,
            memory=False,
            **own,
        )
    except (KeyError, TypeError, ValueError) as error:  # also pydantic's
        raise DataError(
            f"the data set that the manifest of '{manifest.name}' names can't be opened: {_reason(error)}; "
            "export the bundle again from its run folder"
        ) from error


def label_ids(manifest: Manifest) -> dict[str, Any]:
    """What a bundle's own data set says of its mask values, as ``Ids`` takes it; empty where it says nothing."""
    name = manifest.provenance.get("data")
    try:
        if name == "folder":
            return {**_recorded_ids(manifest.provenance), "colours": manifest.palette}
        return {"void_ids": [VOID_ID, IGNORE]} if name == "camvid" else {}
    except ValueError as error:
        raise DataError(
            f"the mask values that the manifest of '{manifest.name}' names can't be read: {error}; export the bundle again from its run folder"
        ) from error


def _recorded_ids(recorded: Mapping[str, Any]) -> dict[str, Any]:
    """``ids``, ``void_ids`` and ``others_void`` as ``data_provenance`` wrote them; bundles made before the first and last key lack them."""
    ids = recorded.get("data_ids")
    return {
        "ids": None if ids is None else [[int(value) for value in entry.split(",")] for entry in str(ids).split()],
        "void_ids": [int(value) for value in str(recorded.get("data_void_ids") or "").split()],
        "others_void": bool(recorded.get("data_others_void")),
    }


def _reason(error: Exception) -> str:
    if isinstance(error, ValidationError):
        return "; ".join(f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in error.errors(include_url=False))
    return f"it says nothing of {error}" if isinstance(error, KeyError) else str(error)
