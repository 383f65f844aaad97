"""MLflow: a run in a database in the run folder's ``mlflow/``, or where ``MLFLOW_TRACKING_URI`` says."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rdd_deploy.data.base import Frame
from rdd_deploy.training.loggers import figures
from rdd_deploy.utils import files


class MlflowLog:
    """One MLflow run for each run folder, also over ``--resume``; see ``RunLog``.

    Experiment: ``MLFLOW_EXPERIMENT_NAME``, else ``rdd-deploy``.
    """

    package = "mlflow"

    def __init__(self, run: Path, recipe: dict[str, Any], done: int) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        import mlflow

        folder = run.resolve() / "mlflow"
        folder.mkdir(parents=True, exist_ok=True)
        elsewhere = os.environ.get("MLFLOW_TRACKING_URI")
        self._client = mlflow.MlflowClient(tracking_uri=elsewhere or f"sqlite:///{folder / 'mlflow.db'}")
        identity = folder / "run_id.txt"
        if done and identity.is_file():
            self._run = identity.read_text(encoding="utf-8").strip()
            return
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or "rdd-deploy"
        found = self._client.get_experiment_by_name(name)
        place = None if elsewhere else (folder / "artifacts").as_uri()
        experiment = found.experiment_id if found else self._client.create_experiment(name, artifact_location=place)
        self._run = self._client.create_run(experiment, run_name=run.name).info.run_id
        files.write_text(identity, self._run)
        for key, value in _flat(recipe):
            self._client.log_param(self._run, key, value)

    def epoch(self, rows: Sequence[Mapping[str, Any]], iou_pct: Mapping[str, float | None]) -> None:
        for name, value in figures(rows[-1], iou_pct).items():
            self._client.log_metric(self._run, _allowed(name), value, step=rows[-1]["epoch"])

    def picture(self, picture: Frame, epoch: int) -> None:
        self._client.log_image(self._run, picture, artifact_file=f"pictures/epoch_{epoch:03d}.png")

    def close(self, failed: bool) -> None:
        self._client.set_terminated(self._run, "FAILED" if failed else "FINISHED")


def _allowed(name: str) -> str:
    """MLflow takes ASCII letters, digits and ``_-. /``; any other character is written as its code point."""
    return re.sub(r"[^A-Za-z0-9_\-. /]", lambda found: f"_{ord(found[0]):x}_", name)


def _flat(tree: Mapping[str, Any], above: str = "") -> list[tuple[str, str]]:
    """Dotted keys and values as text, at most as long as MLflow takes."""
    pairs = []
    for key, value in tree.items():
        pairs += _flat(value, f"{above}{key}.") if isinstance(value, dict) else [(above + key, str(value)[:500])]
    return pairs
