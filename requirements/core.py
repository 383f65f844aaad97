"""Runs the core of the tests: what breaks when a dependency or the CPU changes, in minutes. Words are handed on to pytest."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CORE = [
    "benchmarking/test_benchmark_images.py",
    "benchmarking/test_benchmark_plot.py",
    "benchmarking/test_benchmark_torch.py",
    "data",
    "export/test_export_gate.py",
    "export/test_export_profiles.py",
    "export/test_export_qdq.py",
    "export/test_tail.py",
    "live/test_live_drawing.py",
    "live/test_live_recorder.py",
    "losses",
    "models",
    "runtime",
    "test_console.py",
    "test_cores.py",
    "test_distill.py",
    "test_evaluate.py",
    "test_fit.py",
    "test_frames.py",
    "test_imports.py",
    "test_metrics.py",
    "test_recipe.py",
    "test_recipes_shipped.py",
    "test_run.py",
    "test_schema.py",
    "test_teacher.py",
    "test_train.py",
]


def pytest_command(python: str, *words: str) -> list[str]:
    """The command that runs the core with an environment's Python."""
    return [python, "-m", "pytest", "-m", "not slow and not gpu", *words, *(f"tests/{name}" for name in CORE)]


if __name__ == "__main__":
    sys.exit(subprocess.run(pytest_command(sys.executable, *sys.argv[1:]), cwd=ROOT, check=False).returncode)
