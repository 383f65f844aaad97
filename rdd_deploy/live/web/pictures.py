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
STALL_S = 10.0
"""Who doesn't take a picture within this time is dropped."""
HEARTBEAT_S = 5.0
"""Without a new picture the last one is sent again, to find out who has vanished."""
BEHIND_S = 0.05
"""How soon those are asked again who still have the last picture to take."""


class Stream:
    """One viewer's. Writing never waits: who hasn't taken the last picture yet is asked again later, with the newest.

    Attributes:
        begun: what comes before the first picture is sent.
        over: set when the run ends.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop = transport, loop
        self._number, self.begun = -1, False
        self._taken_s = self._sent_s = loop.time()
        self.over: asyncio.Future[None] = loop.create_future()

    def offer(self, number: int, chunk: bytes) -> bool:
        """Write a picture, if there is a new one and room; whether the viewer is behind."""
        if not self.begun or self._transport.is_closing():
            return False
        now = self._loop.time()
        if not self._transport.get_write_buffer_size():
            self._taken_s = now
            if chunk and (self._number != number or now - self._sent_s > HEARTBEAT_S):
                self._transport.write(chunk)
                self._number, self._sent_s = number, now
        elif now - self._taken_s > STALL_S:
            self._transport.abort()
        return self._transport.get_write_buffer_size() > 0


class Pictures:
    """``put`` is called by the main thread, everything else in the server's loop.

    Attributes:
        watched: somebody wants pictures.
        number: of pictures so far.
        canvas: the newest, uint8 (H, W, 3) BGR; None before the first.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, pool: Executor) -> None:
        self._loop, self._pool = loop, pool
        self._came = asyncio.Event()
        self._next: asyncio.Future[None] = loop.create_future()
        self._newest: Array | None = None
        self._streams: set[Stream] = set()
        self._wanting = 0
        self._chunk = b""
        self.watched = False
        self.number = 0
        self.canvas: Array | None = None

    @property
    def viewers(self) -> int:
        """How many streams are open."""
        return len(self._streams)

    def put(self, canvas: Array) -> None:
        """Take a copy; one that wasn't looked at yet is forgotten."""
        self._newest = canvas.copy()
        with suppress(RuntimeError):  # the server has just ended
            self._loop.call_soon_threadsafe(self._came.set)

    async def hand_out(self) -> None:
        """Encode and write what comes, until it is cancelled."""
        due, behind = 0.0, False
        while True:
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._came.wait(), BEHIND_S if behind else HEARTBEAT_S)
            if self._came.is_set():
                await asyncio.sleep(max(0.0, due - self._loop.time()))
                # A picture that came a little early is made up for by a longer wait afterwards: a source at just this
                # rate loses none.
                due = max(due, self._loop.time() - 1 / MAX_FPS) + 1 / MAX_FPS
                self._came.clear()
                await self._encode()
            behind = sum([stream.offer(self.number, self._chunk) for stream in self._streams]) > 0

    async def _encode(self) -> None:
        canvas, self._newest = self._newest, None
        if canvas is None:
            return
        self._chunk = await self._loop.run_in_executor(self._pool, _chunk, canvas) if self._streams else b""
        self.canvas, self.number = canvas, self.number + 1
        waiting, self._next = self._next, self._loop.create_future()
        waiting.set_result(None)

    async def newer(self, number: int, timeout_s: float) -> int:
        """Wait for a picture after this one, at most so long; returns the newest one's number."""
        if self.number == number:
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(asyncio.shield(self._next), timeout_s)
        return self.number

    @contextmanager
    def wanted(self) -> Iterator[None]:
        """Pictures are drawn for the time of the block."""
        self._wanting += 1
        self.watched = True
        try:
            yield
        finally:
            self._wanting -= 1
            self.watched = self._wanting > 0

    @contextmanager
    def streamed(self, transport: asyncio.Transport) -> Iterator[Stream]:
        """Pictures are drawn, encoded and written for the time of the block."""
        stream = Stream(transport, self._loop)
        with self.wanted():
            self._streams.add(stream)
            try:
                yield stream
            finally:
                self._streams.discard(stream)

    def finish(self) -> None:
        """No more will come."""
        for stream in self._streams:
            if not stream.over.done():
                stream.over.set_result(None)


def encoded(canvas: Array, ending: str) -> bytes:
    """As .png or .jpg; empty where the format can't hold it (65,535 columns or rows in a JPEG)."""
    with suppress(cv2.error):
        good, data = cv2.imencode(ending, canvas, [cv2.IMWRITE_JPEG_QUALITY, QUALITY] if ending == ".jpg" else [])
        return data.tobytes() if good else b""
    return b""


def _chunk(canvas: Array) -> bytes:
    """A part of the stream, framed for HTTP's chunked transfer; with the boundary behind it: a browser shows a picture
    once it knows its end.
    """
    longest = max(canvas.shape[:2])
    if longest > MAX_SIDE:
        size = (max(1, canvas.shape[1] * MAX_SIDE // longest), max(1, canvas.shape[0] * MAX_SIDE // longest))
        canvas = cv2.resize(canvas, size, interpolation=cv2.INTER_AREA if longest > 2 * MAX_SIDE else cv2.INTER_LINEAR)  # type: ignore[assignment]
    jpeg = encoded(canvas, ".jpg")
    part = b"Content-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n%b\r\n--%b\r\n" % (len(jpeg), jpeg, BOUNDARY)
    return b"%x\r\n%b\r\n" % (len(part), part) if jpeg else b""
