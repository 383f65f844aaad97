"""The screens that come with the package: a window, and no pictures but the terminal's keys."""

from __future__ import annotations

import os
import select
import sys
from collections import deque
from contextlib import suppress
from typing import Any

import cv2

from rdd_deploy.errors import DeviceError
from rdd_deploy.live.options import LiveOptions
from rdd_deploy.live.types import Array
from rdd_deploy.live.x_server import check_display

TITLE = "rdd_deploy"
ESCAPE = "\x1b"
SEQUENCE_S = 0.03
"""What an arrow key sends behind its ESC follows within this time, through ssh too."""


class Window:
    """An OpenCV window; for the main thread only. Raises DeviceError where none can be opened."""

    visible = True

    def __init__(self, options: LiveOptions) -> None:
        check_display()
        self._opened = self._sized = self._seen = False
        self._codes: deque[int] = deque()
        try:
            cv2.namedWindow(TITLE, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO | cv2.WINDOW_GUI_NORMAL)
        except cv2.error as error:
            raise DeviceError(
                "this OpenCV has no windows (opencv-python-headless?): pip uninstall opencv-python-headless && pip"
                " install opencv-python, or pass --headless"
            ) from error
        self._opened = True

    @staticmethod
    def check() -> None:
        check_display()

    def show(self, canvas: Array, at_s: float | None) -> None:
        if not self._sized:
            self._sized = True
            factor = max(1, 720 // canvas.shape[0])  # small networks' frames would be stamps on today's screens
            cv2.resizeWindow(TITLE, canvas.shape[1] * factor, canvas.shape[0] * factor)
        cv2.imshow(TITLE, canvas)
        self._look()  # the toolkit paints while it looks for keys, and the frame isn't shown before

    def _look(self) -> None:
        """Keep the key that was pressed, if any, until it is asked for: several frames may be shown before."""
        if (code := cv2.pollKey()) >= 0:
            self._codes.append(code)

    def key(self) -> str | None:
        if not self._codes:
            self._look()
        if not self._codes:
            return "q" if self._sized and self._closed() else None
        code = self._codes.popleft() & 0xFFFF  # GTK puts Shift and NumLock above
        # Arrows and other keys without a character: Left would end in Q's byte.
        return chr(code) if code <= 0xFF else None

    def _closed(self) -> bool:
        """Whether the window was there and is gone; one that isn't mapped yet isn't closed."""
        try:
            visible = bool(cv2.getWindowProperty(TITLE, cv2.WND_PROP_VISIBLE) >= 1)
        except cv2.error:  # Qt, once its last window is gone
            visible = False
        self._seen = self._seen or visible
        return self._seen and not visible

    def close(self) -> None:
        if self._opened:
            self._opened = False
            cv2.destroyAllWindows()
            cv2.pollKey()


class Headless:
    """No pictures. At a terminal the same keys work, unbuffered, without Enter."""

    visible = False

    def __init__(self, options: LiveOptions) -> None:
        self._saved: Any = None
        if sys.stdin is None or not sys.stdin.isatty() or sys.platform == "win32":
            return
        import termios
        import tty

        self._fd = sys.stdin.fileno()
        try:
            foreground = os.tcgetpgrp(self._fd) == os.getpgrp()
        except OSError:  # another session's terminal
            return
        if not foreground:
            return  # in the background reading the terminal would stop the process
        self._saved = termios.tcgetattr(self._fd)
        tty.setcbreak(self._fd)

    @staticmethod
    def check() -> None:
        pass

    def show(self, canvas: Array, at_s: float | None) -> None:
        pass

    def key(self) -> str | None:
        if self._saved is None:
            return None
        typed = self._typed()
        if typed != ESCAPE or not (second := self._typed(SEQUENCE_S)):
            return typed or None
        # An arrow or function key: '[' or 'O', parameters, a letter or '~'. Alt sends the other key behind the ESC.
        part = self._typed() if second in "[O" else ""
        while part and not "@" <= part <= "~":
            part = self._typed()
        return ESCAPE if second == ESCAPE else None

    def _typed(self, wait_s: float = 0.0) -> str:
        """One character from the terminal, empty without one."""
        try:
            waiting = select.select([self._fd], [], [], wait_s)[0]
            return os.read(self._fd, 1).decode(errors="ignore") if waiting else ""
        except OSError:  # the terminal was closed; the signal that tells so comes in a moment
            return ""

    def close(self) -> None:
        saved, self._saved = self._saved, None
        if saved is not None:
            import termios

            with suppress(termios.error, OSError):  # a terminal that was closed meanwhile has nothing to be put back
                termios.tcsetattr(self._fd, termios.TCSADRAIN, saved)
