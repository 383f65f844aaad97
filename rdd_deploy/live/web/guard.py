"""Who is let in: the name in the Host header, where a browser says that a request comes from, and the token."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
import socket
from urllib.parse import urlsplit

from aiohttp import web

from rdd_deploy.live.web.place import Place

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
"""Of every answer."""
_HOST = re.compile(r"(\[[0-9a-f:.%]+\]|[^\s:/@\[\]]+)(?::\d{1,5})?")


class Guard:
    """Says what is wrong with a request.

    Args:
        place: its token, empty where none is needed, and the names that it is reached by.
    """

    def __init__(self, place: Place) -> None:
        self._place = place
        self.cookie = f"rdd_live_{place.port}"
        """A browser keeps one jar for all ports of a host."""
        self.cookie_value = hmac.new(place.token.encode(), b"rdd_deploy live view", hashlib.sha256).hexdigest()
        """Made from the token, so that it outlives a restart with the same one; the token itself stays out of the browser."""
        machine = socket.gethostname().lower()
        self._names = {"localhost", place.host.lower()}
        self._machine = machine.partition(".")[0] if place.token else ""

    def refusal(self, request: web.Request) -> tuple[int, str] | None:
        """Status and sentence for a request that isn't served, None for one that is."""
        hosts = request.headers.getall("Host", [])
        name = _name(hosts[0]) if len(hosts) == 1 else None
        if name is None:
            return 400, "the request has no valid Host header"
        if not self._is_ours(name):
            return 421, "this name isn't one of this machine; open the view by its address or its own name"
        if not _is_own_origin(request, hosts[0]):
            return 403, "the request comes from another site"
        if not self._has_token(request):
            return (
                401,
                (
                    "the token is missing or wrong; open the link that the app printed, or send it as 'Authorization:"
                    " Bearer TOKEN'"
                ),
            )
        return None

    def signs_in(self, request: web.Request) -> bool:
        """Whether a request that was let in brought its token in the address, from which it should go."""
        return bool(self._place.token) and "token" in request.query

    def _is_ours(self, name: str) -> bool:
        """Any other name may be an attacker's, that was made to point here (DNS rebinding)."""
        if name in self._names:
            return True
        try:
            address = ipaddress.ip_address(name.partition("%")[0])
        except ValueError:
            # Behind a token, which such an attacker lacks, the machine may go by its name in any domain.
            return bool(self._machine) and name.partition(".")[0] == self._machine
        return address.is_loopback or not self._place.loopback

    def _has_token(self, request: web.Request) -> bool:
        if not self._place.token:
            return True
        if request.path == "/" and "token" in request.query:
            return _same(request.query.get("token", ""), self._place.token)
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            return _same(given.strip(), self._place.token)
        return _same(request.cookies.get(self.cookie, ""), self.cookie_value)


def _same(given: str, expected: str) -> bool:
    """In constant time, whatever their lengths."""
    first, second = (hashlib.sha256(text.encode(errors="backslashreplace")).digest() for text in (given, expected))
    return hmac.compare_digest(first, second)


def _name(host: str) -> str | None:
    """The name in a Host header, without port and brackets; None where it is malformed. The port says nothing: a tunnel
    has another one.
    """
    match = _HOST.fullmatch(host.lower())
    return match[1].strip("[]").rstrip(".") if match else None


def _is_own_origin(request: web.Request, host: str) -> bool:
    """Whether our own page asks, or no page at all: what a browser tells of it is believed, what isn't from a browser
    tells nothing.

    Another site may lead somebody to the page, but embed and ask for nothing.
    """
    origins = request.headers.getall("Origin", [])
    if any(
        urlsplit(origin).netloc.lower() != host.lower() or urlsplit(origin).scheme not in ("http", "https")
        for origin in origins
    ):
        return False
    if request.headers.get("Sec-Fetch-Site", "none") in ("none", "same-origin"):
        return True
    leads = request.headers.get("Sec-Fetch-Mode") == "navigate" and request.headers.get("Sec-Fetch-Dest") == "document"
    return request.method == "GET" and request.path == "/" and leads
