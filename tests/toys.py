"""Small data and recipes that many tests share: striped pictures a network can learn in seconds, as a folder data set."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml

CLASSES = ["left", "middle", "right"]
COLOURS = ((200, 40, 40), (40, 200, 40), (40, 40, 200))
ENCODER = "mobilenetv3_small_050"


def picture(index: int, height: int = 64, width: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """A noisy RGB frame of three coloured stripes and its labels, the last rows void."""
    rng = np.random.default_rng(index)
    edges = sorted(rng.integers(8, width - 8, 2))
    labels = np.searchsorted(edges, np.arange(width), side="right").astype(np.uint8)
    labels = np.ascontiguousarray(np.broadcast_to(labels, (height, width)))
    frame = np.array(COLOURS, np.int16)[labels] + rng.integers(-40, 40, (height, width, 3))
    labels = labels.copy()
    labels[-2:] = 255
    return frame.clip(0, 255).astype(np.uint8), labels


def write_pair(root: Path, split: str, name: str, frame: np.ndarray, labels: np.ndarray) -> None:
    for folder, image in ((split, cv2.cvtColor(frame, cv2.COLOR_RGB2BGR)), (f"{split}annot", labels)):
        (root / folder).mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(root / folder / f"{name}.png"), image)


def write_data(root: Path, train: int = 6, val: int = 3, height: int = 64, width: int = 64) -> Path:
    """A ``folder`` data set."""
    for split, count, first in (("train", train, 0), ("val", val, 1000)):
        for index in range(first, first + count):
            write_pair(root, split, f"{split}{index:04d}", *picture(index, height, width))
    return root


def network(**changes: Any) -> dict[str, Any]:
    return {"encoder": ENCODER, "head": "lraspp", "weights": "none", "channels": 16} | changes


def tree(root: Path, **changes: Any) -> dict[str, Any]:
    """A student's recipe that trains in seconds: 6 frames, 3 steps an epoch."""
    return {
        "data": {"name": "folder", "root": str(root), "size": [64, 64], "classes": CLASSES, "workers": 0},
        "augment": {"crop": [64, 64], "scale": [0.75, 1.5]},
        "student": network(),
        "train": {"epochs": 3, "batch": 2, "lr": 0.01, "device": "cpu", "precision": "32-true", "pictures_every": 0},
        "evaluation": {"every": 1, "batch": 2},
    } | changes


def write_recipe(path: Path, content: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


def teacher_tree(root: Path, **changes: Any) -> dict[str, Any]:
    student = tree(root)
    del student["student"]
    return student | {"network": network(auxiliary=True), "train": student["train"] | {"epochs": 1}} | changes


def write_story(folder: Path, student: dict[str, Any] | None = None, teacher: dict[str, Any] | None = None) -> Path:
    """Data, teacher recipe and student recipe in one folder; returns the student's."""
    root = write_data(folder / "data") if not (folder / "data").is_dir() else folder / "data"
    write_recipe(folder / "teacher.yaml", teacher_tree(root) | (teacher or {}))
    return write_recipe(folder / "student.yaml", tree(root) | {"teacher": {"recipe": "teacher.yaml"}} | (student or {}))


def command(module: str, *arguments: object, cwd: Path, env: dict[str, str] | None = None) -> tuple[list[str], dict[str, Any]]:
    """Arguments of Popen for ``python -m rdd_deploy.<module>`` as a user's shell would start it."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "COLUMNS": "400"} | (env or {})
    return [sys.executable, "-m", f"rdd_deploy.{module}", *map(str, arguments)], {
        "cwd": cwd, "env": environment, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True,
    }  # fmt: skip


def call(module: str, *arguments: object, cwd: Path, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    words, options = command(module, *arguments, cwd=cwd, env=env)
    return subprocess.run(words, timeout=120, check=False, **options)


def errors_of(done: subprocess.CompletedProcess[str]) -> list[str]:
    """What a person sees on standard error, without warnings of ours; a traceback fails the test."""
    assert "Traceback" not in done.stderr, done.stderr
    return [line for line in done.stderr.splitlines() if line.strip() and not line.startswith("warning:")]


def leftovers(folder: Path) -> list[str]:
    """Files that a write left half-done."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.name.endswith(".part") or path.name.startswith("."))


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
