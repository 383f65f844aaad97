"""Several processes train one network together: Fabric's DDP over two processes of a CPU, as it would be over two GPUs."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import safetensors.torch

RECIPE = """
data: {name: streets, size: [64, 96], count: 8}
augment: {crop: [64, 64]}
network: {encoder: mobilenetv3_small_050, weights: none, channels: 16, auxiliary: true, dropout: 0.4}
train: {epochs: 3, batch: 4, lr: 0.01, pictures_every: 0, device: cpu, devices: 2, precision: 32-true}
"""


COMMAND = [sys.executable, "-m", "rdd_deploy.train", "pair.yaml", "--name"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of an undisturbed run, and what its processes said."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "pair.yaml").write_text(RECIPE)
    done = subprocess.run([*COMMAND, "whole"], cwd=folder, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    return folder / "runs/whole", done.stdout


def test_two_processes_train_one_network_and_speak_once(whole: tuple[Path, str]) -> None:
    run, said = whole
    assert (run / "teacher.safetensors").is_file()
    assert said.count("done: runs/whole") == 1, said
    rows = list(csv.DictReader((run / "metrics.csv").open()))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]


def test_a_killed_pair_resumes_bit_for_bit(tmp_path: Path, whole: tuple[Path, str]) -> None:
    (tmp_path / "pair.yaml").write_text(RECIPE)
    with started([*COMMAND, "killed"], tmp_path) as killed:
        wait_for(tmp_path / "runs/killed/state.ckpt", killed)
    subprocess.run([*COMMAND, "killed", "--resume"], cwd=tmp_path, capture_output=True, timeout=200, check=True)
    assert weights(tmp_path / "runs/killed") == weights(whole[0])


def test_ctrl_c_to_one_of_a_pair_stops_both(tmp_path: Path) -> None:
    (tmp_path / "pair.yaml").write_text(RECIPE.replace("epochs: 3", "epochs: 500"))
    with started([sys.executable, "-m", "rdd_deploy.train", "pair.yaml"], tmp_path) as pair:
        wait_for(tmp_path / "runs/pair/metrics.csv", pair)
        pair.send_signal(signal.SIGINT)
        _, errors = pair.communicate(timeout=100)
    assert pair.returncode == 130, errors
    assert "the state is saved, go on with the same command and --resume" in errors


@contextmanager
def started(command: list[str], cwd: Path) -> Iterator[subprocess.Popen[str]]:
    """A process in a group of its own, which is killed at the end with its children, whatever happened."""
    process = subprocess.Popen(command, cwd=cwd, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(30)


def weights(run: Path) -> dict[str, list[float]]:
    return {name: tensor.flatten().tolist() for name, tensor in safetensors.torch.load_file(run / "teacher.safetensors").items()}


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    while not path.is_file():
        assert process.poll() is None
        time.sleep(0.02)
