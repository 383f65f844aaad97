"""TensorBoard events in the run folder's ``tensorboard/``: curves, IoU per class, pictures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rdd_deploy.data.base import Frame
from rdd_deploy.errors import DiskError
from rdd_deploy.training.loggers import figures


class TensorBoardLog:
    """Torch's writer; see ``RunLog``. Not Fabric's, which expands ``$`` in folder names and hides that the disk is
    full.
    """

    package = "tensorboard"

    def __init__(self, run: Path, recipe: dict[str, Any], done: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._folder = run / "tensorboard"
        with self._disk_errors():  # what a killed run wrote after its last state is hidden, and comes again
            self._writer = SummaryWriter(str(self._folder), purge_step=done + 1)  # type: ignore[no-untyped-call]

    def epoch(self, rows: Sequence[Mapping[str, Any]], iou_pct: Mapping[str, float | None]) -> None:
        with self._disk_errors():
            for name, value in figures(rows[-1], iou_pct).items():
                self._writer.add_scalar(name, value, rows[-1]["epoch"])  # type: ignore[no-untyped-call]

    def picture(self, picture: Frame, epoch: int) -> None:
        with self._disk_errors():
            self._writer.add_image("pictures", picture, epoch, dataformats="HWC")  # type: ignore[no-untyped-call]

    def close(self, failed: bool) -> None:
        with self._disk_errors():
            self._writer.close()  # type: ignore[no-untyped-call]

    @contextmanager
    def _disk_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise DiskError(
                f"can't write {self._folder}: {error.strerror or error}; free some space or choose another folder"
            ) from error
