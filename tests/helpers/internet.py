"""Run a program and see which of its processes open an internet socket: the kernel asks here (seccomp's user
notification, Linux 5.0), so native threads and child processes are seen, too. Each attempt is refused."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import platform
import select
import socket
import struct
import subprocess
import threading
from pathlib import Path

_SOCKET, _SECCOMP, _ARCHITECTURE = {"x86_64": (41, 317, 0xC000003E), "aarch64": (198, 277, 0xC00000B7)}.get(
    platform.machine(), (0, 0, 0)
)
_NO_NEW_PRIVS, _SET_FILTER, _LISTENER = 38, 1, 8
_ALLOW, _NOTIFY = 0x7FFF0000, 0x7FC00000
_RECEIVE, _SEND = 0xC0502100, 0xC0182101
_LOAD, _EQUAL, _RETURN = 0x20, 0x15, 0x06


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_void_p))


def _listen() -> int:
    """From here on this process and its children open no internet socket without being asked; returns where the
    questions arrive.
    """
    steps = [
        (_LOAD, 0, 0, 4),  # architecture
        (_EQUAL, 0, 6, _ARCHITECTURE),
        (_LOAD, 0, 0, 0),  # system call
        (_EQUAL, 0, 4, _SOCKET),
        (_LOAD, 0, 0, 16),  # its first argument
        (_EQUAL, 1, 0, int(socket.AF_INET)),
        (_EQUAL, 0, 1, int(socket.AF_INET6)),
        (_RETURN, 0, 0, _NOTIFY),
        (_RETURN, 0, 0, _ALLOW),
    ]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
    program = _Program(len(steps), ctypes.cast(code, ctypes.c_void_p))
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_NO_NEW_PRIVS, 1, 0, 0, 0)
    file: int = libc.syscall(_SECCOMP, _SET_FILTER, _LISTENER, ctypes.byref(program))
    if file < 0:
        raise OSError(ctypes.get_errno(), "seccomp")
    return file


def _answer(listener: int, seen: list[str]) -> None:
    """Refuse each attempt and note whose it was, until the last process is gone."""
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    while True:
        for _, event in poll.poll():
            if not event & select.POLLIN:
                return
            notice = bytearray(80)
            try:
                fcntl.ioctl(listener, _RECEIVE, notice)
                number, process = struct.unpack_from("QI", notice)
                family = struct.unpack_from("Q", notice, 32)[0]
                words = Path(f"/proc/{process}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                seen.append(f"{socket.AddressFamily(family).name}: {words[:200]}")
                fcntl.ioctl(listener, _SEND, struct.pack("QqiI", number, 0, -errno.EACCES, 0))
            except OSError:  # it was killed meanwhile
                continue


def watched(words: list[str], env: dict[str, str], cwd: Path) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """Run a program; returns what it said, and a line for each internet socket that it or its children tried to open.

    Raises:
        OSError: this kernel, or what this process runs in, has no such filter.
    """
    ours, theirs = socket.socketpair()

    def install() -> None:
        socket.send_fds(theirs, [b"x"], [_listen()])

    seen: list[str] = []
    with ours, theirs:
        try:
            process = subprocess.Popen(
                words,
                env=env,
                cwd=cwd,
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                stdin=subprocess.DEVNULL,
                preexec_fn=install,
            )
        except subprocess.SubprocessError as error:
            raise OSError("no seccomp filter") from error
        _, files, _, _ = socket.recv_fds(ours, 1, 1)
    answering = threading.Thread(target=_answer, args=(files[0], seen), daemon=True)
    answering.start()
    try:
        out, err = process.communicate(timeout=200)
    finally:
        process.kill()
        answering.join(10)
        os.close(files[0])
    return subprocess.CompletedProcess(words, process.returncode, out, err), seen
