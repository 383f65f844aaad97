"""What the machine does to a command ends in a sentence and exit code 2; a bug keeps its traceback."""

from __future__ import annotations

import errno
import multiprocessing
import os
import re
import resource
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
import pytest
import torch
from toys import Started, call, errors_of, tree, write_data, write_recipe

from rdd_deploy import cli
from rdd_deploy.errors import DataError, MachineError
from rdd_deploy.utils import faults


def worded(error: BaseException) -> str:
    failure = faults.as_error(error)
    assert isinstance(failure, MachineError)
    assert failure.exit_code == 2
    return str(failure)


@pytest.mark.parametrize(
    ("error", "begin", "advice"),
    [
        (MemoryError(), "the machine's memory is full", "train.batch"),
        (cv2.error("OpenCV(4.12) alloc.cpp:73: error: (-4:Insufficient memory) Failed to allocate 9 bytes"), "the machine's memory is full", ""),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried"), "the machine's memory is full", ""),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), "the GPU's memory is full", "augment.crop"),
        (RuntimeError("CUDA error: out of memory"), "the GPU's memory is full", "train.batch"),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "), "a process of the data loader was killed", "data.workers"),
        (RuntimeError("DataLoader worker (pid(s) 7, 8) exited unexpectedly"), "a process of the data loader was killed", "data.in_memory=false"),
        (
            RuntimeError(
                "DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that dataloader's workers are out of shared memory. "
                "Please try to raise your shared memory limit."
            ),
            "shared memory (/dev/shm", "--shm-size",
        ),
        (RuntimeError("unable to write to file </torch_1_2_0>: No space left on device (28)"), "shared memory (/dev/shm", "data.workers"),
        (RuntimeError("unable to open shared memory object </torch_1> in read-write mode: Too many open files (24)"), "too many open files", "ulimit -n"),
        (RuntimeError("can't start new thread"), "no further thread can be started", "ulimit -u"),
        (
            RuntimeError("[../third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:9"),
            "another of the processes that train together was lost (Connection closed by peer [127.0.0.1]:9)", "--resume",
        ),
        (torch.distributed.DistBackendError("NCCL communicator was aborted on rank 1."), "another of the processes", "--resume"),
        (torch.distributed.DistNetworkError("The client socket has failed to connect"), "another of the processes", "--resume"),
        (torch.distributed.DistNetworkError("failed to listen, name: EADDRINUSE"), "the port at which the processes meet is taken", "MASTER_PORT"),
        (OSError(errno.EMFILE, "Too many open files", "/x/y"), "can't use /x/y: Too many open files", "ulimit -n"),
        (FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']"), "there is no temporary folder", "TMPDIR"),
        (ImportError("libtorch_cpu.so: failed to map segment from shared object"), "the machine's memory is full", ""),
    ],
)  # fmt: skip
def test_what_libraries_say(error: BaseException, begin: str, advice: str) -> None:
    assert worded(error).startswith(begin)
    assert advice in worded(error)
    assert "\n" not in worded(error)


@pytest.mark.parametrize("number", sorted(errno.errorcode))
def test_every_error_of_the_system_is_told_with_its_file(number: int) -> None:
    sentence = worded(OSError(number, os.strerror(number), "/x/[bold]y"))
    assert sentence.startswith(f"can't use /x/[bold]y: {os.strerror(number)}; ")
    assert worded(OSError(number, os.strerror(number))).startswith(
        f"the system refused something: {os.strerror(number)}; "
    )
    assert "/x/a and /x/b" in worded(OSError(number, os.strerror(number), "/x/a", None, "/x/b"))


@pytest.mark.parametrize(
    "error",
    [
        ValueError("CUDA out of memory"), RuntimeError("mat1 and mat2 shapes cannot be multiplied"), KeyError("gloo"), ZeroDivisionError(),
        ModuleNotFoundError("No module named 'nope'"), RuntimeError("out of resource: shared memory, Required: 9"),
    ],
)  # fmt: skip
def test_a_bug_stays_a_bug(error: Exception) -> None:
    assert faults.as_error(error) is None


def test_an_error_of_ours_stays_itself() -> None:
    error = DataError("x")
    assert faults.as_error(error) is error


def test_an_import_that_fails_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def full(name: str) -> Any:
        raise ImportError("libtorch_cpu.so: failed to map segment from shared object")

    monkeypatch.setattr(cli, "import_module", full)
    with pytest.raises(SystemExit) as raised:
        cli.start("evaluate")
    assert raised.value.code == 2
    assert capsys.readouterr().err.startswith("error: the machine's memory is full; ")


@pytest.fixture
def training(tmp_path: Path) -> Path:
    """A recipe that loads every frame again in processes of its own, for many epochs."""
    content = tree(write_data(tmp_path / "data"))
    content["data"] |= {"workers": 1, "in_memory": False}
    content["train"] |= {"epochs": 1000}
    write_recipe(tmp_path / "toy.yaml", content)
    return tmp_path


def begun(place: Path, *words: str) -> Started:
    process = Started("train", "toy.yaml", *words, cwd=place)
    while not (place / "runs" / "toy_alone" / "state.ckpt").is_file():
        assert process.running, process.stderr
        time.sleep(0.02)
    return process


def refused(process: Started) -> str:
    done = process.wait()
    lines = errors_of(done)
    assert len(lines) == 1, lines
    assert done.returncode == 2
    return lines[0]


def children(process: Started) -> list[int]:
    pid = process._process.pid
    words = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(word) for word in words if "resource_tracker" not in Path(f"/proc/{word}/cmdline").read_text()]


def test_a_frame_that_vanishes_while_it_is_loaded(training: Path) -> None:
    process = begun(training)
    (training / "data" / "train" / "train0003.png").unlink()
    line = refused(process)
    assert line.startswith("error: can't read the image ")
    assert "train0003.png: no such file. The state at step " in line
    assert line.endswith(" is saved: go on with the same command and --resume")
    state = torch.load(training / "runs" / "toy_alone" / "state.ckpt", weights_only=True)
    assert f" at step {state['step']} is saved" in line


def test_a_killed_process_of_the_loader(training: Path) -> None:
    process = begun(training)
    (worker,) = children(process)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        os.kill(worker, number)  # as a terminal sends them to all processes: the trainer alone decides
    time.sleep(0.3)
    assert process.running, process.stderr
    os.kill(worker, signal.SIGKILL)
    assert refused(process).startswith(
        "error: a process of the data loader was killed, most often because the machine's memory was full; use fewer"
    )
    assert (training / "runs" / "toy_alone" / "state.ckpt").is_file()


def test_a_run_folder_that_is_taken_away(training: Path) -> None:
    process = begun(training, "data.workers=0")
    (training / "runs" / "toy_alone").rename(training / "elsewhere")
    line = refused(process)
    assert line.startswith(
        "error: the run's folder runs/toy_alone was moved or deleted while it was being trained; put it back and go on"
    )
    assert not (training / "runs" / "toy_alone").exists(), "half a run isn't left behind"


def limited(kind: int, limit: int, place: Path, words: list[str], output: str) -> None:
    from toys import _main

    resource.setrlimit(kind, (limit, limit))
    _main("train", words, str(place), {"COLUMNS": "400"}, output)


@pytest.mark.parametrize(
    ("kind", "limit", "words"),
    [
        (resource.RLIMIT_NOFILE, 24, ["data.workers=2"]),
        (resource.RLIMIT_AS, 4 << 30, ["data.workers=0", "data.size=[4096,4096]", "augment.crop=[4096,4096]"]),
    ],
)  # fmt: skip
def test_limits_of_the_system(training: Path, kind: int, limit: int, words: list[str]) -> None:
    """Too few files, too little memory: both are told, and nothing is left half-done."""
    output = str(training / "out")
    process = multiprocessing.get_context("forkserver").Process(
        target=limited, args=(kind, limit, training, ["toy.yaml", "train.epochs=2", *words], output)
    )
    process.start()
    process.join(200)  # on a busy machine it has taken more than 120
    failure = Path(f"{output}.stderr").read_text()
    assert process.exitcode == 2, failure
    assert "Traceback" not in failure
    assert failure.splitlines()[-1].startswith("error: ")
    # Little memory refuses an array, or the stack of a thread, whichever is wanted first.
    assert re.search("oo many open files" if kind == resource.RLIMIT_NOFILE else "memory is full", failure)
    assert kind != resource.RLIMIT_NOFILE or "ulimit -n" in failure


def test_without_a_temporary_folder(
    training: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As ``tempfile`` finds it: no folder that it knows can be written."""

    def lost() -> str:
        raise FileNotFoundError(2, "No usable temporary directory found in ['/tmp']")

    # What asks for one depends on which modules were imported before; here it is the first step of a training.
    monkeypatch.setattr("rdd_deploy.training.supervised.make_fabric", lambda _: tempfile.gettempdir())
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_get_default_tempdir", lost)
    monkeypatch.chdir(training)
    monkeypatch.setattr(sys, "argv", ["rdd-deploy", "train", "toy.yaml", "train.epochs=1"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    said = " ".join(capsys.readouterr().err.split())
    assert (ended.value.code, said) == (
        2,
        "error: there is no temporary folder that can be written; name one in the variable TMPDIR",
    )


def test_no_home_and_no_name_of_the_user(training: Path) -> None:
    done = call("train", "toy.yaml", "train.epochs=1", "data.root=~/x", cwd=training, env={"HOME": "~"})
    assert done.returncode == 2
    assert "no home folder is known for '~'" in " ".join(errors_of(done))
