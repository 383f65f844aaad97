"""Weights & Biases: a run in the run folder's ``wandb/``, sent nowhere unless ``WANDB_MODE`` says so (later: ``wandb
sync``).
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rdd_deploy.data.base import Frame
from rdd_deploy.training.loggers import figures
from rdd_deploy.utils import files


class WandbLog:
    """One W&B run for each run folder, also over ``--resume``; see ``RunLog``. Project: ``WANDB_PROJECT``, else
    ``rdd-deploy``.
    """

    package = "wandb"

    def __init__(self, run: Path, recipe: dict[str, Any], done: int) -> None:
        mode = os.environ.get("WANDB_MODE") or "offline"
        if mode != "online":
            os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # of its crashes, to its makers
        import wandb

        self._wandb = wandb
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT") or "rdd-deploy",
            name=run.name,
            id=_identity(run / "wandb" / "run_id.txt", done),
            resume="allow",
            dir=str(run),
            config=recipe,
            mode=mode,
            settings={"console": "off", "quiet": True},  # the terminal is the progress bar's
        )

    def epoch(self, rows: Sequence[Mapping[str, Any]], iou_pct: Mapping[str, float | None]) -> None:
        self._run.log(figures(rows[-1], iou_pct), step=rows[-1]["epoch"])

    def picture(self, picture: Frame, epoch: int) -> None:
        self._run.log({"pictures": self._wandb.Image(picture)}, step=epoch)

    def close(self, failed: bool) -> None:
        self._run.finish(exit_code=int(failed))


def _identity(path: Path, done: int) -> str:
    """The W&B run's name for machines: that of the run that is resumed, else a new one."""
    if done and path.is_file():
        return path.read_text(encoding="utf-8").strip()
    identity = secrets.token_hex(4)
    files.write_text(path, identity)
    return identity
