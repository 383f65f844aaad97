"""Whether an X server lets this process show windows. Qt ends the whole process where none does, so look before it
does.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from rdd_deploy.errors import DeviceError
from rdd_deploy.utils.files import read_file

FIRST_PORT = 6000
"""Of X servers over TCP: that of display 0."""
_ANSWER_S = 2.0
_COOKIE = b"MIT-MAGIC-COOKIE-1"


def check_display() -> None:
    """Raise DeviceError where a window would end the process."""
    if not sys.platform.startswith("linux"):
        return
    display = os.environ.get("DISPLAY", "")
    if not display:
        raise DeviceError("there is no display (DISPLAY isn't set); pass --headless, or run it on a desktop")
    host, colon, number = display.rpartition(":")
    number = number.partition(".")[0]
    if not (
        colon and number.isascii() and number.isdecimal() and len(number) <= 5 and FIRST_PORT + int(number) < 1 << 16
    ):
        raise DeviceError(f"DISPLAY is '{display}', expected something like :0; pass --headless, or set it")
    addresses: list[tuple[int, Any]] = [
        (socket.AF_UNIX, f"\0/tmp/.X11-unix/X{number}"),
        (socket.AF_UNIX, f"/tmp/.X11-unix/X{number}"),
    ]
    if host not in ("", "unix"):
        addresses = [(socket.AF_INET, (host, FIRST_PORT + int(number)))]
    refused = False
    for family, address in addresses:
        for cookie in (b"", *_cookies(number)):
            answer = _answer(family, address, cookie)
            if answer == b"\1":
                return
            if answer is None:
                break
            refused = True
    if refused:
        raise DeviceError(
            f"the X server at DISPLAY={display} refuses this process; name its key in XAUTHORITY, allow this user"
            " (xhost), or pass --headless"
        )
    raise DeviceError(f"no X server answers at DISPLAY={display}; pass --headless, or run it on a desktop")


def _answer(family: int, address: Any, cookie: bytes) -> bytes | None:
    """What a server says to the first words of X11: 1 if it takes them, 0 or 2 if it wants another key; None where no
    server speaks X11.
    """
    name = _COOKIE if cookie else b""
    padded = b"".join(one + bytes(-len(one) % 4) for one in (name, cookie))
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.settimeout(_ANSWER_S)
        try:
            probe.connect(address)
            probe.sendall(struct.pack("<cxHHHHxx", b"l", 11, 0, len(name), len(cookie)) + padded)
            answer = probe.recv(1)
        except (OSError, ValueError):  # ValueError: a host that is no name
            return None
    return answer if answer in (b"\0", b"\1", b"\2") and answer else None


def _cookies(number: str) -> Iterator[bytes]:
    """The keys of a display in the user's file of them."""
    with suppress(OSError, RuntimeError, struct.error):  # no such file or home, or it is cut short
        content = read_file(Path(os.environ.get("XAUTHORITY") or Path.home() / ".Xauthority"), 1 << 20)
        place = 0
        while place < len(content):
            fields = []
            place += 2  # the kind of address
            for _ in range(4):  # address, number of the display, name of the method, key
                (length,) = struct.unpack_from(">H", content, place)
                fields.append(content[place + 2 : place + 2 + length])
                place += 2 + length
            if fields[1] in (b"", number.encode()) and fields[2] == _COOKIE and fields[3]:
                yield fields[3]
