"""Runs the core of the tests: what breaks when a dependency changes, in minutes; with the word ``cpu`` what may break
when the CPU changes. Further words are handed on to pytest."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CORE = [
    "benchmark/test_images.py",
    "benchmark/report/test_plot.py",
    "benchmark/test_torch_runner.py",
    "data",
    "export/quantization/test_accuracy_gate.py",
    "export/test_profile.py",
    "export/quantization/test_qdq.py",
    "export/onnx/test_postprocess.py",
    "live/test_drawing.py",
    "live/test_recorder.py",
    "losses",
    "models",
    "runtime",
    "test_console.py",
    "utils/test_machine.py",
    "test_distill.py",
    "test_evaluate.py",
    "training/test_loop.py",
    "test_preprocess.py",
    "test_imports.py",
    "test_metrics.py",
    "test_recipe.py",
    "test_recipes_shipped.py",
    "training/test_run_folder.py",
    "test_schema.py",
    "training/test_teacher_cache.py",
    "test_train.py",
]
CPU = [
    "benchmark/test_torch_runner.py",
    "export/quantization/test_accuracy_gate.py",
    "export/quantization/test_qdq.py",
    "export/onnx/test_postprocess.py",
    "losses",
    "models",
    "runtime",
    "utils/test_machine.py",
    "test_distill.py",
    "test_evaluate.py",
    "test_train.py",
    "training/test_loop.py",
    "training/test_teacher_cache.py",
]


def pytest_command(python: str, *words: str, files: Sequence[str] = CORE) -> list[str]:
    """The command that runs some of the tests with an environment's Python."""
    return [python, "-m", "pytest", "-m", "not slow and not gpu", *words, *(f"tests/{name}" for name in files)]


if __name__ == "__main__":
    words = sys.argv[1:]
    files = CPU if words[:1] == ["cpu"] else CORE
    command = pytest_command(sys.executable, *(words[1:] if files is CPU else words), files=files)
    sys.exit(subprocess.run(command, cwd=ROOT, check=False).returncode)
