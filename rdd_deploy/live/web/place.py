"""Where the web view is served and who may see it: ``[HOST:]PORT`` and the token, checked before anything is loaded."""

from __future__ import annotations

import errno
import ipaddress
import os
import re
import secrets
import socket
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from rdd_deploy.errors import RddError
from rdd_deploy.utils.files import read_text

TOKEN_VARIABLE = "RDD_LIVE_TOKEN"
LEAST_TOKEN, LONGEST_TOKEN = 16, 256
LAST_PORT = 65535
BACKLOG = 64
SEND_BUFFER = 128 << 10
"""Bytes of pictures that the system holds for a viewer who doesn't read; it doubles them."""
UNHEARD_MS = 20_000
"""The system drops a connection after so long without an answer to what was sent."""
_PLACE = re.compile(r"(?:(\[[^\[\]]+\]|[^\[\]:]+):)?([0-9]+)")
_EXPECTED = "expected [HOST:]PORT like 8000, 0.0.0.0:8000 or [::1]:8000"


@dataclass(frozen=True)
class Place:
    """A socket that listens, and the token that opens the view.

    Attributes:
        host: as it was given, without brackets.
        loopback: only this machine reaches it.
        token: empty where none is needed: on loopback, unless one was given.
        made: the token was made here and has to be shown.
    """

    listener: socket.socket
    host: str
    loopback: bool
    token: str = field(repr=False)
    made: bool

    @property
    def port(self) -> int:
        return int(self.listener.getsockname()[1])

    @property
    def link(self) -> str:
        """What a browser opens; with the token only where it was made here: one that was given stays out of logs."""
        address = ipaddress.ip_address(self.listener.getsockname()[0].partition("%")[0])
        host = self.host if not address.is_unspecified else _own_address()
        host = f"[{host}]" if ":" in host else host
        return f"http://{host}:{self.port}/" + (f"?token={self.token}" if self.made else "")


def open_place(serve: str, token: str | None, token_file: Path | None) -> Place:
    """Take the port, and find or make the token.

    Args:
        serve: ``[HOST:]PORT``; 127.0.0.1 without a host, any free port for 0.
        token, token_file: one of them, or neither: then RDD_LIVE_TOKEN counts.

    Raises:
        RddError: malformed, unknown, taken or forbidden; the token is too short or can't be read.
    """
    match = _PLACE.fullmatch(serve)
    if match is None:
        raise RddError(f"got --serve {serve}, {_EXPECTED}")
    port = int(match[2]) if len(match[2]) < 10 else LAST_PORT + 1
    if port > LAST_PORT:
        raise RddError(f"got the port {match[2]:.20}, expected 0 to {LAST_PORT}; 0 takes any free one")
    host = (match[1] or "127.0.0.1").strip("[]")
    given = given_token(token, token_file)
    listener = _listener(host, port)
    address = ipaddress.ip_address(listener.getsockname()[0].partition("%")[0])
    mapped = getattr(address, "ipv4_mapped", None)
    loopback = (mapped or address).is_loopback
    made = not loopback and not given
    return Place(listener, host, loopback, secrets.token_urlsafe(24) if made else given, made)


def given_token(token: str | None, token_file: Path | None) -> str:
    """The token that the user gave, empty without one. Raises RddError, which never repeats it."""
    if token is not None and token_file is not None:
        raise RddError("got --token and --token-file; give one of them")
    if token is not None:
        return _checked(token, "--token")
    if token_file is not None:
        try:
            return _checked(read_text(token_file, 4096).strip(), f"the token in {token_file}")
        except OSError as error:
            raise RddError(f"can't read --token-file {token_file}: {error.strerror or error}") from error
    told = os.environ.get(TOKEN_VARIABLE)
    return "" if told is None else _checked(told, f"the token in {TOKEN_VARIABLE}")


def _checked(token: str, what: str) -> str:
    """A token that fits a link, a header and a cookie as it is."""
    if len(token) < LEAST_TOKEN:
        raise RddError(
            f"{what} has {len(token)} characters, expected at least {LEAST_TOKEN}; "
            "`python -c 'import secrets; print(secrets.token_urlsafe())'` makes a good one"
        )
    if len(token) > LONGEST_TOKEN:
        raise RddError(f"{what} has {len(token)} characters, expected at most {LONGEST_TOKEN}")
    if not re.fullmatch(r"[A-Za-z0-9._~-]+", token):
        raise RddError(f"{what} has characters that a link doesn't hold; expected letters, digits and . _ ~ - only")
    return token


def _listener(host: str, port: int) -> socket.socket:
    """Listening already, so that nobody else can take the port while bundles are loaded. Raises RddError."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:  # UnicodeError: no name at all
        reason = getattr(error, "strerror", None) or "it is no name of a host"
        raise RddError(
            f"can't serve on '{host}': {reason}; give a name or address of this machine, or 0.0.0.0 for all of them"
        ) from error
    # A name often has both kinds.
    family, kind, protocol, _, address = min(found, key=lambda one: one[0] != socket.AF_INET)
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with suppress(OSError, AttributeError):  # what comes in inherits these; neither must be there
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNHEARD_MS)
        if family == socket.AF_INET6 and address[0] == "::":
            with suppress(OSError):
                # All addresses: those of the old kind, too.
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise RddError(_refused(error, host, port)) from error
    except BaseException:
        listener.close()
        raise
    listener.setblocking(False)
    return listener


def _refused(error: OSError, host: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} of {host} is taken; choose another one for --serve, or 0 for any free one"
    if error.errno == errno.EACCES:
        return f"can't serve on port {port}: permission denied; choose one from 1024 up"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"{host} is no address of this machine; give one for --serve, or 0.0.0.0 for all of them"
    return f"can't serve on {host}, port {port}: {error.strerror or error}"


def _own_address() -> str:
    """Of the interface that leads out; nothing is sent."""
    with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # of the block for documentation
        return str(probe.getsockname()[0])
    return socket.gethostname()
