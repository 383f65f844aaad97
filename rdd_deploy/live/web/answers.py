"""What the web view's answers have in common: how they are made, sent and cut off."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from aiohttp import web
from pydantic import ValidationError

from rdd_deploy.live.web.guard import HEADERS
from rdd_deploy.utils.text import shown

MAX_BODY = 4096
"""Bytes of a request's body."""


class Door(asyncio.Protocol):
    """Hands a new connection to the server, or tells it that there is no room."""

    def __init__(self, server: web.Server, room: int) -> None:
        self._server, self._room = server, room

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        if len(self._server.connections) < self._room:
            served = self._server()
            transport.set_protocol(served)
            served.connection_made(transport)
            return
        body = b'{"error": "too many connections; try again later"}'
        transport.write(
            b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nConnection:"
            b" close\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
        )
        transport.close()


REASONS = {
    404: "there is nothing here; docs/web.md lists what there is",
    405: "this method isn't served here; docs/web.md lists what there is",
    413: f"the request's body is larger than {MAX_BODY} bytes",
    503: "the app doesn't answer just now; try again",
}


async def add_headers(request: web.Request, response: web.StreamResponse) -> None:
    """Signal of aiohttp's before an answer is sent."""
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)
    response.headers["Server"] = "rdd_deploy"


async def send(request: web.Request, response: web.StreamResponse) -> None:
    """All of an answer. Raises ConnectionError where nobody is there any more."""
    await response.prepare(request)
    await response.write_eof()


def drop(request: web.Request) -> None:
    """Close the connection, whatever is still to be sent."""
    if request.transport is not None:
        request.transport.abort()


def json_answer(value: Any, status: int = 200) -> web.Response:
    """A value as JSON."""
    return web.Response(text=json.dumps(value, allow_nan=False), status=status, content_type="application/json")


def sentence_answer(status: int, sentence: str) -> web.Response:
    """What is wrong, as JSON: {"error": sentence}."""
    response = json_answer({"error": sentence}, status)
    if status >= 500 or status in (408, 413):
        response.force_close()
    return response


def what_is_wrong(error: ValidationError) -> str:
    """The first problem of a body, in a sentence."""
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(map(str, first["loc"]))
    said = first["msg"][:1].lower() + first["msg"][1:]
    return f"{shown(where)[:60]}: {said}" if where else said[:200]
