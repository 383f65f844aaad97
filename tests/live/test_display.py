"""A display is one that takes this process, not one that merely answers: Qt would end the process at any other."""

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rdd_deploy.errors import DeviceError
from rdd_deploy.live import x_server

KEY = bytes(range(16))


def field(content: bytes) -> bytes:
    return struct.pack(">H", len(content)) + content


def entry(number: bytes, key: bytes, method: bytes = b"MIT-MAGIC-COOKIE-1") -> bytes:
    return struct.pack(">H", 256) + field(b"host") + field(number) + field(method) + field(key)


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[[Callable[[bytes], bytes]], None]]:
    """Answer what a client says first, as display 7 of this machine."""
    server = socket.create_server(("127.0.0.1", 0))
    monkeypatch.setattr(x_server, "FIRST_PORT", server.getsockname()[1] - 7)
    monkeypatch.setattr(x_server, "_ANSWER_S", 0.3)
    monkeypatch.setenv("DISPLAY", "127.0.0.1:7")
    monkeypatch.setenv("XAUTHORITY", str(tmp_path / "keys"))

    def start(answer: Callable[[bytes], bytes]) -> None:
        def work() -> None:
            while True:
                try:
                    client, _ = server.accept()
                except OSError:
                    return
                with client:
                    client.sendall(answer(client.recv(1000)))

        threading.Thread(target=work, daemon=True).start()

    yield start
    server.close()


def test_a_server_that_takes_anybody(serve: Callable[..., None]) -> None:
    serve(lambda said: b"\1" if said[:4] == b"l\0\x0b\0" else b"")
    x_server.check_display()


def test_a_server_that_wants_a_key(serve: Callable[..., None], tmp_path: Path) -> None:
    serve(lambda said: b"\1" if KEY in said else b"\0")
    for keys in (
        None,
        b"",
        entry(b"8", KEY),
        entry(b"7", KEY, b"OTHER"),
        entry(b"7", bytes(16)),
        entry(b"7", KEY)[:-3][:20],
    ):
        if keys is not None:
            (tmp_path / "keys").write_bytes(keys)
        with pytest.raises(DeviceError, match=r"the X server at DISPLAY=\S+ refuses this process"):
            x_server.check_display()
    (tmp_path / "keys").write_bytes(entry(b"8", bytes(16)) + entry(b"7", bytes(16)) + entry(b"", KEY))
    x_server.check_display()


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 400 Bad Request", b"\3"])
def test_what_is_no_x_server(serve: Callable[..., None], answer: bytes) -> None:
    serve(lambda said: answer)
    with pytest.raises(DeviceError, match="no X server answers"):
        x_server.check_display()
