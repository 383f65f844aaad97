"""The live app on a real RTSP server (GStreamer's, from Debian) that is killed and started again."""

import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from live_app import run

from rdd_deploy.live import captures, grabber

SERVER = Path(__file__).parents[1] / "helpers" / "rtsp_server.py"
PYTHON = "/usr/bin/python3"  # the one that Debian's packages are for


@contextmanager
def served(port: int, codec: str) -> Iterator[subprocess.Popen[str]]:
    try:
        server = subprocess.Popen(
            [PYTHON, str(SERVER), str(port), codec],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={"PATH": "/usr/bin"},
        )
    except OSError:
        pytest.skip(f"no {PYTHON}")
    try:
        assert server.stdout is not None
        assert server.stderr is not None
        if server.stdout.readline() != "ready\n":
            pytest.skip(f"GStreamer's RTSP server isn't here: {server.stderr.read().strip()[-200:]}")
        yield server
    finally:
        server.kill()
        server.wait()
        for pipe in (server.stdout, server.stderr):
            if pipe is not None:
                pipe.close()


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
    return port


@pytest.mark.parametrize("codec", ["jpeg", "h264"])
def test_a_server_is_killed_and_comes_back(
    tmp_path: Path,
    bundles: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    codec: str,
) -> None:
    monkeypatch.setattr(captures, "READ_TIMEOUT_MS", 1500)
    monkeypatch.setattr(grabber, "FIRST_PAUSE_S", 0.2)
    port, done = free_port(), list[Any]()

    def play() -> None:
        try:
            done.append(
                run(
                    tmp_path,
                    bundles[0],
                    source=f"rtsp://me:secret@127.0.0.1:{port}/cam",
                    max_frames=100,
                    device="cpu",
                    threads=1,
                )
            )
        except BaseException as error:
            done.append(error)

    playing = threading.Thread(target=play)
    with served(port, codec):
        playing.start()
        time.sleep(2.5)
        assert playing.is_alive(), done
    time.sleep(1.5)  # nobody listens there
    with served(port, codec):
        playing.join(60)
    assert isinstance(done[0], dict), done
    assert done[0]["frames"] == 100
    assert done[0]["reconnects"] >= 1
    said = capsys.readouterr()
    assert "connection lost" in said.err
    assert "connected again" in said.out
    assert "secret" not in said.out + said.err
