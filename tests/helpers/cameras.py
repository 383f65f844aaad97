"""Cameras on 127.0.0.1, MJPEG over HTTP and JPEG over RTSP, that can stall, vanish and come back."""

from __future__ import annotations

import struct
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from socketserver import BaseRequestHandler, StreamRequestHandler, ThreadingTCPServer
from types import TracebackType

import cv2
import numpy as np


class Camera:
    """Streams a grey level that counts frames; ``stall`` stops sending, ``vanish`` drops connections and the port,
    ``come_back`` reopens it.
    """

    address: str
    handler: type[BaseRequestHandler]

    def __init__(self, fps: float = 50.0) -> None:
        self.sent = 0
        self._flowing, self._gone = threading.Event(), threading.Event()
        self._flowing.set()
        self._interval = 1 / fps
        self._server: ThreadingTCPServer | None = None
        self.port = 0
        self.come_back()

    def __enter__(self) -> Camera:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.vanish()

    @property
    def url(self) -> str:
        return self.address.format(self.port)

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

        class Server(ThreadingTCPServer):
            allow_reuse_address = daemon_threads = True
            block_on_close = False
            camera = self

        self._server = Server(("127.0.0.1", self.port), self.handler)
        self.port = self._server.server_address[1]
        threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, name="camera", daemon=True
        ).start()

    def images(self) -> Iterator[bytes]:
        """JPEG files of 64×48, at the camera's rate, until it vanishes."""
        end = time.monotonic() + 60
        while not self._gone.is_set() and time.monotonic() < end:
            if not self._flowing.wait(0.05):
                continue
            self.sent += 1
            yield cv2.imencode(".jpg", np.full((48, 64, 3), (self.sent % 200, 30, 30), np.uint8))[1].tobytes()
            time.sleep(self._interval)


class _Http(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        with suppress(OSError):
            for data in self.server.camera.images():  # type: ignore[attr-defined]
                self.wfile.write(
                    b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(data) + data + b"\r\n"
                )

    def log_message(self, *_: object) -> None:
        pass


class _Rtsp(StreamRequestHandler):
    """RTSP 1.0 (RFC 2326) with RTP in the same connection; no other transport."""

    _SDP = b"v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=camera\r\nt=0 0\r\nm=video 0 RTP/AVP 26\r\na=control:track0\r\n"

    def handle(self) -> None:
        with suppress(OSError):
            while (method := self._answer()) not in (None, "TEARDOWN"):
                if method == "PLAY":
                    self._play()
                    return

    def _answer(self) -> str | None:
        """Answer one request; its method, None when the client is gone."""
        lines = []
        while line := self.rfile.readline().strip().decode():
            lines.append(line)
        if not lines:
            return None
        headers = {key.lower(): value.strip() for key, _, value in (line.partition(":") for line in lines[1:])}
        method, body = lines[0].split()[0], b""
        answer = ["RTSP/1.0 200 OK", f"CSeq: {headers['cseq']}", "Session: 1"]
        if method == "OPTIONS":
            answer.append("Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN")
        elif method == "DESCRIBE":
            body = self._SDP
            answer += ["Content-Type: application/sdp", f"Content-Length: {len(body)}"]
        elif method == "SETUP":
            if "TCP" in headers["transport"]:
                answer.append("Transport: RTP/AVP/TCP;unicast;interleaved=0-1")
            else:
                answer[0] = "RTSP/1.0 461 Unsupported Transport"
        self.wfile.write("\r\n".join([*answer, "", ""]).encode() + body)
        return method

    def _play(self) -> None:
        number = 0
        start = time.monotonic()
        for data in self.server.camera.images():  # type: ignore[attr-defined]
            tables, scan = _dissected(data)
            for offset in range(0, len(scan), 1000):
                part = scan[offset : offset + 1000]
                last = offset + 1000 >= len(scan)
                header = struct.pack(
                    ">BBHII", 0x80, 26 | last << 7, number & 0xFFFF, int(90000 * (time.monotonic() - start)), 1
                )
                # RFC 2435: type 1 is 4:2:0, quality 255 says that the first packet holds the quantisation tables; sizes
                # in blocks of 8.
                header += struct.pack(">IBBBB", offset, 1, 255, 64 // 8, 48 // 8)
                if not offset:
                    header += struct.pack(">HH", 0, len(tables)) + tables
                self.wfile.write(struct.pack(">cBH", b"$", 0, len(header) + len(part)) + header + part)
                number += 1


def _dissected(data: bytes) -> tuple[bytes, bytes]:
    """A baseline JPEG file -> its quantisation tables, its entropy-coded scan."""
    tables, at = b"", 2
    while True:
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        segment, at = data[at + 4 : at + 2 + length], at + 2 + length
        if marker == 0xDB:
            for table in range(0, len(segment), 65):
                tables += segment[table + 1 : table + 65]
        elif marker == 0xDA:
            return tables, data[at:-2]


class MjpegCamera(Camera):
    """MJPEG over HTTP."""

    address, handler = "http://127.0.0.1:{}/video.mjpg", _Http


class RtspCamera(Camera):
    """JPEG over RTP (RFC 2435) over RTSP."""

    address, handler = "rtsp://127.0.0.1:{}/cam", _Rtsp
