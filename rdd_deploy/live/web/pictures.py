"""The newest picture, encoded once for all who watch; whoever is slow gets the newest one when he is ready for it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager, suppress

import cv2

from rdd_deploy.live.types import Array

MAX_FPS = 30.0
"""More pictures a second than this aren't encoded."""
MAX_SIDE = 1280
"""Larger pictures are reduced to this for the stream; a snapshot has the whole size."""
QUALITY = 80
BOUNDARY = b"frame"
PARTS_TYPE = "multipart/x-mixed-replace; boundary=frame"


class Pictures:
    """``put`` is called by the main thread, everything else in the server's loop.

    Attributes:
        watched: somebody wants pictures.
        viewers: how many streams are open.
        number: of pictures so far.
        canvas: the newest, uint8 (H, W, 3) BGR; None before the first.
        part: the same as a part of the stream, empty where nobody streams.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, pool: Executor) -> None:
        self._loop, self._pool = loop, pool
        self._came = asyncio.Event()
        self._next: asyncio.Future[None] = loop.create_future()
        self._newest: Array | None = None
        self._wanting = 0
        self.watched = self.finished = False
        self.viewers = self.number = 0
        self.canvas: Array | None = None
        self.part = b""

    def put(self, canvas: Array) -> None:
        """Take a copy; one that wasn't looked at yet is forgotten."""
        self._newest = canvas.copy()
        with suppress(RuntimeError):  # the server has just ended
            self._loop.call_soon_threadsafe(self._came.set)

    async def encode(self) -> None:
        """Goes on until it is cancelled."""
        due = 0.0
        while True:
            await self._came.wait()
            await asyncio.sleep(max(0.0, due - self._loop.time()))
            # A picture that came a little early is made up for by a longer wait afterwards: a source at just this rate loses none.
            due = max(due, self._loop.time() - 1 / MAX_FPS) + 1 / MAX_FPS
            self._came.clear()
            canvas, self._newest = self._newest, None
            if canvas is None:
                continue
            self.part = await self._loop.run_in_executor(self._pool, _part, canvas) if self.viewers else b""
            self.canvas, self.number = canvas, self.number + 1
            self._wake()

    async def newer(self, number: int, timeout_s: float) -> int:
        """Wait for a picture after this one, at most so long; returns the newest one's number."""
        if self.number == number and not self.finished:
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(asyncio.shield(self._next), timeout_s)
        return self.number

    @contextmanager
    def wanted(self, stream: bool = False) -> Iterator[None]:
        """Pictures are drawn for the time of the block, and encoded for a stream."""
        self._wanting += 1
        self.viewers += stream
        self.watched = True
        try:
            yield
        finally:
            self._wanting -= 1
            self.viewers -= stream
            self.watched = self._wanting > 0

    def finish(self) -> None:
        """No more will come: who waits wakes up."""
        self.finished = True
        self._wake()

    def _wake(self) -> None:
        waiting, self._next = self._next, self._loop.create_future()
        waiting.set_result(None)


def encoded(canvas: Array, ending: str) -> bytes:
    """As .png or .jpg; empty where the format can't hold it (65,535 columns or rows in a JPEG)."""
    with suppress(cv2.error):
        good, data = cv2.imencode(ending, canvas, [cv2.IMWRITE_JPEG_QUALITY, QUALITY] if ending == ".jpg" else [])
        return data.tobytes() if good else b""
    return b""


def _part(canvas: Array) -> bytes:
    """With the boundary behind it: a browser shows a picture once it knows where it ends."""
    longest = max(canvas.shape[:2])
    if longest > MAX_SIDE:
        size = (max(1, canvas.shape[1] * MAX_SIDE // longest), max(1, canvas.shape[0] * MAX_SIDE // longest))
        canvas = cv2.resize(canvas, size, interpolation=cv2.INTER_AREA if longest > 2 * MAX_SIDE else cv2.INTER_LINEAR)  # type: ignore[assignment]
    jpeg = encoded(canvas, ".jpg")
    return b"Content-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n%b\r\n--%b\r\n" % (len(jpeg), jpeg, BOUNDARY) if jpeg else b""
