"""A further screen is one class and one line of a table: here a web page that shows the pictures as MJPEG."""

import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cv2
import numpy as np
import pytest

from rdd_deploy.errors import RddError
from rdd_deploy.live.app import live
from rdd_deploy.live.display import Headless
from rdd_deploy.live.options import LiveOptions
from rdd_deploy.live.sinks import SCREENS
from rdd_deploy.utils.tables import Entry


class WebPage(Headless):
    """``http://127.0.0.1:PORT/``; keys come from the terminal."""

    visible = True
    made: list["WebPage"] = []  # noqa: RUF012

    def __init__(self, options: LiveOptions) -> None:
        super().__init__(options)
        self.shown, self.jpeg, self.closed = 0, b"", False
        self._new = threading.Condition()
        page = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
                self.end_headers()
                while jpeg := page.next():
                    self.wfile.write(
                        b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n%s\r\n" % (len(jpeg), jpeg)
                    )

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.made.append(self)

    def show(self, canvas: np.ndarray, at_s: float | None) -> None:
        with self._new:
            self.shown, self.jpeg = self.shown + 1, cv2.imencode(".jpg", canvas)[1].tobytes()
            self._new.notify_all()

    def next(self) -> bytes:
        with self._new:
            before = self.shown
            self._new.wait_for(lambda: self.closed or self.shown > before)
            return b"" if self.closed else self.jpeg

    def close(self) -> None:
        super().close()
        with self._new:
            first, self.closed = not self.closed, True
            self._new.notify_all()
        if first:
            self._server.shutdown()
            self._server.server_close()


def test_a_web_page_as_a_sink(
    tmp_path: Path, bundles: tuple[Path, Path], video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SCREENS, "web", Entry(f"{__name__}:WebPage"))
    WebPage.made.clear()
    got: list[bytes] = []

    def watch() -> None:
        while not WebPage.made:
            time.sleep(0.01)
        with urllib.request.urlopen(WebPage.made[0].url, timeout=30) as prediction:
            got.append(prediction.read())

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    options = LiveOptions(
        bundles=bundles[:1], source=str(video), show="web", realtime=True, record=tmp_path / "seen.avi"
    )
    assert live(options) == 0
    watcher.join(30)
    (page,) = WebPage.made
    assert page.closed
    assert page.shown >= 30, "of 40 frames at 25 per second, less those that a busy machine drops"
    jpegs = [part for part in got[0].split(b"--frame\r\n") if part]
    pictures = [
        cv2.imdecode(np.frombuffer(part.partition(b"\r\n\r\n")[2], np.uint8), cv2.IMREAD_COLOR) for part in jpegs
    ]
    assert len(pictures) >= 10
    assert {picture.shape for picture in pictures if picture is not None} == {(48, 64, 3)}


def test_other_names_are_refused_before_anything_is_loaded(bundles: tuple[Path, Path]) -> None:
    with pytest.raises(RddError, match=r"^got --show tv, expected one of window, none$"):
        live(LiveOptions(bundles=bundles, source="streets", show="tv"))
    with pytest.raises(RddError, match=r"^got --headless and --show window; give one of them$"):
        live(LiveOptions(bundles=bundles, source="streets", show="window", headless=True))


def test_none_is_headless(bundles: tuple[Path, Path], video: Path) -> None:
    assert live(LiveOptions(bundles=bundles, source=str(video), show="none", max_frames=2)) == 0
    assert live(LiveOptions(bundles=bundles, source=str(video), show="none", headless=True, max_frames=2)) == 0
