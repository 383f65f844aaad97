"""A camera on 127.0.0.1 that speaks MJPEG over HTTP, and can stall, vanish and come back."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import cv2
import numpy as np


class MjpegCamera:
    """Streams a grey level that counts frames; ``stall`` stops sending, ``vanish`` drops connections and the port, ``come_back`` reopens it."""

    def __init__(self, fps: float = 50.0) -> None:
        self.sent = 0
        self._flowing, self._gone = threading.Event(), threading.Event()
        self._flowing.set()
        self._interval = 1 / fps
        self._server: ThreadingHTTPServer | None = None
        self.port = 0
        self.come_back()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/video.mjpg"

    def stall(self) -> None:
        self._flowing.clear()

    def flow(self) -> None:
        self._flowing.set()

    def vanish(self) -> None:
        self._gone.set()
        self._flowing.set()
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def come_back(self) -> None:
        self._gone.clear()
        camera = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
                self.end_headers()
                with suppress(OSError):
                    camera._stream(self)

            def log_message(self, *_: object) -> None:
                pass

        ThreadingHTTPServer.allow_reuse_address = True
        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self._server.daemon_threads = True
        self._server.block_on_close = False
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, name="camera", daemon=True).start()

    def _stream(self, handler: BaseHTTPRequestHandler) -> None:
        end = time.monotonic() + 60
        while not self._gone.is_set() and time.monotonic() < end:
            if not self._flowing.wait(0.05):
                continue
            self.sent += 1
            image = np.full((48, 64, 3), (self.sent % 200, 30, 30), np.uint8)
            data = cv2.imencode(".jpg", image)[1].tobytes()
            handler.wfile.write(b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(data) + data + b"\r\n")
            time.sleep(self._interval)


@contextmanager
def mjpeg_camera() -> Iterator[MjpegCamera]:
    camera = MjpegCamera()
    try:
        yield camera
    finally:
        camera.vanish()
