"""Ctrl-C, SIGTERM and SIGHUP (a closed terminal): what was begun is finished or undone, and the exit code is the
shell's 128 + number.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType, TracebackType
from typing import Any

INT, TERM = int(signal.SIGINT), int(signal.SIGTERM)
HUP = int(getattr(signal, "SIGHUP", 0))
"""0 on Windows, which has none."""


class Stopped(KeyboardInterrupt):
    """SIGTERM or SIGHUP where nothing needs finishing: like Ctrl-C it ends whatever goes on, and ``finally`` clauses
    run.
    """

    def __init__(self, number: int) -> None:
        super().__init__()
        self.exit_code = 128 + number


def exit_code(error: KeyboardInterrupt) -> int:
    """130 for Ctrl-C, 143 for SIGTERM, 129 for SIGHUP."""
    return error.exit_code if isinstance(error, Stopped) else 128 + INT


class StopRequest:
    """In its ``with`` block the first signal only sets ``number``, for a loop to see; of later ones only Ctrl-C does
    something: it interrupts.

    A closing terminal often sends several signals, and none of them may cost what the first one is having finished.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self._before: dict[int, Any] = {}

    @property
    def exit_code(self) -> int:
        """0 without a signal."""
        return 0 if self.number is None else 128 + self.number

    def __enter__(self) -> StopRequest:
        self._before = _handle((INT, TERM, HUP), self._asked)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _restore(self._before)

    def _asked(self, number: int) -> None:
        if self.number is None:
            self.number = number
        elif number == INT:
            raise KeyboardInterrupt


@contextmanager
def interrupting() -> Iterator[None]:
    """Make SIGTERM and SIGHUP raise Stopped in the block, once: what it cleans up isn't cut short by the next one."""
    ended = False

    def stop(number: int) -> None:
        nonlocal ended
        if not ended:
            ended = True
            raise Stopped(number)

    before = _handle((TERM, HUP), stop)
    try:
        yield
    finally:
        _restore(before)


def leave_to_parent(parent: int) -> None:
    """In a loader's process: terminals and clusters send their signals to all of a command's processes, but this one
    must live until its parent has saved its state. The parent's own SIGTERM ends it.
    """
    for number in filter(None, (INT, HUP)):
        signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {TERM})
        threading.Thread(target=_until_ended_by, args=(parent,), daemon=True).start()


def _until_ended_by(parent: int) -> None:
    while signal.sigwaitinfo({TERM}).si_pid != parent:
        pass
    os._exit(0)


def _handle(numbers: tuple[int, ...], act: Callable[[int], None]) -> dict[int, Any]:
    """Call ``act`` on these signals; returns the handlers of before. Nothing outside the main thread, which alone may
    set handlers.
    """
    if threading.current_thread() is not threading.main_thread():
        return {}
    terminals = [number for number in (0, 1, 2) if os.isatty(number)]

    def handler(number: int, frame: FrameType | None) -> None:
        if number == HUP:
            _leave(terminals)
        act(number)

    # As by nohup.
    wanted = [
        number for number in numbers if number and not (number == HUP and signal.getsignal(HUP) == signal.SIG_IGN)
    ]
    return {number: signal.signal(number, handler) for number in wanted}


def _restore(handlers: dict[int, Any]) -> None:
    for number, handler in handlers.items():
        signal.signal(number, signal.SIG_DFL if handler is None else handler)


def _leave(terminals: list[int]) -> None:
    """Lead what would go to a terminal that is gone to nowhere: there each write is an error, in the midst of what has
    to be finished.
    """
    gone = [number for number in terminals if not os.isatty(number)]
    if not gone:
        return
    with suppress(OSError):
        nowhere = os.open(os.devnull, os.O_RDWR)
        for number in gone:
            os.dup2(nowhere, number)
        os.close(nowhere)
