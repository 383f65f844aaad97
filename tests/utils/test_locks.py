"""One process trains in a run folder, whatever becomes of the others."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from toys import Started, call, errors_of, leftovers, tree, write_data, write_recipe

from rdd_deploy.errors import DiskError, RddError
from rdd_deploy.utils import locks
from rdd_deploy.utils.locks import check_unlocked, locked


def test_a_second_one_is_refused_until_the_first_ends(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "a"
    check_unlocked(run)
    assert not run.parent.exists(), "looking leaves nothing behind"
    sentence = (
        rf"^process {os.getpid()} is training in .*/runs/a; wait until it ends, or train under another name with"
        r" --name$"
    )
    with locked(run), locked(run.with_name("b")):
        run.mkdir()
        run.rename(run.with_name("a.1"))  # moved aside, it is still locked
        for second in (check_unlocked, lambda folder: locked(folder).__enter__()):
            with pytest.raises(RddError, match=sentence):
                second(run)
        check_unlocked(run.with_name("c"))
    check_unlocked(run)
    with pytest.raises(KeyError), locked(run):
        raise KeyError
    with locked(run):
        pass
    assert leftovers(tmp_path) == []


def test_only_the_first_of_several_that_train_together_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with locked(tmp_path / "a"):
        monkeypatch.setenv("LOCAL_RANK", "1")
        with locked(tmp_path / "a"):
            pass
        monkeypatch.delenv("LOCAL_RANK")
        with pytest.raises(RddError, match="is training in"):
            check_unlocked(tmp_path / "a")


def test_a_forked_worker_does_not_keep_its_parents_lock(tmp_path: Path) -> None:
    """Killed with SIGKILL, a process leaves its loader's workers alive for some seconds."""
    ready, tell = os.pipe()
    parent = os.fork()
    if not parent:
        with locked(tmp_path / "a"):
            worker = os.fork()
            if worker:
                os.write(tell, b"%d" % worker)
            signal.pause()
        os._exit(0)
    worker = int(os.read(ready, 20))
    try:
        with pytest.raises(RddError, match=f"^process {parent} is training in"):
            check_unlocked(tmp_path / "a")
        os.kill(parent, signal.SIGKILL)
        os.waitpid(parent, 0)
        os.kill(worker, 0)
        with locked(tmp_path / "a"):
            pass
    finally:
        os.kill(worker, signal.SIGKILL)


def test_where_nothing_can_be_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(
        DiskError, match=r"^can't write .*/file/\.a\.lock: File exists; free some space or choose another folder"
    ):
        locked(tmp_path / "file" / "a").__enter__()
    monkeypatch.setattr(locks, "fcntl", None)
    with locked(tmp_path / "a"), locked(tmp_path / "a"):
        check_unlocked(tmp_path / "a")


def test_a_second_command_leaves_the_first_alone(tmp_path: Path) -> None:
    """While it trains, and after it was killed."""
    write_data(tmp_path / "data")
    content = tree(tmp_path / "data")
    content["train"] |= {"epochs": 10_000}
    write_recipe(tmp_path / "student.yaml", content)
    first = Started("train", "student.yaml", cwd=tmp_path)
    run = tmp_path / "runs" / "student_alone"
    try:
        while not (run / "state.ckpt").is_file():
            assert first.running, first.stderr
            time.sleep(0.02)
        for words in ([], ["--resume"], ["--dry-run"]):
            done = call("train", "student.yaml", *words, cwd=tmp_path)
            (line,) = errors_of(done)
            assert done.returncode == 2
            assert line.startswith("error: process ")
            assert line.endswith(
                " is training in runs/student_alone; wait until it ends, or train under another name with --name"
            )
        assert first.running
        assert [path.name for path in run.parent.iterdir() if not path.name.startswith(".")] == ["student_alone"]
    finally:
        first.signal(signal.SIGKILL)
        first.wait()
    again = Started("train", "student.yaml", "--resume", cwd=tmp_path)
    rows = (run / "metrics.csv").read_text()
    while (run / "metrics.csv").read_text() == rows:
        assert again.running, again.stderr
        time.sleep(0.02)
    again.signal(signal.SIGTERM)
    assert again.wait().returncode == 143
    assert leftovers(run.parent) == []
