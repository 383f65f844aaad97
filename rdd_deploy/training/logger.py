"""What a run tells while it goes on: a progress bar or plain lines, metrics.csv, TensorBoard events."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from torch import Tensor

from rdd_deploy import console
from rdd_deploy.errors import DiskError
from rdd_deploy.training.run_folder import RunFolder
from rdd_deploy.utils import files

NOTE_EVERY = 10
"""Steps between updates of the losses beside the progress bar."""


class TrainLogger:
    """Rows by epoch. ``rows`` is part of the resumable state, so a resumed run's CSV has no gap and no double line.

    Args:
        folder: the run. epochs, steps: in all. rows: from an earlier part of the run. enabled: False on all ranks but the first.
    """

    def __init__(self, folder: RunFolder, epochs: int, steps: int, rows: list[dict[str, Any]], start: int, enabled: bool = True) -> None:
        self.folder, self.epochs, self.rows, self.enabled = folder, epochs, rows, enabled
        self._sums: dict[str, Any] = {}
        self._count = self._images = 0
        self._since = time.perf_counter()
        self._writer = None
        if enabled:
            from torch.utils.tensorboard import SummaryWriter

            with _disk_errors(folder):
                self._writer = SummaryWriter(str(folder.path / "tensorboard"), purge_step=len(rows) + 1)  # type: ignore[no-untyped-call]
        self._bar = console.progress("training", steps, start=start, enabled=enabled)
        self._miou = ""

    def __enter__(self) -> TrainLogger:
        self._bar.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bar.__exit__(kind, error, trace)
        if self._writer:
            with _disk_errors(self.folder):
                self._writer.close()  # type: ignore[no-untyped-call]

    @property
    def sums(self) -> dict[str, Any]:
        """The unfinished epoch's sums, for the state."""
        return {"sums": self._totals(), "count": self._count}

    def restore(self, sums: dict[str, Any]) -> None:
        """Go on with an unfinished epoch."""
        self._sums, self._count = dict(sums["sums"]), int(sums["count"])

    def step(self, stage: str, terms: dict[str, Tensor], images: int) -> None:
        """Note one training step. The terms are summed where they are, in float64: reading them would make a GPU wait at every step."""
        for name, value in terms.items():
            self._sums[name] = self._sums.get(name, 0.0) + value.double()
        self._count += 1
        self._images += images
        if self._bar.silent:
            return
        note = None
        if self._count % NOTE_EVERY == 1:
            rate = self._images / max(1e-9, time.perf_counter() - self._since)
            losses = " ".join(f"{name} {value / self._count:.3f}" for name, value in self._totals().items())
            note = f"{losses} {rate:.1f} images/s {self._miou}"
        self._bar.advance(text=f"{stage:8}", note=note)

    def _totals(self) -> dict[str, float]:
        return {name: float(value) for name, value in self._sums.items()}

    def epoch(self, epoch: int, stage: str, lr: float, measured: dict[str, Any] | None, seconds: float) -> None:
        """Close an epoch: one row for the CSV and TensorBoard, one line where there is no terminal."""
        row: dict[str, Any] = {"epoch": epoch, "stage": stage, "lr": lr}
        row |= {f"loss_{name}": value / max(1, self._count) for name, value in self._totals().items()}
        row["seconds"] = round(seconds, 2)
        if measured:
            row |= {"miou_pct": measured["miou_pct"], "pixel_accuracy_pct": measured["pixel_accuracy_pct"]}
            self._miou = f"mIoU {measured['miou_pct']:.2f} %"
        self.rows.append(row)
        if self.enabled:
            self._publish(row, stage)
        self._sums, self._count, self._images, self._since = {}, 0, 0, time.perf_counter()

    def _publish(self, row: dict[str, Any], stage: str) -> None:
        files.write_text(self.folder.metrics, table(self.rows))
        if self._writer:
            with _disk_errors(self.folder):
                for name, value in row.items():
                    if isinstance(value, float):
                        self._writer.add_scalar(name, value, row["epoch"])  # type: ignore[no-untyped-call]
        losses = "  ".join(f"{name[5:]} {value:.4f}" for name, value in row.items() if name.startswith("loss_"))
        miou = f"  mIoU {row['miou_pct']:.2f} %" if row.get("miou_pct") is not None else ""
        if self._bar.silent or miou:
            console.info(f"epoch {row['epoch']}/{self.epochs}  {stage}  {losses}  {row['seconds']:.0f} s{miou}")


@contextmanager
def _disk_errors(folder: RunFolder) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DiskError(
            f"can't write {folder.path / 'tensorboard'}: {error.strerror or error}; free some space or choose another folder"
        ) from error


def table(rows: list[dict[str, Any]]) -> str:
    """CSV text of rows whose keys may differ."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
