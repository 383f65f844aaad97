"""Runs the core of the tests: what breaks when a dependency or the CPU changes, in minutes. Words are handed on to pytest."""

from __future__ import annotations

import subprocess
import sys
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


def pytest_command(python: str, *words: str) -> list[str]:
    """The command that runs the core with an environment's Python."""
    return [python, "-m", "pytest", "-m", "not slow and not gpu", *words, *(f"tests/{name}" for name in CORE)]


if __name__ == "__main__":
    sys.exit(subprocess.run(pytest_command(sys.executable, *sys.argv[1:]), cwd=ROOT, check=False).returncode)
