"""Several processes train one network together: Fabric's DDP over two processes of a CPU, as it would be
over two GPUs.
"""

from __future__ import annotations

import csv
import os
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
from torch.distributed import TCPStore
from toys import Started, call, errors_of, network, teacher_tree, write_data, write_recipe

WORDS = ["pair.yaml", "train.devices=2", "--name"]


def write_pair(folder: Path) -> None:
    """A recipe of 12 steps an epoch, of which a process that is asked to stop ends at the 10th, and data for it."""
    tree = teacher_tree(write_data(folder / "data", train=48, val=2)) | {
        "network": network(auxiliary=True, dropout=0.4)
    }
    tree["train"] |= {"epochs": 3, "batch": 4}
    write_recipe(folder / "pair.yaml", tree | {"evaluation": {"every": 3}})


def srun(folder: Path, *words: str) -> list[subprocess.CompletedProcess[str]]:
    """Train in two tasks as srun starts them, and torchrun on several nodes: nothing says LOCAL_RANK, NODE_RANK or
    train.devices.
    """
    done = [process.wait() for process in tasks(folder, *words)]
    assert [process.returncode for process in done] == [0, 0], done
    return done


def tasks(folder: Path, *words: str) -> list[Started]:
    shared = {
        "SLURM_JOB_ID": str(os.getpid()),
        "SLURM_NTASKS": "2",
        "SLURM_NTASKS_PER_NODE": "2",
        "SLURM_NNODES": "1",
        "SLURM_NODEID": "0",
    }
    shared |= {"SLURM_NODELIST": "localhost", "SLURM_JOB_NAME": "train", "SLURM_STEP_ID": "0"}
    return [
        Started(
            "train",
            "pair.yaml",
            "--name",
            *words,
            cwd=folder,
            env=shared | {"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)},
        )
        for rank in range(2)
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pairs")
    write_pair(folder)
    return folder


@pytest.fixture(scope="module")
def whole(folder: Path) -> list[subprocess.CompletedProcess[str]]:
    """The processes of an undisturbed run."""
    return srun(folder, "whole")


def test_two_tasks_of_srun_train_one_network_and_speak_once(
    folder: Path, whole: list[subprocess.CompletedProcess[str]]
) -> None:
    first, second = whole
    assert first.stdout.endswith("done: runs/whole\n")
    assert second.stdout == ""
    run = folder / "runs" / "whole"
    assert safetensors.torch.load_file(run / "teacher.safetensors")
    rows = list(csv.DictReader((run / "metrics.csv").open()))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert {path.name for path in (folder / "runs").iterdir()} <= {"latest", "whole", "stopped"}


def test_ctrl_c_to_one_of_fabrics_pair_stops_both_and_they_resume_bit_for_bit(
    folder: Path, whole: list[subprocess.CompletedProcess[str]]
) -> None:
    pair = Started("train", *WORDS, "stopped", cwd=folder)
    try:
        wait_for(folder / "runs/stopped/metrics.csv", pair)
        pair.signal(signal.SIGINT)
        done = pair.wait()
    finally:
        with suppress(ProcessLookupError):  # of neither process anything stays, whatever happened
            pair.signal_group(signal.SIGKILL)
    assert done.returncode == 130, done.stderr
    assert "of 36; the state is saved, go on with the same command and --resume" in done.stderr
    assert done.stdout.count("training teacher alone on cpu") == 1
    srun(folder, "stopped", "--resume")
    assert weights(folder / "runs" / "stopped") == weights(folder / "runs" / "whole")


def weights(run: Path) -> dict[str, list[float]]:
    return {
        name: tensor.flatten().tolist()
        for name, tensor in safetensors.torch.load_file(run / "teacher.safetensors").items()
    }


def wait_for(path: Path, process: Started) -> None:
    while not path.is_file():
        assert process.running, process.stderr
        time.sleep(0.02)


@pytest.mark.parametrize("lost", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_a_killed_task_ends_the_other_which_says_so_and_the_run_goes_on(
    folder: Path, whole: list[subprocess.CompletedProcess[str]], lost: int
) -> None:
    name = f"lost{lost}"
    pair = tasks(folder, name)
    wait_for(folder / f"runs/{name}/state.ckpt", pair[0])
    pair[lost].signal(signal.SIGKILL)
    begun = time.monotonic()
    done = [process.wait() for process in pair]
    assert time.monotonic() - begun < 60
    assert done[lost].returncode == -signal.SIGKILL
    left = done[1 - lost]
    assert left.returncode == 2, left
    # Torch's C++ code is quiet only where it wasn't imported before.
    (line,) = [one for one in errors_of(left) if one.startswith("error:")]
    assert re.match(
        rf"error: process {lost} of 2(, at which the others meet, can't be reached any more| is lost: .*);", line
    ), line
    assert line.endswith(
        "; what trains together ends together. What was saved until then is kept: go on with the same command and"
        " --resume"
    )
    # Another number of processes: the same, to rounding.
    alone = call("train", "pair.yaml", "--name", name, "--resume", cwd=folder)
    assert alone.returncode == 0, alone.stderr
    assert "saved by 2 processes, this is 1" in alone.stdout
    expected = weights(folder / "runs" / "whole")
    for key, values in weights(folder / "runs" / name).items():
        assert np.allclose(values, expected[key], rtol=1e-2, atol=1e-3), key


def test_one_of_torchruns_processes_is_named_though_torchrun_ends_the_rest(folder: Path) -> None:
    # As torchrun's agent has it, which outlives its processes.
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    shared = {
        "TORCHELASTIC_RUN_ID": "x",
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "GROUP_RANK": "0",
        "TORCHELASTIC_USE_AGENT_STORE": "True",
    }
    shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port), "TORCHELASTIC_RESTART_COUNT": "0"}
    pair = [
        Started("train", "pair.yaml", "--name", "agent", cwd=folder, env=shared | {"RANK": rank, "LOCAL_RANK": rank})
        for rank in ("0", "1")
    ]
    wait_for(folder / "runs/agent/metrics.csv", pair[0])
    pair[1].signal(signal.SIGKILL)
    time.sleep(0.3)
    pair[0].signal(signal.SIGTERM)
    left, _ = (process.wait() for process in pair)
    assert left.returncode == 2, left
    (line,) = [one for one in errors_of(left) if one.startswith("error:")]
    assert line.startswith("error: process 1 of 2 is lost: it gave no sign of life for "), line


@pytest.mark.slow
@pytest.mark.parametrize("nodes", [1, 2])
@pytest.mark.parametrize("lost", [0, 1])
def test_a_killed_process_under_torchrun_itself(folder: Path, nodes: int, lost: int) -> None:
    """On one machine, and on two that are one here."""
    name, port = f"torchrun{nodes}{lost}", free_port()
    where = [f"--nnodes={nodes}", f"--nproc_per_node={2 // nodes}", "--rdzv_backend=c10d"]
    command = [sys.executable, "-m", "torch.distributed.run", *where, f"--rdzv_endpoint=127.0.0.1:{port}"]
    command += ["-m", "rdd_deploy.train", "pair.yaml", "--name", name, "train.epochs=200"]
    agents = [
        subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        for _ in range(nodes)
    ]
    try:
        end = time.monotonic() + 150
        while not (folder / f"runs/{name}/state.ckpt").is_file():
            assert time.monotonic() < end
            time.sleep(0.1)
        os.kill(process_of(name, lost), signal.SIGKILL)
        begun = time.monotonic()
        said = "".join(one.communicate(timeout=90)[1] for one in agents)
    finally:
        for one in agents:
            one.kill()
    assert time.monotonic() - begun < 60
    assert [one.returncode for one in agents] == [1] * nodes  # torchrun's own
    (line,) = [one for one in said.splitlines() if one.startswith("error:")]
    assert line.startswith(f"error: process {lost} of 2"), line
    assert line.endswith("go on with the same command and --resume")
    alone = call("train", "pair.yaml", "--name", name, "train.epochs=200", "--resume", "--dry-run", cwd=folder)
    assert alone.returncode == 0, alone.stderr


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def process_of(name: str, rank: int) -> int:
    """The training process of that run and rank, which torchrun started."""
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (folder / "cmdline").read_bytes().split(b"\0")
            variables = (folder / "environ").read_bytes().split(b"\0")
            if name.encode() in words and b"torch.distributed.run" not in words and b"RANK=%d" % rank in variables:
                return int(folder.name)
    raise AssertionError(f"process {rank} of {name} isn't there")


def test_a_killed_process_of_our_own_ends_all_by_name(folder: Path) -> None:
    pair = Started("train", *WORDS, "own_lost", "train.epochs=50", cwd=folder)
    try:
        wait_for(folder / "runs/own_lost/metrics.csv", pair)
        (child,) = children_of(pair)
        os.kill(child, signal.SIGKILL)
        done = pair.wait()
    finally:
        with suppress(ProcessLookupError):
            pair.signal_group(signal.SIGKILL)
    assert done.returncode == 2, done
    (line,) = errors_of(done)
    assert line.startswith(
        "error: process 1 of 2 was killed by SIGKILL, most often because the machine's memory was full; what trains"
        " together"
    )


def children_of(process: Started) -> list[int]:
    """The training processes that it started."""
    return children_of_pid(process._process.pid)


def children_of_pid(pid: int) -> list[int]:
    found = []
    with suppress(OSError):  # it ended meanwhile
        for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            with suppress(OSError):
                if b"rdd_deploy.train" in Path(f"/proc/{one}/cmdline").read_bytes():
                    found.append(int(one))
    return found


def test_rdd_deploy_itself_starts_a_pair(folder: Path, whole: list[subprocess.CompletedProcess[str]]) -> None:
    """The second process runs the same command, though the first one's name is `rdd-deploy train`, or `-m rdd_deploy
    train`.
    """
    pair = subprocess.Popen(
        [sys.executable, "-m", "rdd_deploy", "train", *WORDS, "own", "train.epochs=1"],
        cwd=folder,
        env={**os.environ, "PYTHONFAULTHANDLER": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with suppress(subprocess.TimeoutExpired):
        pair.wait(200)
    with suppress(ProcessLookupError):  # whoever is still there says where it stands
        os.killpg(pair.pid, signal.SIGABRT)
    stdout, stderr = pair.communicate()
    assert pair.returncode == 0, stdout + stderr
    assert stdout.count("training teacher alone on cpu") == 1
    assert stdout.endswith("done: runs/own\n")
    assert "devices: 2" in (folder / "runs/own/recipe.yaml").read_text()


@pytest.mark.parametrize(
    ("variables", "sentence"),
    [
        ({"LOCAL_RANK": "0"}, "LOCAL_RANK is set, so this command starts no further process; waiting for all 2 at 127"),
        (
            {"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2", "SLURM_JOB_NAME": "train", "SLURM_JOB_ID": "7"},
            "SLURM gave this job 2 tasks, so this command starts no further process; waiting for all 2",
        ),
    ],
)
def test_processes_that_nobody_starts_are_waited_for_aloud(
    folder: Path, variables: dict[str, str], sentence: str
) -> None:
    more = {
        "SLURM_NODELIST": "localhost",
        "SLURM_PROCID": "0",
        "SLURM_NNODES": "1",
        "SLURM_LOCALID": "0",
        "SLURM_NODEID": "0",
    }
    alone = Started("train", *WORDS, "waits", cwd=folder, env=variables | more | {"MASTER_PORT": str(free_port())})
    try:
        end = time.monotonic() + 100
        while sentence not in alone.stdout:
            assert alone.running, alone.stderr
            assert time.monotonic() < end
            time.sleep(0.1)
    finally:
        alone.signal_group(signal.SIGKILL)


@pytest.mark.parametrize("nodes", [1, 2])
def test_torchrun_trains_the_same(folder: Path, whole: list[subprocess.CompletedProcess[str]], nodes: int) -> None:
    """On one node and on two, which are both this machine; torchrun says how many processes there are."""
    name = f"nodes{nodes}"
    where = [
        f"--nnodes={nodes}",
        f"--nproc_per_node={2 // nodes}",
        "--rdzv_backend=c10d",
        f"--rdzv_endpoint=127.0.0.1:{free_port()}",
    ]
    command = [sys.executable, "-m", "torch.distributed.run", *where, "-m", "rdd_deploy.train"]
    heard = [folder / f"node{number}.txt" for number in range(nodes)]
    agents = []
    for place in heard:
        with place.open("w") as said:
            agents.append(
                subprocess.Popen(
                    [*command, "pair.yaml", "--name", name], cwd=folder, stdout=said, stderr=subprocess.STDOUT,
                    env={**os.environ, "PYTHONFAULTHANDLER": "1"},
                )
            )  # fmt: skip
    trainings: set[int] = set()
    try:
        end = time.monotonic() + 150
        while any(one.poll() is None for one in agents) and time.monotonic() < end:
            trainings = {pid for one in agents if one.poll() is None for pid in children_of_pid(one.pid)}
            time.sleep(0.1)
        # Torchrun itself once stood still after both trainings had ended: that is its own.
        late = [one for one in agents if one.poll() is None]
        standing = trainings if late else set()
        for pid in standing:  # they say where
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGABRT)
        time.sleep(2.0 * bool(standing))
        words = "".join(place.read_text() for place in heard)
        assert not standing, words
        assert [one.returncode for one in agents if one not in late] == [0] * (nodes - len(late)), words
        assert words.count(f"done: runs/{name}\n") == 1, words
    finally:
        for pid in trainings:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for one in agents:
            one.kill()
            one.wait()
    assert weights(folder / "runs" / name) == weights(folder / "runs" / "whole")


@pytest.mark.slow
def test_a_recipe_that_contradicts_torchrun_is_refused(folder: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "--no_python"]
    command += [sys.executable, "-m", "rdd_deploy.train", "pair.yaml", "--name", "torchrun", "train.devices=1"]
    refused = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    assert refused.returncode != 0
    assert "torchrun started 2 processes, but train.devices x train.nodes is 1 x 1" in refused.stderr
