"""The same short distillation twice, and once stopped in the middle and resumed: every tensor of the final states is
compared.

As torch computes by default, and with train.deterministic.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS starts

import torch
import yaml
from common import DEVICE, SMOKE, WORK, add, guarded

from rdd_deploy.recipe import StudentRecipe, load_recipe
from rdd_deploy.training.data import TrainingData
from rdd_deploy.training.distillation import distill_recipe
from rdd_deploy.training.loop import Interrupted
from rdd_deploy.training.state import TrainState

STOP_AT = 5


def recipes(place: Path, precision: str, deterministic: bool) -> Path:
    """A student and its teacher on procedural streets: dropout, auxiliary heads, EMA, loader processes, bf16."""
    common: dict[str, Any] = {
        "data": {"name": "streets", "size": [96, 128], "count": 16 if SMOKE else 32, "workers": 0 if SMOKE else 2},
        "augment": {"crop": [96, 96]}, "evaluation": {"every": 3},
        "train": {"epochs": 3, "batch": 8, "lr": 0.01, "ema": 0.9, "pictures_every": 0, "device": DEVICE.type, "precision": precision, "deterministic": deterministic},
    }  # fmt: skip
    net = {"encoder": "mobilenetv3_small_050", "weights": "none", "channels": 32, "auxiliary": True}
    teacher = common | {"network": net | {"head": "deeplabv3plus"}, "train": common["train"] | {"epochs": 1}}
    student = common | {
        "student": net | {"head": "lraspp"},
        "teacher": {"recipe": "teacher.yaml"},
        "distillation": {"tfe_fraction": 0.5},
    }
    place.mkdir(parents=True, exist_ok=True)
    (place / "teacher.yaml").write_text(yaml.safe_dump(teacher))
    (place / "student.yaml").write_text(yaml.safe_dump(student))
    return place / "student.yaml"


def run(source: Path, data: TrainingData, name: str, resume: bool = False) -> dict[str, Any]:
    recipe = load_recipe(source)
    assert isinstance(recipe, StudentRecipe)
    folder = distill_recipe(recipe, source, source.parent / "runs", resume, name, data)
    return torch.load(folder.state, map_location="cpu", weights_only=True)  # type: ignore[no-any-return]


def stopped_and_resumed(source: Path, data: TrainingData, name: str) -> dict[str, Any]:
    update = TrainState.update

    def stopping(self: TrainState, *arguments: Any, **options: Any) -> Any:
        result = update(self, *arguments, **options)
        if self.step == (2 if SMOKE else STOP_AT):
            os.kill(os.getpid(), signal.SIGTERM)
        return result

    TrainState.update = stopping  # type: ignore[method-assign]
    try:
        run(source, data, name)
        raise AssertionError("the run wasn't stopped")
    except Interrupted as error:
        print(error)
    finally:
        TrainState.update = update  # type: ignore[method-assign]
    return run(source, data, name, resume=True)


def difference(a: Any, b: Any) -> float:
    """Largest difference of two nested states; infinite where they have different parts. Times don't count."""
    if isinstance(a, torch.Tensor):
        return 0.0 if torch.equal(a, b) else float((a.double() - b.double()).abs().max())
    if isinstance(a, dict):
        if a.keys() != b.keys():
            return float("inf")
        return max((difference(a[key], b[key]) for key in a if key not in ("seconds", "rows")), default=0.0)
    if isinstance(a, list | tuple):
        return max((difference(one, other) for one, other in zip(a, b, strict=True)), default=0.0)
    return 0.0 if a == b else float("inf") if not isinstance(a, float) else abs(a - b)


def main() -> None:
    data: TrainingData | None = None
    modes = {"default": "auto", "deterministic": "auto"} | (
        {"deterministic, fp16": "16-mixed"} if DEVICE.type == "cuda" else {}
    )
    for mode, precision in modes.items():
        with guarded("resume", mode):  # an operation without a deterministic form ends the run by name
            place = WORK / "resume" / mode.replace(", ", "-")
            shutil.rmtree(place, ignore_errors=True)
            source = recipes(place, precision, mode != "default")
            data = data or TrainingData(load_recipe(source))
            print(mode, precision)
            first = run(source, data, "first")
            again = difference(first, run(source, data, "again"))
            resumed = difference(first, stopped_and_resumed(source, data, "resumed"))
            add(
                "resume",
                f"{mode}: the same run twice, largest difference",
                again,
                "bit for bit" if again == 0 else "differs",
            )
            add(
                "resume",
                f"{mode}: stopped and resumed, largest difference",
                resumed,
                "bit for bit" if resumed == 0 else "differs",
            )


if __name__ == "__main__":
    sys.exit(main())
