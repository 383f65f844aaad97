"""Several processes train one network together: Fabric's DDP over two processes of a CPU, as it would be over two GPUs."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

RECIPE = """
data: {name: streets, size: [64, 96], count: 8}
augment: {crop: [64, 64]}
network: {encoder: mobilenetv3_small_050, weights: none, channels: 16, auxiliary: true}
train: {epochs: 1, batch: 4, lr: 0.01, pictures_every: 0, device: cpu, devices: 2, precision: 32-true}
"""


def test_two_processes_train_one_network_and_speak_once(tmp_path: Path) -> None:
    (tmp_path / "pair.yaml").write_text(RECIPE)
    command = [sys.executable, "-m", "rdd_deploy.train", "pair.yaml"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs/pair/teacher.safetensors").is_file()
    assert done.stdout.count("done: runs/pair") == 1, done.stdout
    rows = list(csv.DictReader((tmp_path / "runs/pair/metrics.csv").open()))
    assert [row["epoch"] for row in rows] == ["1"]
