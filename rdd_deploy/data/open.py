"""Open a split as a recipe's data part, or a bundle's provenance, names it. No torch here: the edge evaluates too."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from rdd_deploy import console
from rdd_deploy.data import DATASETS
from rdd_deploy.data.base import FileSplit, Split
from rdd_deploy.data.config import DataOptions, options_of
from rdd_deploy.data.subset import labelled
from rdd_deploy.errors import DataError
from rdd_deploy.schema import validated

if TYPE_CHECKING:
    from rdd_deploy.runtime import Manifest


def open_split(name: str, root: str | Path, split: str, /, **options: Any) -> Split:
    """Open one split of a data set by its name; nothing is downloaded.

    Args:
        name: one of DATASETS.
        root: where its files lie; ``streets`` has none.
        split: ``train``, ``val`` or ``test``.
        options: further keys of a recipe's part ``data``.

    Raises:
        DataError: unknown data set or split, files missing or inconsistent.
        RecipeError: options that the data set doesn't have, or with wrong values.
    """
    return validated(options_of(name), {"root": str(root), **options}, f"the options of '{name}'").open(split)


def open_data(data: DataOptions, split: str, *, fetch: bool = True) -> Split:
    """Open one split as a recipe's data part names it; with ``fetch``, what is missing is downloaded first where that
    is possible.
    """
    if fetch:
        data.fetch()
    try:
        opened = data.open(split)
    except DataError as error:
        root = Path(data.root)
        relative = data.in_folder and not root.is_absolute() and not root.is_dir()
        notes = (
            f" ({root} is taken relative to {Path.cwd()}; give another place with data.root=, or with --data)"
            * relative
            + "; a training would fetch it" * (data.can_fetch and not root.exists())
        )
        if not notes:
            raise
        raise DataError(f"{error}{notes}") from error
    if isinstance(opened, FileSplit):
        warn_once(opened.notes(data.size))
    return labelled(opened, data.labelled) if split == "train" else opened


def data_at(data: DataOptions, root: Path | None) -> DataOptions:
    """The data part with the folder that ``--data`` named, if any. Raises DataError for a data set that lies in no
    folder.
    """
    if root is None:
        return data
    if not data.in_folder:
        raise DataError(
            f"got --data {root}, but {data.name} are made as they are needed and lie in no folder; leave --data out"
        )
    return data.model_copy(update={"root": str(root)})


_warned: set[str] = set()
"""What was warned of already: a command opens a split more than once."""


def warn_once(notes: Sequence[str]) -> None:
    """Warn of each, once in a process."""
    for note in notes:
        if note not in _warned and console.process_rank() == 0:
            console.warn(note)
        _warned.add(note)


class OtherClassesError(DataError):
    """The data set is there, and has other classes than the bundle."""


def open_recorded(manifest: Manifest, split: str, root: Path | None = None) -> Split:
    """Open the data set that a bundle was made from; nothing is fetched.

    Args:
        root: where it lies here; default: where it lay when the bundle was made.

    Raises:
        DataError: the manifest names no data set, or it isn't there, or (OtherClassesError) its classes aren't the
            bundle's.
    """
    recorded = _recorded(manifest)
    data, lay = data_at(recorded, root), Path(recorded.root)
    if root is None and data.in_folder and not lay.is_absolute() and not lay.is_dir():
        raise DataError(
            f"the data of '{manifest.name}' isn't in {lay.absolute()}: its manifest says {lay}, which is relative to"
            " the folder that the run was started in; say where it lies now with --data"
        )
    opened = open_data(data, split, fetch=False)
    if tuple(opened.label_space.classes) != tuple(manifest.classes):
        raise OtherClassesError(
            f"the bundle '{manifest.name}' knows the classes {', '.join(manifest.classes)}, the {data.name} data has "
            f"{', '.join(opened.label_space.classes)}; give the data that it was trained for with --data"
        )
    return opened


def _recorded(manifest: Manifest) -> DataOptions:
    """The data part of the recipe as the manifest tells it. Raises DataError."""
    name = str(manifest.provenance.get("data") or "")
    if not name:
        raise DataError(
            f"the manifest of '{manifest.name}' names no data set to measure on; export the bundle again from its run"
            " folder"
        )
    try:
        return options_of(name).recorded(manifest)
    except (DataError, KeyError, TypeError, ValueError) as error:  # also pydantic's
        raise DataError(
            f"the data set that the manifest of '{manifest.name}' names can't be opened: {_reason(error)}; "
            "export the bundle again from its run folder"
        ) from error


def label_ids(manifest: Manifest) -> dict[str, Any]:
    """What a bundle's own data set says of its mask values, as ``Ids`` takes it; empty where it says nothing."""
    name = str(manifest.provenance.get("data") or "")
    try:
        return options_of(name).label_ids(manifest) if name in DATASETS else {}
    except ValueError as error:
        raise DataError(
            f"the mask values that the manifest of '{manifest.name}' names can't be read: {error}; export the bundle"
            " again from its run folder"
        ) from error


def _reason(error: Exception) -> str:
    if isinstance(error, ValidationError):
        return "; ".join(
            f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in error.errors(include_url=False)
        )
    return f"it says nothing of {error}" if isinstance(error, KeyError) else str(error)
