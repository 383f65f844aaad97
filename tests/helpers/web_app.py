"""Runs the live app with a web view in a thread of its own, and watches it, for tests of it."""

from __future__ import annotations

import http.client
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rdd_deploy.live import app
from rdd_deploy.live.options import LiveOptions
from rdd_deploy.live.types import CapturedFrame


class Fields:
    """A camera that never ends, 12.5 frames a second: blue, green and red fields; a white square moves over them."""

    live, fps, title = True, 12.5, "fields <b>&"

    def __init__(self) -> None:
        self._index, self._due = 0, time.perf_counter()

    def open(self) -> None:
        pass

    def read(self) -> CapturedFrame:
        self._due += 0.08
        time.sleep(max(0.0, self._due - time.perf_counter()))
        frame = np.zeros((240, 320, 3), np.uint8)
        for channel in range(3):
            frame[:, channel * 107 : (channel + 1) * 107, channel] = 220
        x = 4 * self._index % 300
        frame[100:120, x : x + 20] = 255
        self._index += 1
        return CapturedFrame(frame, self._index, f"{self._index:06d}", time.perf_counter(), 0.1)

    def close(self) -> None:
        pass


class Running:
    """An app that serves; ``views`` are the web views that it made."""

    def __init__(self, view: Any, source: str) -> None:
        self.view, self.source = view, source
        self.place = view._place
        self.port: int = self.place.port
        self.link: str = self.place.link

    def raw(self, content: bytes, timeout: float = 20) -> bytes:
        """What comes back to these bytes until the connection is closed."""
        with socket.create_connection(("127.0.0.1", self.port), timeout) as connection:
            connection.sendall(content)
            got = b""
            while more := connection.recv(1 << 16):
                got += more
            return got

    def ask(
        self, path: str, body: Any = None, method: str = "", **headers: str
    ) -> tuple[int, Any, http.client.HTTPMessage]:
        """Status, body and headers; a body is sent as JSON. Keywords are header names with ``_`` for ``-``."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        content = body if isinstance(body, (bytes, str)) or body is None else json.dumps(body)
        if content is not None:
            sent = {"Content-Type": "application/json"} | sent
        connection.request(method or ("GET" if body is None else "POST"), path, content, sent)
        answer = connection.getresponse()
        data = answer.read()
        connection.close()
        told = json.loads(data) if data and answer.headers.get_content_type() == "application/json" else data
        return answer.status, told, answer.headers

    def state(self) -> dict[str, Any]:
        status, told, _ = self.ask("/api/status")
        assert status == 200
        return dict(told)

    def until(self, condition: Callable[[dict[str, Any]], object], seconds: float = 30) -> dict[str, Any]:
        end = time.monotonic() + seconds
        while not condition(state := self.state()):
            assert time.monotonic() < end, f"waited in vain: {state}"
            time.sleep(0.05)
        return state


class Viewer:
    """A plain socket that watches the stream."""

    def __init__(self, port: int, path: str = "/stream") -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), 20)
        self.socket.sendall(b"GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n" % path.encode())
        self.got = b""

    def frames(self, count: int) -> list[bytes]:
        """The next JPEGs."""
        found: list[bytes] = []
        while len(found) < count:
            found += self._take()
            if len(found) < count:
                more = self.socket.recv(1 << 16)
                assert more, f"the stream ended: {self.got[-200:]!r}"
                self.got += more
        return found[:count]

    def _take(self) -> list[bytes]:
        found = []
        # A part is never cut by the transfer's chunks.
        while match := re.search(rb"image/jpeg\r\nContent-Length: (\d+)\r\n\r\n", self.got):
            if len(self.got) < match.end() + int(match[1]):
                break
            found.append(self.got[match.end() : match.end() + int(match[1])])
            self.got = self.got[match.end() + int(match[1]) :]
        return found

    def close(self) -> None:
        self.socket.close()


@contextmanager
def running(monkeypatch: pytest.MonkeyPatch, bundles: tuple[Path, ...], **options: Any) -> Iterator[Running]:
    from rdd_deploy.live.web.server import WebView

    views: list[WebView] = []
    made = app._remote

    def remembered(given: LiveOptions) -> Any:
        views.append(made(given))  # type: ignore[arg-type]
        return views[-1]

    quit_now = threading.Event()

    class Screen:
        visible = False

        def __init__(self, options: LiveOptions) -> None:
            pass

        check = staticmethod(lambda: None)

        def key(self) -> str | None:
            return "q" if quit_now.is_set() else None

        def show(self, canvas: np.ndarray, at_s: float | None) -> None:
            pass

        def close(self) -> None:
            pass

    ended: list[object] = []

    def play() -> None:
        try:
            ended.append(
                app.live(LiveOptions(bundles=bundles, threads=1, **{"source": "streets", "serve": "0", **options}))
            )
        except BaseException as error:
            ended.append(error)

    with monkeypatch.context() as patch:
        patch.setattr(app, "_remote", remembered)
        patch.setattr(app.sinks, "screen_class", lambda options: Screen)
        patch.setattr(app, "open_source", lambda *_, **__: Fields())
        thread = threading.Thread(target=play)
        thread.start()
        try:
            end = time.monotonic() + 30
            while not (views and views[-1]._ready.is_set()):
                assert not ended, ended
                assert time.monotonic() < end
                time.sleep(0.01)
            yield Running(views[-1], Fields.title)
        finally:
            quit_now.set()
            thread.join(30)
            assert not thread.is_alive()
    assert ended == [0]
    assert views[-1]._thread is not None
    assert not views[-1]._thread.is_alive()
