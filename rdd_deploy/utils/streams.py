"""Standard output and error, for printing that never stops the work."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import Any, Literal


class StandardStream:
    """Standard output or error for a console. A write that fails is remembered and the rest falls silent: printing
    costs nobody the work.
    """

    def __init__(self, name: Literal["stdout", "stderr"]) -> None:
        self._name = name
        self.trouble: Exception | None = None

    @property
    def _now(self) -> Any:
        stream = getattr(sys, self._name)
        # Under a progress bar rich puts one of its own in its place.
        return getattr(stream, "rich_proxied_file", stream)

    @property
    def encoding(self) -> str:
        return getattr(self._now, "encoding", None) or "utf-8"

    def write(self, text: str) -> int:
        try:
            try:
                return int(self._now.write(text)) if self._now else 0
            except UnicodeEncodeError:
                return int(self._now.write(text.encode(self.encoding, "backslashreplace").decode(self.encoding)))
        except (OSError, ValueError) as error:  # ValueError: a file that was closed
            self.fall_silent(error)
            return 0

    def flush(self) -> None:
        try:
            if self._now:
                self._now.flush()
        except (OSError, ValueError) as error:
            self.fall_silent(error)

    def isatty(self) -> bool:
        with suppress(AttributeError, ValueError):
            return bool(self._now.isatty())
        return False

    def fileno(self) -> int:
        return int(self._now.fileno())

    def fall_silent(self, error: Exception) -> None:
        """What is still in buffers would fail again, at the latest when the interpreter ends."""
        self.trouble = self.trouble or error
        with suppress(AttributeError, OSError, ValueError):
            silence = os.open(os.devnull, os.O_WRONLY)
            os.dup2(silence, self.fileno())
            os.close(silence)
