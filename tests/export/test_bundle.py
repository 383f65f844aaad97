"""A bundle is whole or absent: kill, full disk, failure half-way."""

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import toys
from toy_bundle import toy_bundle

from rdd_deploy.errors import BundleError, DiskError
from rdd_deploy.export import bundle as bundles
from rdd_deploy.export.bundle import new_bundle
from rdd_deploy.export.onnx.graph import load_graph
from rdd_deploy.export.pipeline import Options, export_profile
from rdd_deploy.export.profile import load_profile
from rdd_deploy.export.trained_run import TrainedRun
from rdd_deploy.runtime import Segmenter


def test_replaces_the_old_one(tmp_path: Path) -> None:
    target = tmp_path / "export" / "b"
    for content in ("one", "two"):
        with new_bundle(target) as folder:
            (folder / "file").write_text(content)
            (folder / "manifest.json").write_text("{}")
    assert (target / "file").read_text() == "two"
    assert [path.name for path in target.parent.iterdir()] == ["b"]


def write(folder: Path, generation: int) -> None:
    toy_bundle(folder / "made", manifest={"provenance": {"generation": generation}})
    for file in (folder / "made").iterdir():
        file.rename(folder / file.name)
    (folder / "made").rmdir()


def test_there_is_a_whole_bundle_at_every_moment(tmp_path: Path) -> None:
    """Who looks, and who loads, while it is replaced again and again."""
    target = tmp_path / "toy"
    with new_bundle(target) as folder:
        write(folder, 0)
    ended, missing, seen = threading.Event(), [0], set[object]()

    def look() -> None:
        while not ended.is_set():
            missing[0] += not target.is_dir()

    def load() -> None:
        while not ended.is_set():
            with Segmenter.load(target, threads=1) as segmenter:
                seen.add(segmenter.manifest.provenance["generation"])

    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(look), pool.submit(load)]
        for generation in range(1, 60):
            with new_bundle(target) as folder:
                write(folder, generation)
        ended.set()
        for one in waiting:
            one.result(20)
    assert missing == [0]
    assert len(seen) > 1
    assert [path.name for path in tmp_path.iterdir()] == ["toy"]


def without_exchange(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on network mounts that lack it."""
    monkeypatch.setattr(bundles, "_EXCHANGE", 1 << 30)  # EINVAL


def test_file_systems_that_cant_exchange(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_exchange(monkeypatch)
    test_replaces_the_old_one(tmp_path)


def test_the_old_one_is_put_back_where_the_new_one_cant_be_moved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_exchange(monkeypatch)
    target, real = tmp_path / "b", Path.rename
    with new_bundle(target) as folder:
        (folder / "manifest.json").write_text("old")

    def rename(self: Path, to: Path) -> Path:
        if self.name.endswith(".part"):
            raise OSError(errno.EIO, "Input/output error")
        return real(self, to)

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(DiskError, match="Nothing was changed there"), new_bundle(target) as folder:
        (folder / "manifest.json").write_text("new")
    assert [path.name for path in tmp_path.iterdir()] == ["b"]
    assert (target / "manifest.json").read_text() == "old"


def test_leftovers_of_other_bundles_stay(tmp_path: Path) -> None:
    """int8.v2 may have lost its place to an export that was killed, and int8 is exported next."""
    dead = 2**22 + 1
    for name in (f".int8.v2.{dead}.old", f".int8.{10**20}.part", f".x[1].{dead}.part", f".int8.{os.getppid()}.part"):
        (tmp_path / name).mkdir()
    (tmp_path / f".int8.v2.{dead}.old" / "manifest.json").write_text("the only copy")
    for name in ("int8", "x[1]"):
        with new_bundle(tmp_path / name) as folder:
            (folder / "manifest.json").write_text("{}")
    left = {f".int8.v2.{dead}.old", f".int8.{os.getppid()}.part", "int8", "x[1]"}
    assert {path.name for path in tmp_path.iterdir()} == left
    with new_bundle(tmp_path / "int8.v2"):
        assert (tmp_path / "int8.v2" / "manifest.json").read_text() == "the only copy"


@pytest.mark.parametrize("exchange", [True, False])
def test_a_link_in_its_place_is_replaced_and_what_it_leads_to_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchange: bool
) -> None:
    if not exchange:
        without_exchange(monkeypatch)
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "manifest.json").write_text("mine")
    (tmp_path / "b").symlink_to("real")
    with new_bundle(tmp_path / "b") as folder:
        (folder / "manifest.json").write_text("new")
    assert (tmp_path / "b" / "manifest.json").read_text() == "new"
    assert (tmp_path / "real" / "manifest.json").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b", "real"]


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
    with (
        pytest.raises(DiskError, match=r"can't write the bundle .*: a file is in its way"),
        new_bundle(tmp_path / "file" / "bundle"),
    ):
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


def test_full_disk(source: TrainedRun, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, content: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("rdd_deploy.utils.files.write_bytes", full)
    with pytest.raises(DiskError) as caught:
        export_profile(source, load_profile("onnxruntime-fp32"), out, Options(evaluate=False))
    assert (
        str(caught.value) == f"can't write the bundle {out / 'onnxruntime-fp32'}: No space left on device; "
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


WRITER = """
import sys, time
from pathlib import Path
sys.path[:0] = sys.argv[1:2]
from toy_bundle import toy_bundle
from rdd_deploy.export.bundle import new_bundle
with new_bundle(Path(sys.argv[2])) as folder:
    toy_bundle(folder / "made", manifest={"provenance": {"generation": int(sys.argv[3])}})
    for file in (folder / "made").iterdir():
        file.rename(folder / file.name)
        print("one of two files", flush=True)
        time.sleep(60)
"""


def killed_half_way(target: Path, generation: int) -> None:
    words = [sys.executable, "-c", WRITER, str(Path(toys.__file__).parent), str(target), str(generation)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "one of two files\n"
        process.kill()


def test_kill_9_leaves_no_half_bundle(tmp_path: Path) -> None:
    target = tmp_path / "bundles" / "toy"
    killed_half_way(target, 1)
    assert not target.exists()
    assert len(list(target.parent.iterdir())) == 1
    with new_bundle(target) as folder:  # sweeps what the killed process left
        write(folder, 2)
    assert [path.name for path in target.parent.iterdir()] == ["toy"]
    killed_half_way(target, 3)
    with Segmenter.load(target, threads=1) as segmenter:
        assert segmenter.manifest.provenance["generation"] == 2


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_kill_9_of_the_command_leaves_no_half_bundle(light_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "bundles"
    process = toys.Started("export.__main__", light_run, "--onnx", "--output", out, cwd=tmp_path)
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
