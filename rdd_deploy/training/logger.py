"""What a run tells while it goes on: a progress bar or plain lines, and the logs of ``train.loggers``."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from rdd_deploy import console
from rdd_deploy.data.base import Frame
from rdd_deploy.errors import RddError
from rdd_deploy.losses.processes import mean_count
from rdd_deploy.recipe import Recipe
from rdd_deploy.recipe_train import LOGGERS
from rdd_deploy.training import gradients
from rdd_deploy.training.loggers import RunLog
from rdd_deploy.training.readback import Readback
from rdd_deploy.training.run_folder import RunFolder

NOTE_EVERY = 10
"""Steps between updates of the losses beside the progress bar."""


class TrainLogger:
    """Rows by epoch. ``rows`` is part of the resumable state, so a resumed run's CSV has no gap and no double line.

    Args:
        folder: the run. recipe: its, for ``train``. steps: in all. rows: from an earlier part of the run. start: step
            that it begins at.
        enabled: False on all ranks but the first.

    Raises:
        RddError: a log can't be begun.
    """

    def __init__(
        self,
        folder: RunFolder,
        recipe: Recipe,
        steps: int,
        rows: list[dict[str, Any]],
        start: int,
        enabled: bool = True,
    ) -> None:
        self.epochs, self.rows, self.enabled = recipe.train.epochs, rows, enabled
        self._sums: dict[str, Any] = {}
        self._count = self._images = 0
        self._since = time.perf_counter()
        names = dict.fromkeys(["csv", *recipe.train.loggers]) if enabled else ()
        self._logs: dict[str, RunLog] = {name: _begun(name, folder, recipe, len(rows)) for name in names}
        self._bar = console.progress("training", steps, start=start, enabled=enabled)
        self._miou = ""
        self._noted: tuple[list[str], int, Readback] | None = None

    def __enter__(self) -> TrainLogger:
        self._bar.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.__exit__(kind, error, trace)
        self._tell(lambda log: log.close(error is not None))

    def _tell(self, tell: Callable[[RunLog], None]) -> None:
        """Reach every log. One that fails (a server that is gone) is left out from then on: hours of training don't end
        with it.
        """
        for name, log in list(self._logs.items()):
            try:
                tell(log)
            except RddError:  # the disk is full, which ends the training as well
                raise
            except Exception as error:  # of the package's own kinds
                del self._logs[name]
                console.warn(
                    f"{name} failed ({_sentence(error)}) and gets nothing more of this run; the training goes on, and"
                    " metrics.csv holds all figures"
                )

    def sums(self) -> dict[str, Any]:
        """The unfinished epoch's sums, for the state. Of several processes all must call it."""
        return {"sums": self._totals(), "count": self._count}

    def restore(self, sums: dict[str, Any]) -> None:
        """Go on with an unfinished epoch."""
        self._sums, self._count = dict(sums["sums"]), int(sums["count"])

    def step(self, stage: str, terms: dict[str, Tensor], images: int) -> None:
        """Note one training step. The terms are summed where they are, in float64: reading them would make a GPU wait
        at every step.
        """
        for name, value in terms.items():
            self._sums[name] = self._sums.get(name, 0.0) + value.double()
        self._count += 1
        self._images += images
        if self._bar.silent:
            return
        if self._count % NOTE_EVERY == 1 and terms:
            sums = {name: value for name, value in self._sums.items() if isinstance(value, Tensor)}
            self._noted = list(sums), self._count, Readback(torch.stack(list(sums.values())))
        self._bar.advance(text=f"{stage:8}", note=self._note())

    def _note(self) -> str | None:
        """What is shown beside the bar, once the sums that it tells have reached the host."""
        if self._noted is None or not self._noted[2].ready:
            return None
        (names, count, sums), self._noted = self._noted, None
        rate = self._images / max(1e-9, time.perf_counter() - self._since)
        losses = " ".join(f"{name} {value / count:.3f}" for name, value in zip(names, sums.read(), strict=True))
        return f"{losses} {rate:.1f} images/s {self._miou}"

    def _totals(self) -> dict[str, float]:
        """The terms' sums, as their mean over all processes, which is the whole batch's."""
        if not self._sums:
            return {}
        device = next((value.device for value in self._sums.values() if isinstance(value, Tensor)), None)
        sums = [torch.as_tensor(value, dtype=torch.float64, device=device) for value in self._sums.values()]
        return dict(zip(self._sums, mean_count(torch.stack(sums)).tolist(), strict=True))

    def epoch(
        self,
        epoch: int,
        stage: str,
        lr: float,
        measured: dict[str, Any] | None,
        seconds: float,
        shares: Mapping[str, float] = {},
    ) -> None:
        """Close an epoch: one row for the logs, one line where there is no terminal. Of several processes all must call
        it.

        Args:
            shares: of the terms' gradients at the epoch's end, see ``gradients``.
        """
        row: dict[str, Any] = {"epoch": epoch, "stage": stage, "lr": lr}
        row |= {f"loss_{name}": value / max(1, self._count) for name, value in self._totals().items()}
        row |= gradients.columns(shares)
        row["seconds"] = round(seconds, 2)
        if measured:
            row |= {"miou_pct": measured["miou_pct"], "pixel_accuracy_pct": measured["pixel_accuracy_pct"]}
            self._miou = f"mIoU {measured['miou_pct']:.2f} %"
        self.rows.append(row)
        if self.enabled:
            self._publish(row, stage, measured["iou_pct"] if measured else {})
        self._sums, self._count, self._images, self._since, self._noted = {}, 0, 0, time.perf_counter(), None

    def picture(self, picture: Frame, epoch: int) -> None:
        """Pass on an epoch's picture, uint8 (H, W, 3) RGB; before ``epoch``."""
        self._tell(lambda log: log.picture(picture, epoch))

    def _publish(self, row: dict[str, Any], stage: str, iou_pct: dict[str, float | None]) -> None:
        self._tell(lambda log: log.epoch(self.rows, iou_pct))
        for sentence in gradients.warnings(row, self.rows[:-1]):
            console.warn(sentence)
        losses = "  ".join(f"{name[5:]} {value:.4f}" for name, value in row.items() if name.startswith("loss_"))
        miou = f"  mIoU {row['miou_pct']:.2f} %" if row.get("miou_pct") is not None else ""
        if self._bar.silent or miou:
            console.info(f"epoch {row['epoch']}/{self.epochs}  {stage}  {losses}  {row['seconds']:.0f} s{miou}")


def _begun(name: str, folder: RunFolder, recipe: Recipe, done: int) -> RunLog:
    try:
        log: RunLog = LOGGERS[name].load()(folder.path, recipe.model_dump(mode="json"), done)
    except RddError:
        raise
    except Exception as error:  # of the package's own kinds: no login, no server
        raise RddError(
            f"{name} can't begin ({_sentence(error)}); fix that, or leave {name} out of train.loggers"
        ) from error
    return log


def _sentence(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
