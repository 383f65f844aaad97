import json
import os
import signal
import stat
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from rdd_deploy.errors import DiskError
from rdd_deploy.live import recorder
from rdd_deploy.utils import files


def test_a_write_replaces_the_old_file_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "file.txt"
    files.write_text(path, "one")
    files.write_text(path, "two ✓")
    assert path.read_text(encoding="utf-8") == "two ✓"
    assert [p.name for p in path.parent.iterdir()] == ["file.txt"]


def test_a_failing_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError, match="half-way"), files.replacing(path) as part:  # noqa: PT012
        part.write_text("ne")
        raise RuntimeError("half-way")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["file.txt"]


def test_a_killed_write_leaves_the_old_file_and_the_next_run_tidies_up(tmp_path: Path) -> None:
    path = tmp_path / "file.bin"
    path.write_text("old")
    program = (
        "import sys, time; from pathlib import Path; from rdd_deploy.utils.files import replacing\nwith"
        " replacing(Path(sys.argv[1])) as part:\n part.write_text('ne'); print('writing', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "writing\n"
        files.remove_parts(tmp_path)
        assert len(list(tmp_path.iterdir())) == 2, "the part of a process that still writes was removed"
        process.send_signal(signal.SIGKILL)
    assert path.read_text() == "old"
    files.remove_parts(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["file.bin"]


def test_files_of_one_result_are_replaced_together_or_not_at_all(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    files.write_together({first: b"old", second: b"old"})
    (tmp_path / "taken").mkdir()
    with pytest.raises(DiskError, match=r"can't write .*taken"):
        files.write_together({first: b"new", second: b"new", tmp_path / "taken": b"new"})
    assert (first.read_bytes(), second.read_bytes()) == (b"old", b"old")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["first", "second", "taken"]


def test_links_and_devices_stay_what_they_are(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("old")
    (tmp_path / "link").symlink_to("target")
    files.write_text(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_text() == "new"
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    files.write_text(tmp_path / "pipe", "through")
    assert os.read(reader, 100) == b"through"
    os.close(reader)
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["link", "pipe", "target"]


def test_a_pipe_that_nobody_reads_and_a_link_to_itself_are_errors(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(DiskError, match="nobody reads from it"):
        files.write_text(tmp_path / "pipe", "lost")
    for refuse in (lambda path: files.write_text(path, "lost"), files.check_file):
        with pytest.raises(DiskError, match="leads to itself"):
            refuse(tmp_path / "loop")
    assert (tmp_path / "loop").is_symlink()
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


def test_any_name_can_be_written_down(tmp_path: Path) -> None:
    name = os.fsdecode(b"b\xff")
    files.write_json(tmp_path / "file.json", {"name": name})
    assert json.loads((tmp_path / "file.json").read_text()) == {"name": name}


def on_a_full_disk(statement: str, path: Path) -> str:
    """What the DiskError of a statement says in a process that can't write files of more than 1000 bytes."""
    program = (
        "import resource, signal, sys; from pathlib import Path; from rdd_deploy import errors; from rdd_deploy.utils"
        " import files\nsignal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE,"
        f" (1000, 1000))\ntry: {statement}\nexcept errors.DiskError as error: print(error)"
    )
    return subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True).stdout


def test_a_full_disk_is_a_disk_error_and_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file.bin"
    path.write_text("old")
    said = on_a_full_disk("files.write_bytes(Path(sys.argv[1]), bytes(5000))", path)
    assert (
        said
        == f"can't write {path}: File too large; free some space or choose another folder. Nothing was changed there\n"
    )
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["file.bin"]


def test_a_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("mine")
    with pytest.raises(DiskError, match=r"can't write .*taken/file.txt"):
        files.write_text(tmp_path / "taken" / "file.txt", "text")
    with pytest.raises(DiskError, match=r"can't write .*taken/deep/file.txt"):
        files.write_text(tmp_path / "taken" / "deep" / "file.txt", "text")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission(tmp_path: Path) -> None:
    tmp_path.chmod(stat.S_IREAD | stat.S_IEXEC)
    with pytest.raises(DiskError, match="Permission denied"):
        files.write_text(tmp_path / "file.txt", "text")
    tmp_path.chmod(stat.S_IRWXU)


def test_reading_takes_as_much_memory_as_the_file_has(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"abc")
    tracemalloc.start()
    try:
        assert files.read_file(path, 2**31) == b"abc"
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()
    assert files.read_file(path, 3) == b"abc"
    with pytest.raises(OSError, match="it is larger than"):
        files.read_file(path, 2)
    if Path("/proc/self/status").exists():  # its size is 0
        assert b"Name:" in files.read_file(Path("/proc/self/status"), 2**20)


def test_json_is_json(tmp_path: Path) -> None:
    files.write_json(tmp_path / "a.json", {"ä": [1, None]})
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == '{\n  "ä": [\n    1,\n    null\n  ]\n}\n'
    with pytest.raises(ValueError, match="JSON compliant"):
        files.write_json(tmp_path / "b.json", float("nan"))
    assert not (tmp_path / "b.json").exists()


def test_sha256(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert files.sha256(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_what_is_no_file_has_no_hash(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for place in (tmp_path, tmp_path / "pipe", Path("/dev/null")):
        with pytest.raises(OSError, match="not a file"):
            files.sha256(place)


def test_parts_of_running_processes_stay(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "inside").write_text("x")
    stay = {
        f".a.{os.getpid()}.part",
        ".c.part",
        "d.part",
        ".e.x-1.part",
        files.temporary_beside(tmp_path / "f.mp4", ".mp4").name,
    }
    for name in (*stay, ".b.4194303.part", ".b.4194303-0123456789abcdef.part", ".film.4194303-0123.part.mp4"):
        (tmp_path / name).write_text("x")
    for name in (".g.4194303.part", ".g.4194303-ab.part"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "inside").write_text("x")
    (tmp_path / ".h.4194303-ab.part").symlink_to("mine")
    files.remove_parts(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == stay | {"mine"}
    assert (tmp_path / "mine" / "inside").is_file()
    files.remove_parts(tmp_path / "nowhere")


@pytest.mark.parametrize("sweep", [files.remove_parts, recorder.remove_parts])
def test_a_part_of_a_process_that_cant_be_is_swept(sweep: Callable[[Path], None], tmp_path: Path) -> None:
    for number in (2**31, 2**64, 10**80):
        (tmp_path / f".a.{number}.part.mp4").touch()
    sweep(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_nobody_can_guess_a_temporary_name(tmp_path: Path) -> None:
    names = {files.temporary_beside(tmp_path / "a.json") for _ in range(100)}
    assert len(names) == 100
    assert all(name.parent == tmp_path and f".{os.getpid()}-" in name.name for name in names)
    long = files.temporary_beside(tmp_path / ("ö" * 127))
    long.touch()  # as long as a name may be, and still there is place for the rest
    files.write_text(tmp_path / ("ö" * 127), "x")


def test_a_planted_link_is_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even by somebody who could guess the name."""
    (tmp_path / "mine").write_text("precious")
    (tmp_path / "shared").mkdir()
    planted = tmp_path / "shared" / "planted"
    monkeypatch.setattr(files, "temporary_beside", lambda path, suffix="": planted)
    planted.symlink_to(tmp_path / "mine")
    with pytest.raises(DiskError, match="File exists"):
        files.write_text(tmp_path / "shared" / "a.json", "x")
    assert (tmp_path / "mine").read_text() == "precious"


def test_a_file_that_another_one_was_put_in_place_of_is_no_result(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("precious")
    with (  # noqa: PT012
        pytest.raises(DiskError, match="put another file in its place"),
        files.replacing(tmp_path / "a.json") as part,
    ):
        part.unlink()
        part.symlink_to(tmp_path / "mine")
    assert [p.name for p in tmp_path.iterdir()] == ["mine"]
    assert (tmp_path / "mine").read_text() == "precious"


def test_what_names_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for path in (Path(""), Path("/")):
        with pytest.raises(DiskError, match="give the file's name as well"):
            files.write_text(path, "x")
        with pytest.raises(DiskError, match="give the file's name as well"):
            files.check_file(path)
    with pytest.raises(DiskError, match="it is a folder"):
        files.check_file(tmp_path)
    with pytest.raises(DiskError, match="can't write /dev/full: No space left on device"):
        files.write_text(Path("/dev/full"), "x")
    files.check_file(None)
    files.check_file(Path("/dev/null"))


def test_whether_something_can_be_written_is_known_before(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    (tmp_path / "link").symlink_to("nowhere/yet")
    for path in (tmp_path, tmp_path / "file", tmp_path / "new" / "folder", tmp_path / "link"):
        files.check_writable(path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "link"]
    for path in (tmp_path / "file" / "below", Path("/proc/none/such")):
        with pytest.raises(DiskError, match="can't write "):
            files.check_writable(path)
    said = on_a_full_disk("files.check_writable(Path(sys.argv[1]) / 'runs')", tmp_path)
    assert said.startswith(f"can't write {tmp_path}/runs: File too large; free some space or choose another folder")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "link"]
