"""The web view: a server in a thread of its own, with its own event loop. The pipeline hands it a copy of a picture and
answers its asks.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import re
import threading
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from importlib.resources import files

from aiohttp import HttpVersion11, web
from aiohttp.http import HttpProcessingError
from pydantic import ValidationError

from rdd_deploy import console
from rdd_deploy.errors import RddError
from rdd_deploy.live.remote import Ask, State, Wish
from rdd_deploy.live.types import Array
from rdd_deploy.live.web.answers import (
    MAX_BODY,
    REASONS,
    Door,
    add_headers,
    drop,
    json_answer,
    send,
    sentence_answer,
    what_is_wrong,
)
from rdd_deploy.live.web.guard import Guard
from rdd_deploy.live.web.pictures import BOUNDARY, PARTS_TYPE, Pictures, encoded
from rdd_deploy.live.web.place import Place
from rdd_deploy.runtime import Segmenter
from rdd_deploy.utils.text import shown

MAX_VIEWERS = 32
MAX_CONNECTIONS = 160
"""A page has its stream and a few short requests."""
IDLE_S = 15.0
"""A connection without a whole request for so long is closed."""
BODY_S = 5.0
SEND_S = 10.0
"""Whoever doesn't take an answer within this time is dropped."""
ANSWER_S = 5.0
PICTURE_S = 5.0
STATE_S = 0.2
"""How old a state may be that answers a question."""
CLOSE_S = 5.0
PAGE = {
    "/": ("index.html", "text/html"),
    "/app.js": ("app.js", "text/javascript"),
    "/style.css": ("style.css", "text/css"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
    "/favicon.ico": ("icon.svg", "image/svg+xml"),  # asked for by browsers that were on a page without an icon before
}
SIGN_IN_CSP = (
    "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
"""Its few rules stand in the page itself, since without the token nothing else is served."""
_VIEWER = re.compile(r"[0-9a-z]{1,32}")
_silent = logging.getLogger("rdd_deploy.live.web")
_silent.addHandler(logging.NullHandler())
_silent.propagate = False  # what strangers send is no news; what fails here is told by `_answered`

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class WebView:
    """A ``sinks.Remote``. Nobody who watches, sends rubbish or never reads makes the pipeline wait."""

    def __init__(self, place: Place) -> None:
        self._place, self._guard = place, Guard(place)
        self._asks: queue.Queue[Ask] = queue.Queue(MAX_CONNECTIONS)
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="web-encoder")
        self._thread = threading.Thread(target=self._run, name="web", daemon=True)
        self._ready = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._pictures: Pictures | None = None
        self._streaming: set[str] = set()
        self._segmenters: Sequence[Segmenter] = ()
        self._source = ""
        self._state: tuple[float, State] | None = None
        self._failed = False
        folder = files(__package__) / "page"
        self._page = {path: (folder.joinpath(name).read_bytes(), kind) for path, (name, kind) in PAGE.items()}
        self._sign_in, self._welcome = (folder.joinpath(name).read_bytes() for name in ("sign_in.html", "welcome.html"))

    # What the main thread calls.

    @property
    def watched(self) -> bool:
        pictures = self._pictures
        return pictures is not None and pictures.watched

    def start(self, source: str, segmenters: Sequence[Segmenter]) -> None:
        """Serve, and print the link."""
        self._source = shown(source)
        self._segmenters = segmenters
        self._thread.start()
        self._ready.wait(CLOSE_S)
        console.info(f"web view: {self._place.link}")
        if self._place.made:
            console.info(
                "the token in this link is made for this run and shown once; --token-file keeps one of your own"
            )

    def show(self, canvas: Array, at_s: float | None) -> None:
        pictures = self._pictures
        if pictures is not None:
            pictures.put(canvas)

    def next_ask(self) -> Ask | None:
        try:
            return self._asks.get_nowait()
        except queue.Empty:
            return None

    def close(self) -> None:
        if self._thread.is_alive() and self._loop is not None and self._stop is not None:
            with suppress(RuntimeError):  # it has just ended by itself
                self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join(CLOSE_S)
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._place.listener.close()

    # The server's thread.

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except Exception as error:
            console.warn(f"the web view has ended: {type(error).__name__}: {error}; the run goes on without it")
        finally:
            self._pictures = None  # nobody watches any more
            self._ready.set()

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda *_: None)  # connections that end at odd moments
        self._loop, self._stop, self._pictures = loop, asyncio.Event(), Pictures(loop, self._pool)
        app = web.Application(middlewares=[self._answered], client_max_size=MAX_BODY)
        app.on_response_prepare.append(add_headers)
        for path in PAGE:
            app.router.add_get(path, self._file, allow_head=False)
        for path, handler in (
            ("/stream", self._stream),
            ("/api/status", self._status),
            ("/api/bundles", self._list),
            ("/api/snapshot", self._snapshot),
        ):
            app.router.add_get(path, handler, allow_head=False)
        app.router.add_post("/api/view", self._view)
        runner = web.AppRunner(
            app,
            handle_signals=False,
            handler_cancellation=True,
            access_log=None,
            logger=_silent,
            keepalive_timeout=IDLE_S,
            lingering_time=1.0,
            auto_decompress=False,
            shutdown_timeout=1.0,
        )
        await runner.setup()
        made = runner.server
        assert made is not None
        server = await loop.create_server(lambda: Door(made, MAX_CONNECTIONS), sock=self._place.listener)
        work = [loop.create_task(self._pictures.hand_out()), loop.create_task(self._stop.wait())]
        self._ready.set()
        try:
            done, _ = await asyncio.wait(work, return_when=asyncio.FIRST_COMPLETED)
            for one in done:
                one.result()  # raises what the encoder failed with
        finally:
            self._pictures.finish()
            for one in work:
                one.cancel()
            server.close()
            await runner.cleanup()

    # Answers.

    @web.middleware
    async def _answered(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Let in or refuse, and send the answer within SEND_S: whoever doesn't read it is dropped."""
        if request.transport is not None:
            # Waiting for a write is waiting until the system has all of it.
            request.transport.set_write_buffer_limits(high=0)
        try:
            refusal = self._guard.refusal(request)
            response = await handler(request) if refusal is None else self._refused(request, *refusal)
        except web.HTTPException as error:
            response = sentence_answer(error.status, REASONS.get(error.status, error.reason))
        except RddError as error:
            response = sentence_answer(400, str(error))
        except Exception as error:  # a bug of ours: told once, and the pipeline goes on
            if not self._failed:
                self._failed = True
                console.warn(f"the web view failed on {request.path}: {type(error).__name__}: {error}")
            response = sentence_answer(500, "the web view failed; the terminal says how")
        try:
            await asyncio.wait_for(send(request, response), SEND_S)
        except asyncio.TimeoutError:
            drop(request)
        except ConnectionError:  # gone meanwhile
            pass
        return response

    def _refused(self, request: web.Request, status: int, sentence: str) -> web.Response:
        if status != 401:
            return sentence_answer(status, sentence)
        if request.method == "GET" and request.path == "/":
            response = web.Response(status=401, body=self._sign_in, content_type="text/html", charset="utf-8")
            response.headers["Content-Security-Policy"] = SIGN_IN_CSP
        else:
            response = sentence_answer(status, sentence)
        response.headers["WWW-Authenticate"] = "Bearer"
        return response

    async def _file(self, request: web.Request) -> web.Response:
        if request.path == "/" and self._guard.signs_in(request):
            # A redirect would be part of the request from the site that had the link, and a strict cookie stays out of
            # those.
            response = web.Response(body=self._welcome, content_type="text/html", charset="utf-8")
            response.set_cookie(
                self._guard.cookie, self._guard.cookie_value, httponly=True, samesite="Strict", path="/"
            )
            return response
        body, kind = self._page[request.path]
        return web.Response(body=body, content_type=kind, charset="utf-8")

    async def _list(self, request: web.Request) -> web.Response:
        return json_answer(
            {"source": self._source, "bundles": [_about(number, one) for number, one in enumerate(self._segmenters, 1)]}
        )

    async def _status(self, request: web.Request) -> web.Response:
        """``?viewer=ID`` also tells whether the stream of that id is open: a browser doesn't tell its page that one was
        cut.
        """
        assert self._loop is not None
        if self._state is None or self._loop.time() - self._state[0] > STATE_S:
            await self._asked(Wish())
        return self._told(request.query.get("viewer"))

    async def _view(self, request: web.Request) -> web.Response:
        if request.content_type != "application/json":
            return sentence_answer(415, "expected JSON: Content-Type: application/json")
        try:
            body = await asyncio.wait_for(request.read(), BODY_S)
        except asyncio.TimeoutError:
            return sentence_answer(408, f"the request's body took more than {BODY_S:.0f} s")
        except (web.RequestPayloadError, HttpProcessingError, ConnectionError):
            return sentence_answer(400, "the request's body is malformed or ends too early")
        try:
            wish = Wish.model_validate_json(body)
        except ValidationError as error:
            return sentence_answer(400, what_is_wrong(error))
        await self._asked(wish)
        return self._told(request.query.get("viewer"))

    def _told(self, viewer: str | None) -> web.Response:
        assert self._state is not None
        assert self._pictures is not None
        told = {**self._state[1], "viewers": self._pictures.viewers, "max_viewers": MAX_VIEWERS}
        return json_answer(told if viewer is None else {**told, "streaming": viewer in self._streaming})

    async def _asked(self, wish: Wish, picture: bool = False) -> None:
        """Have the main thread do it. Raises RddError if that can't be done, HTTPServiceUnavailable if it doesn't
        answer.
        """
        assert self._loop is not None
        ask = Ask(wish, picture)
        try:
            self._asks.put_nowait(ask)
            state = await asyncio.wait_for(asyncio.wrap_future(ask.answer), ANSWER_S)
        except (queue.Full, asyncio.TimeoutError):
            raise web.HTTPServiceUnavailable from None
        self._state = self._loop.time(), state

    async def _snapshot(self, request: web.Request) -> web.Response:
        """The newest picture in its whole size, as a file."""
        assert self._pictures is not None
        assert self._loop is not None
        kind = request.query.get("format", "png")
        if kind not in ("png", "jpeg"):
            return sentence_answer(400, "expected format=png or format=jpeg")
        with self._pictures.wanted():
            number = self._pictures.number
            await self._asked(Wish(), picture=True)  # even in a pause
            if await self._pictures.newer(number, PICTURE_S) == number:
                return sentence_answer(503, "there is no picture yet")
        canvas, number = self._pictures.canvas, self._pictures.number
        assert canvas is not None
        body = await self._loop.run_in_executor(self._pool, encoded, canvas, ".png" if kind == "png" else ".jpg")
        if not body:
            return sentence_answer(400, f"the picture is too large for a {kind.upper()}")
        response = web.Response(body=body, content_type=f"image/{kind}")
        name = f"rdd_deploy-{self._state[1]['frames'] if self._state else number}.{'png' if kind == 'png' else 'jpg'}"
        response.headers["Content-Disposition"] = f'attachment; filename="{name}"'
        return response

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        pictures = self._pictures
        assert pictures is not None
        if pictures.viewers >= MAX_VIEWERS:
            return sentence_answer(503, f"all {MAX_VIEWERS} places are taken; try again when somebody has left")
        viewer = request.query.get("viewer", "")
        viewer = viewer if _VIEWER.fullmatch(viewer) else ""
        response = web.StreamResponse(headers={"Content-Type": PARTS_TYPE})
        response.enable_chunked_encoding()
        response.force_close()
        if request.transport is None or request.version < HttpVersion11:
            return sentence_answer(505, "the stream needs HTTP/1.1")
        with suppress(ConnectionError, asyncio.TimeoutError), pictures.streamed(request.transport) as stream:
            self._streaming.add(viewer)
            try:
                await asyncio.wait_for(_begin(request, response), SEND_S)
                stream.begun = True
                with suppress(queue.Full):
                    self._asks.put_nowait(Ask(picture=True))  # a first one, even in a pause
                await stream.over
            finally:
                self._streaming.discard(viewer)
        return response


async def _begin(request: web.Request, response: web.StreamResponse) -> None:
    await response.prepare(request)
    await response.write(b"--" + BOUNDARY + b"\r\n")


def _about(number: int, one: Segmenter) -> State:
    """What the page says of a bundle; with ``--newest`` another one may have taken its place."""
    classes = [
        {"name": shown(name), "colour": "#{:02x}{:02x}{:02x}".format(*map(int, colour))}
        for name, colour in zip(one.classes, one.palette, strict=True)
    ]
    facts = {"name": shown(one.manifest.name), "backend": one.backend, "precision": one.precision, "device": one.device}
    return {"number": number, **facts, "classes": classes}
