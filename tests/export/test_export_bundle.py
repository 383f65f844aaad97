"""A bundle is whole or absent: kill, full disk, failure half-way."""

import errno
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
import toys

from rdd_deploy.errors import BundleError, DiskError
from rdd_deploy.export import bundle as bundles
from rdd_deploy.export.build import Options, export_profile
from rdd_deploy.export.bundle import new_bundle
from rdd_deploy.export.graph import load_graph
from rdd_deploy.export.profile import load_profile
from rdd_deploy.export.source import Source


def test_replaces_the_old_one(tmp_path: Path) -> None:
    target = tmp_path / "export" / "b"
    for content in ("one", "two"):
        with new_bundle(target) as folder:
            (folder / "file").write_text(content)
            (folder / "manifest.json").write_text("{}")
    assert (target / "file").read_text() == "two"
    assert [path.name for path in target.parent.iterdir()] == ["b"]


def test_a_folder_of_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with (
        pytest.raises(DiskError, match=r"mine holds other files and no manifest\.json; it isn't overwritten"),
        new_bundle(tmp_path / "mine"),
    ):
        pass
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"
    (tmp_path / "file").write_text("")
    with pytest.raises(DiskError, match=r"can't write the bundle .*: a file is in its way"), new_bundle(tmp_path / "file" / "bundle"):
        pass


def test_failure_keeps_the_old_one(tmp_path: Path) -> None:
    target = tmp_path / "b"
    with new_bundle(target) as folder:
        (folder / "file").write_text("old")
        (folder / "manifest.json").write_text("{}")

    def fail() -> None:
        with new_bundle(target) as folder:
            (folder / "file").write_text("half")
            raise BundleError("the model is broken")

    with pytest.raises(BundleError, match="the model is broken"):
        fail()
    assert (target / "file").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_full_disk(source: Source, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, content: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("rdd_deploy.files.write_bytes", full)
    with pytest.raises(DiskError) as caught:
        export_profile(source, load_profile("onnxruntime-fp32"), out, Options(evaluate=False))
    assert str(caught.value) == (
        f"can't write the bundle {out / 'onnxruntime-fp32'}: No space left on device; "
        "free some space or choose another folder with --output. Nothing was changed there"
    )
    assert list(out.iterdir()) == []


def test_leftovers_of_dead_exports_are_swept(tmp_path: Path) -> None:
    dead = subprocess.Popen(["true"])
    dead.wait()
    part, old = tmp_path / f".b.{dead.pid}.part", tmp_path / f".b.{dead.pid}.old"
    part.mkdir()
    old.mkdir()
    (old / "file").write_text("old")
    foreign = tmp_path / f".b.{os.getpid()}0.other"
    foreign.mkdir()
    with pytest.raises(BundleError), new_bundle(tmp_path / "b"):
        raise BundleError("no")
    assert not part.exists()
    assert (tmp_path / "b" / "file").read_text() == "old"  # killed between the two renames: the old one is back
    assert foreign.exists()


def test_alive_processes_are_left_alone(tmp_path: Path) -> None:
    mine = tmp_path / f".b.{os.getppid()}.part"
    mine.mkdir()
    bundles._sweep(tmp_path / "b")
    assert mine.exists()


@pytest.mark.timeout(600)
def test_kill_9_leaves_no_half_bundle(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "bundles"
    process = toys.Started("export.__main__", run, "--onnx", "--output", out, cwd=tmp_path)
    deadline = time.monotonic() + 500
    while not list(out.glob(".onnxruntime-fp32.*.part")) and process.running and time.monotonic() < deadline:
        time.sleep(0.002)
    assert process.running, "it was over before it could be killed"
    process.signal(signal.SIGKILL)
    process.wait()
    assert not (out / "onnxruntime-fp32").exists()
    with new_bundle(out / "onnxruntime-fp32") as folder:
        (folder / "file").write_text("next")
    assert [path.name for path in out.iterdir()] == ["onnxruntime-fp32"]


def test_corrupt_graph(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"no graph")
    with pytest.raises(BundleError, match="isn't a valid ONNX graph: "):
        load_graph(path)
    with pytest.raises(BundleError, match=r"can't read .*none\.onnx: No such file or directory"):
        load_graph(tmp_path / "none.onnx")
