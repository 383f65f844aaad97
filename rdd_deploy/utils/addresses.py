"""Addresses of streams as they may be shown: what may be a secret is replaced, also where the address is malformed."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote

HIDDEN = "***"
_SCHEME = re.compile(
    r"[a-z][a-z0-9+.-]+:[/\\]+|(?:rtsps?|rtmps?|https?|udp|tcp|tls|rtp|srt|s?ftp|mmsh?|file):", re.IGNORECASE
)
"""Two letters or more (one is a drive), with as many slashes as somebody typed; none only where it can't be a user's name."""
_HOST = re.compile(r"(?:\d+(?:\.\d+){3}|\[[^\]]*\]|[\w.-]+:\d+)(?:[:/?#]|$)|[\w.-]+:[^/:]+:\d+(?:\.\d+){3}")
_NAME = r"(?:pass\w*|psw\w*|pwd?|user\w*|usr|login|token|key|secret|auth\w*|credentials?|sig(?:nature)?|session\w*|code|bearer)"
_NAMED = re.compile(rf"({_NAME}\s*=)[^&;/?#]+", re.IGNORECASE)
"""Some cameras take their password within the path."""
_IN_PATH = re.compile(rf"((?<=/){_NAME}(?:[/:]|\s+))[^&;/?#]+|(?<=/)[^/:&;?#*]+:[^/&;?#]+", re.IGNORECASE)
"""Of an address: ``password/x``, and ``user:x`` as a part of the path."""


def is_address(source: str) -> bool:
    """Whether a source is meant as an address rather than as a file's name; one that lies there under this name is a
    file.
    """
    # A wrong option may have made it.
    if os.path.exists(source.replace("\0", "")) and not ("@" in source and _SCHEME.match(source)):
        return False
    return "@" in source or any(
        sign is not None for sign in (_SCHEME.match(source), _HOST.match(source), _NAMED.search(source))
    )


def without_secrets(source: str) -> str:
    """A source as it may be shown and written: user and password, query and fragment replaced by ``***``, the rest as
    it is.

    Made for whatever a person types, not for valid URLs alone: a slash missing or too many, no scheme, one in upper
    case, special characters in the password that should have been escaped. In doubt more is hidden. Names of files that
    exist are left alone.
    """
    if not is_address(source):
        plain = unquote(source)  # an address that was escaped as a whole
        return (
            without_secrets(plain)
            if plain != source and is_address(plain) and ("@" in plain or _SCHEME.match(plain))
            else source
        )
    scheme = match[0] if (match := _SCHEME.match(source)) else ""
    secret, at, rest = source[len(scheme) :].rpartition("@")
    if not at and match and (escaped := re.match(r"([^/?#]*)%40", rest, re.IGNORECASE)):
        secret, at, rest = escaped[1], "@", rest[escaped.end() :]
    if not at and not match and not _HOST.match(source):  # of a file that isn't there, as far as one can tell
        return _hidden_values(source)
    place, mark, behind = _split(rest)
    host, slash, path = place.partition("/")
    name, colon, port = host.rpartition(":")
    # User:password of an address whose host was forgotten.
    if colon and "]" not in port and not (port.isdecimal() and len(port) <= 5):
        host = f"{name if at else HIDDEN}:{HIDDEN}"
    shown = _IN_PATH.sub(lambda found: (found[1] or "") + HIDDEN, _hidden_values(host + slash + path))
    return f"{scheme}{HIDDEN * bool(secret)}{at}{shown}{mark}{HIDDEN * bool(behind)}"


def _hidden_values(text: str) -> str:
    return _NAMED.sub(lambda found: found[1] + HIDDEN, text)


def must_be_source(word: str) -> bool:
    """Whether a word of a command line can only be a stream's address: with a scheme and ``//``, or with a user and a
    password.
    """
    return is_address(word) and re.match(r"[a-z][a-z0-9+.-]+:[/\\]+|[^=@]+:[^=]*@", word, re.IGNORECASE) is not None


def without_secrets_of(words: Sequence[str], text: str) -> str:
    """A sentence about a command line's mistake, without the secrets of any address that was given in it, in whatever
    place.
    """
    values = {
        value
        for word in words
        for value in (word, word.lstrip("-"), word.partition("=")[2])
        if value and without_secrets(value) != value
    }
    for value in sorted(values, key=len, reverse=True):
        for written in (value, repr(value)[1:-1], str(Path(value))):  # a path has no double slash
            text = text.replace(written, without_secrets(value))
    return text


def _split(rest: str) -> tuple[str, str, str]:
    """What stands before the first ``?`` or ``#``, that mark, and what is behind it."""
    found = re.search(r"[?#]", rest)
    return (rest[: found.start()], found[0], rest[found.end() :]) if found else (rest, "", "")
