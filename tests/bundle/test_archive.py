"""A bundle's .tar: the same bytes for the same bundle; one of a stranger is unpacked inside its folder, whole, or not
at all.
"""

import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import toys
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_bundle import toy_bundle

from rdd_deploy.bundle import archive as archives
from rdd_deploy.bundle.archive import opened, pack
from rdd_deploy.errors import BundleError, DiskError, RddError
from rdd_deploy.export.bundle import new_bundle
from rdd_deploy.runtime import Segmenter, read_manifest

Member = tuple[tarfile.TarInfo, bytes]


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    folder = toy_bundle(tmp_path / "toy", manifest={"name": "run/onnxruntime-fp32"})
    (folder / "sub").mkdir()
    (folder / "sub" / "ä weights.bin").write_bytes(b"w" * 1000)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["sub/ä weights.bin"] = hashlib.sha256(b"w" * 1000).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def unpack(tar: Path, target: Path) -> None:
    with opened(tar) as archive, new_bundle(target) as part:
        archive.unpack(part)


def test_there_and_back(bundle: Path, tmp_path: Path) -> None:
    (bundle / ".DS_Store").write_bytes(b"litter")
    packed = pack(bundle, tmp_path / "a.tar")
    (bundle / ".DS_Store").unlink()
    assert packed.sha256 == hashlib.sha256((tmp_path / "a.tar").read_bytes()).hexdigest()
    unpack(tmp_path / "a.tar", tmp_path / "back")
    assert contents(tmp_path / "back") == contents(bundle)
    Segmenter.load(tmp_path / "back").close()


def test_the_same_bundle_gives_the_same_bytes(bundle: Path, tmp_path: Path) -> None:
    first = pack(bundle, tmp_path / "a.tar")
    copy = Path(shutil.copytree(bundle, tmp_path / "elsewhere"))
    for path in copy.rglob("*"):
        os.utime(path, (1, 1))
        path.chmod(0o700)
    assert pack(copy, tmp_path / "b.tar") == first
    with tarfile.open(tmp_path / "a.tar") as tar:
        assert [one.name for one in tar] == sorted(one.name for one in tar)
        assert {(one.mtime, one.uid, one.gid, one.uname, one.gname, one.mode) for one in tar} == {
            (0, 0, 0, "", "", 0o644)
        }
        assert {one.name.split("/")[0] for one in tar} == {"run-onnxruntime-fp32"}


@pytest.mark.skipif(shutil.which("tar") is None, reason="no tar here")
def test_tars_own_archives_are_taken_and_ours_are_tars(bundle: Path, tmp_path: Path) -> None:
    pack(bundle, tmp_path / "a.tar")
    subprocess.run(["tar", "xf", tmp_path / "a.tar", "-C", tmp_path], check=True)
    assert contents(tmp_path / "run-onnxruntime-fp32") == contents(bundle)
    for number, words in enumerate(
        (["-C", bundle, "."], ["-C", bundle.parent, "toy"], ["--format=gnu", "-C", bundle.parent, "toy"])
    ):
        subprocess.run(["tar", "cf", tmp_path / f"{number}.tar", *words], check=True)
        unpack(tmp_path / f"{number}.tar", tmp_path / f"back{number}")
        assert contents(tmp_path / f"back{number}") == contents(bundle)


def member(name: str, content: bytes = b"", **fields: Any) -> Member:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for key, value in fields.items():
        setattr(info, key, value)
    return info, content


def written(path: Path, members: list[Member], form: int = tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(path, "w", format=form) as tar:
        for info, content in members:
            tar.addfile(info, io.BytesIO(content) if content else None)
    return path


def good(bundle: Path) -> list[Member]:
    return [member(f"toy/{name}", content) for name, content in sorted(contents(bundle).items())]


def link(name: str, to: str, kind: bytes = tarfile.SYMTYPE) -> Member:
    return member(name, type=kind, linkname=to)


TAMPERED: dict[str, tuple[Callable[[list[Member]], list[Member]], str]] = {
    "absolute": (lambda all_: [*all_, member("/tmp/evil", b"x")], "holds '/tmp/evil', a name that leads out of its folder"),
    "up": (lambda all_: [*all_, member("toy/../../evil", b"x")], "a name that leads out of its folder"),
    "up first": (lambda all_: [member("../evil", b"x"), *all_], "a name that leads out of its folder"),
    "windows": (lambda all_: [*all_, member("C:\\evil", b"x")], "a name that leads out of its folder"),
    "NUL": (lambda all_: [*all_, member("toy/a", b"x", pax_headers={"path": "toy/a\0b"})], "a name that leads out of its folder"),
    "symlink": (lambda all_: [*all_, link("toy/evil", "/etc")], "holds 'toy/evil', which is a link to '/etc', expected regular files only"),
    "link of a named file": (lambda all_: [link(all_[1][0].name, "/etc/passwd"), all_[0], *all_[2:]], "which is a link to '/etc/passwd'"),
    "link as a folder": (lambda all_: [link("toy/sub", "/tmp"), *all_], "which is a link to '/tmp'"),
    "link as the top": (lambda all_: [link("toy", "/tmp"), *all_], "which is a link to '/tmp'"),
    "hard link": (lambda all_: [*all_, link("toy/evil", "toy/model.onnx", tarfile.LNKTYPE)], "which is a link to 'toy/model.onnx'"),
    "device": (lambda all_: [*all_, member("toy/null", type=tarfile.CHRTYPE, devmajor=1, devminor=3)], "which is a pipe or device"),
    "block device": (lambda all_: [*all_, member("toy/sda", type=tarfile.BLKTYPE)], "which is a pipe or device"),
    "pipe": (lambda all_: [*all_, member("toy/pipe", type=tarfile.FIFOTYPE)], "which is a pipe or device"),
    "unknown kind": (lambda all_: [*all_, member("toy/x", type=b"Q")], "which is of an unknown kind"),
    "sparse": (lambda all_: [*all_, member("toy/x", type=tarfile.GNUTYPE_SPARSE)], "which is a file with holes"),
    "pax sparse": (
        lambda all_: [*all_, member("toy/x", b"x", pax_headers={"GNU.sparse.map": "0,1", "GNU.sparse.size": str(1 << 40), "GNU.sparse.numblocks": "1"})],
        "which is a file with holes",
    ),
    "twice": (lambda all_: [*all_, all_[0]], "holds 'toy/manifest.json' twice"),
    "twice, written otherwise": (lambda all_: [*all_, member("toy/./model.onnx", b"x")], "holds 'toy/model.onnx' twice"),
    "extra": (lambda all_: [*all_, member("toy/notes.txt", b"x")], "holds 'notes.txt', which isn't named by its manifest.json"),
    "hidden extra": (lambda all_: [*all_, member("toy/.bashrc", b"x")], "holds '.bashrc', which isn't named by its manifest.json"),
    "extra folder": (lambda all_: [*all_, member("toy/empty", type=tarfile.DIRTYPE)], "holds the empty folder 'toy/empty'"),
    "beside": (lambda all_: [*all_, member("other/x", b"x")], "holds no manifest.json at its top or in its one folder"),
    "missing": (lambda all_: [one for one in all_ if "model" not in one[0].name], "has no 'model.onnx', which its manifest.json names"),
    "no manifest": (lambda all_: all_[1:], "holds no manifest.json"),
    "nothing": (lambda all_: [], "holds no manifest.json"),
    "many": (lambda all_: [*all_, *(member(f"toy/{n}") for n in range(300))], "holds more than 250 files"),
    "long header": (lambda all_: [*all_, member("toy/x", pax_headers={"comment": "9" * 100_000})], "says more about its files, beside their content"),
    "many headers": (
        lambda all_: [*all_, *(member("toy/empty", type=tarfile.DIRTYPE) for _ in range(3000))], "says more about its files, beside their content",
    ),
    "large manifest": (lambda all_: [member("toy/manifest.json", b" " * (5 << 20)), *all_[1:]], "holds a manifest.json of 5242880 bytes, expected at"),
}  # fmt: skip


@pytest.mark.parametrize("case", TAMPERED)
def test_tampered_archives_are_one_sentence_and_leave_nothing(bundle: Path, tmp_path: Path, case: str) -> None:
    change, sentence = TAMPERED[case]
    tar = written(tmp_path / "bad.tar", change(good(bundle)))
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(BundleError) as caught:
        unpack(tar, tmp_path / "out")
    assert f"{tar} {sentence}" in str(caught.value) or (
        sentence in str(caught.value) and str(caught.value).startswith(f"{tar} ")
    )
    assert "\n" not in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_changed_content_is_told_by_its_hash_before_the_folder_is_there(bundle: Path, tmp_path: Path) -> None:
    members = [
        member(info.name, content[::-1] if info.name.endswith(".onnx") else content) for info, content in good(bundle)
    ]
    with pytest.raises(
        BundleError, match=r"model\.onnx in .*bad\.tar isn't the file that was exported: its SHA-256 is "
    ):
        unpack(written(tmp_path / "bad.tar", members), tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.tar", "toy"]


def sized(bundle: Path, path: Path, size: int) -> Path:
    """An archive whose first header says another size."""
    written(path, good(bundle), tarfile.GNU_FORMAT)
    content = bytearray(path.read_bytes())
    info = tarfile.TarInfo.frombuf(bytes(content[:512]), "utf-8", "strict")
    info.size = size
    content[:512] = info.tobuf(tarfile.GNU_FORMAT)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("size", "sentence"),
    [
        (1 << 50, "of 1125899906842624 bytes, expected at most 2 GiB"), (1 << 70, "expected at most 2 GiB"),
        ((2 << 30) - 1, "is cut off: 'toy/manifest.json' should have 2147483647 bytes"), (-1 << 20, ""), (-512, ""), (700, ""),
    ],
)  # fmt: skip
def test_sizes_that_lie(bundle: Path, tmp_path: Path, size: int, sentence: str) -> None:
    began = time.process_time()
    with pytest.raises(BundleError) as caught:
        unpack(sized(bundle, tmp_path / "bad.tar", size), tmp_path / "out")
    assert sentence in str(caught.value)
    assert time.process_time() - began < 2
    assert not (tmp_path / "out").exists()


def test_a_name_that_isnt_utf8(bundle: Path, tmp_path: Path) -> None:
    tar = written(tmp_path / "bad.tar", [*good(bundle), member("toy/\udcff", b"x")], tarfile.GNU_FORMAT)
    with pytest.raises(BundleError, match="holds a file whose name isn't UTF-8"):
        unpack(tar, tmp_path / "out")


def test_wherever_it_is_cut_off(bundle: Path, tmp_path: Path) -> None:
    content = pack(bundle, tmp_path / "a.tar") and (tmp_path / "a.tar").read_bytes()
    whole = len(content.rstrip(b"\0"))
    for length in {0, 1, 511, 512, 513, 1024, *range(0, whole + 512, 397)}:
        (tmp_path / "cut.tar").write_bytes(content[:length])
        with pytest.raises(BundleError) as caught:
            unpack(tmp_path / "cut.tar", tmp_path / "out")
        assert str(caught.value).startswith(f"{tmp_path / 'cut.tar'} ")
        assert not (tmp_path / "out").exists()


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_any_damage_is_a_sentence_or_harmless(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    bundle = toy_bundle(folder / "toy")
    pack(bundle, folder / "a.tar")
    content = bytearray((folder / "a.tar").read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.sampled_from([0, 512, 1024, 1536, 2048, 2560])) + data.draw(st.integers(0, 511))
        content[at] = data.draw(st.integers(0, 255))
    (folder / "a.tar").write_bytes(content)
    problem = None
    try:
        unpack(folder / "a.tar", folder / "out")
    except RddError as error:
        problem = str(error)
    assert problem is None or "\n" not in problem
    assert (folder / "out").exists() == (problem is None)
    assert problem is not None or read_manifest(folder / "out").files == read_manifest(bundle).files
    assert {path.name for path in folder.iterdir()} <= {"toy", "a.tar", "out"}


@pytest.mark.parametrize(
    "content", [b"", b"no tar", b"\x1f\x8b" + bytes(2000), b"\0" * 10240, b"PK\x03\x04" + bytes(600)]
)
def test_what_is_no_tar(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.tar").write_bytes(content)
    with (
        pytest.raises(BundleError, match=r"a\.tar (isn't a whole, uncompressed tar|holds no manifest|is cut off)"),
        opened(tmp_path / "a.tar"),
    ):
        pass


def test_what_is_no_file_isnt_waited_for(bundle: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.tar")
    for path, sentence in {
        tmp_path / "pipe.tar": "expected a file",
        bundle: "needs no unpacking",
        tmp_path / "none": "No such file",
    }.items():
        with pytest.raises(BundleError, match=sentence), opened(path):
            pass


def test_larger_than_any_bundle(tmp_path: Path) -> None:
    with (tmp_path / "huge.tar").open("wb") as file:
        file.truncate((4 << 30) + 1)
    with pytest.raises(BundleError, match="has 4294967297 bytes, expected a bundle's"), opened(tmp_path / "huge.tar"):
        pass


def test_what_a_killed_pack_left_is_removed_by_the_next(bundle: Path, tmp_path: Path) -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    left, running, other = (
        tmp_path / f".{name}.{process}-0123456789abcdef.part"
        for name, process in (("[a].tar", ended.pid), ("[a].tar", os.getpid()), ("mine.tar", ended.pid))
    )
    for one in (left, running, other):
        one.write_bytes(b"half")
    pack(bundle, tmp_path / "[a].tar")
    assert not left.exists()
    assert running.exists()
    assert other.exists()


def test_a_broken_bundle_isnt_packed(bundle: Path, tmp_path: Path) -> None:
    (bundle / "model.onnx").write_bytes(b"other")
    with pytest.raises(BundleError, match=r"model\.onnx isn't the file that was exported"):
        pack(bundle, tmp_path / "a.tar")
    assert not list(tmp_path.glob("*a.tar*"))


def test_a_full_disk(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pack(bundle, tmp_path / "a.tar")
    real = Path.open

    def full(self: Path, mode: str = "r", *more: Any) -> Any:
        if mode == "xb":
            raise OSError(28, "No space left on device")
        return real(self, mode, *more)

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(DiskError, match="No space left on device"):
        unpack(tmp_path / "a.tar", tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tar", "toy"]


SLOW = """
import sys, time
from pathlib import Path
from rdd_deploy.bundle import archive
archive.BLOCK = 64
from rdd_deploy.bundle.archive import opened
from rdd_deploy.export.bundle import new_bundle
def tell(count):
    print("a block", flush=True)
    time.sleep(60)
with opened(Path(sys.argv[1])) as checked, new_bundle(Path(sys.argv[2])) as part:
    checked.unpack(part, tell)
"""


def test_kill_9_leaves_nothing_and_the_next_one_sweeps(bundle: Path, tmp_path: Path) -> None:
    pack(bundle, tmp_path / "a.tar")
    with subprocess.Popen(
        [sys.executable, "-c", SLOW, tmp_path / "a.tar", tmp_path / "out"], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "a block\n"
        process.send_signal(signal.SIGKILL)
    assert not (tmp_path / "out").exists()
    assert toys.leftovers(tmp_path)
    unpack(tmp_path / "a.tar", tmp_path / "out")
    assert contents(tmp_path / "out") == contents(bundle)
    assert toys.leftovers(tmp_path) == []


def test_limits_hold_for_what_is_packed(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MOST_FILES", 2)
    with pytest.raises(BundleError, match=r"has 3 files of .* bytes, expected at most 2"):
        pack(bundle, tmp_path / "a.tar")
