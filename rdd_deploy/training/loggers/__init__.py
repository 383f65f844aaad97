"""Where a run's figures and pictures go, beside the terminal: what every log has, and the check that its package is
there.

A new log is a file here with a class like ``RunLog`` and a line in ``rdd_deploy.recipe.LOGGERS``. It imports its
package in its constructor and draws no random numbers of the training's. It sends nothing over a network that the user
didn't name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, Protocol

from rdd_deploy.data.base import Frame
from rdd_deploy.errors import MissingPackageError
from rdd_deploy.recipe_train import LOGGERS
from rdd_deploy.utils.text import shown


class RunLog(Protocol):
    """One place that a run's figures go to; made as ``(run folder, recipe as plain values, epochs done before)``.

    Attributes:
        package: what must be installed; None where nothing more is needed.
    """

    package: ClassVar[str | None]

    def __init__(self, run: Path, recipe: dict[str, Any], done: int) -> None: ...

    def epoch(self, rows: Sequence[Mapping[str, Any]], iou_pct: Mapping[str, float | None]) -> None:
        """Take an epoch's figures.

        Args:
            rows: of all epochs, the newest last; column -> number, text or None.
            iou_pct: class -> IoU in percent, None where the class never occurs; empty where nothing was measured.
        """

    def picture(self, picture: Frame, epoch: int) -> None:
        """Take the epoch's picture, uint8 (H, W, 3) RGB; before its figures."""

    def close(self, failed: bool) -> None:
        """End the log. ``failed``: the run ends before its last epoch."""


def check_installed(names: Iterable[str]) -> None:
    """Raise MissingPackageError where a log's package isn't installed."""
    for name in names:
        package = LOGGERS[name].load().package
        if package and not _is_installed(package):
            raise MissingPackageError(
                f"train.loggers names {name}, which needs the package '{package}', which isn't installed: pip install"
                f" {package}, or leave {name} out of train.loggers"
            )


def _is_installed(package: str) -> bool:
    """A folder of that name in the current directory, which such packages leave behind, isn't the package."""
    spec = find_spec(package)
    return spec is not None and spec.origin is not None


def figures(row: Mapping[str, Any], iou_pct: Mapping[str, float | None]) -> dict[str, float]:
    """The curves' new points: every number of a row but its epoch, and ``iou_pct/<class>``."""
    curves = {name: value for name, value in row.items() if isinstance(value, float)}
    return curves | {f"iou_pct/{shown(name)}": value for name, value in iou_pct.items() if value is not None}
