"""Small data and recipes that many tests share: striped pictures a network can learn in seconds, as a
folder data set.
"""

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml

CLASSES = ["left", "middle", "right"]
COLOURS = ((200, 40, 40), (40, 200, 40), (40, 40, 200))
ENCODER = "test_efficientnet"


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


def _main(module: str, arguments: list[str], cwd: str, env: dict[str, str], output: str) -> None:
    multiprocessing.set_start_method(None, force=True)  # the platform's own, not what this process was started by
    os.setsid()  # a group of its own, for signals to all processes of it
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # though the tests may run under nohup
    os.chdir(cwd)
    os.environ.update(env)
    for number, name in ((1, "stdout"), (2, "stderr")):
        with open(f"{output}.{name}", "wb") as file:
            os.dup2(file.fileno(), number)
    program = import_module(module if module.startswith("forked_") else f"rdd_deploy.{module}")
    sys.modules[
        "__main__"
    ].__spec__ = program.__spec__  # as python -m leaves it: by it Fabric starts its other processes
    sys.argv = [module, *arguments]
    program.main()


class Started:
    """``python -m rdd_deploy.<module>`` in a process of its own. It is forked from one that has torch imported already:
    an import takes longer than all that a test does, and everything else is as in a process that a user starts.
    """

    _context = multiprocessing.get_context("forkserver")
    _context.set_forkserver_preload(
        ["rdd_deploy.training.distillation", "torch.utils.tensorboard", "PIL.Image", "matplotlib.backends.backend_agg"]
    )

    def __init__(self, module: str, *arguments: object, cwd: Path, env: dict[str, str] | None = None) -> None:
        self._output = tempfile.mkdtemp(prefix="rdd-") + "/out"
        words = [str(word) for word in arguments]
        self._process = self._context.Process(
            target=_main, args=(module, words, str(cwd), {"COLUMNS": "400"} | (env or {}), self._output)
        )
        self._process.start()

    @property
    def stdout(self) -> str:
        return self._said("stdout")

    @property
    def stderr(self) -> str:
        return self._said("stderr")

    def _said(self, name: str) -> str:
        path = Path(f"{self._output}.{name}")
        return path.read_text() if path.is_file() else ""  # it may not have begun

    @property
    def running(self) -> bool:
        return self._process.is_alive()

    def signal(self, number: int) -> None:
        os.kill(self._process.pid or 0, number)

    def signal_group(self, number: int) -> None:
        os.killpg(self._process.pid or 0, number)

    def wait(self) -> subprocess.CompletedProcess[str]:
        self._process.join(200)
        assert not self.running, "took too long"
        stdout, stderr = self.stdout, self.stderr
        shutil.rmtree(Path(self._output).parent)
        return subprocess.CompletedProcess([], self._process.exitcode or 0, stdout, stderr)


def call(
    module: str, *arguments: object, cwd: Path, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return Started(module, *arguments, cwd=cwd, env=env).wait()


def errors_of(done: subprocess.CompletedProcess[str]) -> list[str]:
    """What a person sees on standard error, without warnings of ours; a traceback fails the test."""
    assert "Traceback" not in done.stderr, done.stderr
    return [line for line in done.stderr.splitlines() if line.strip() and not line.startswith("warning:")]


def leftovers(folder: Path) -> list[str]:
    """Files that a write left half-done."""
    return sorted(
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.name.endswith(".part") or path.name.startswith(".")
    )


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
