"""Where pictures go: what every sink has, and the table of the screens that ``--show`` names.

A new screen is a file with a class like ``Screen`` and a line in ``SCREENS``; deriving it from ``display.Headless``
gives it the terminal's keys.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from rdd_deploy.errors import RddError
from rdd_deploy.utils.tables import Entry

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rdd_deploy.live.options import LiveOptions
    from rdd_deploy.live.remote import Ask
    from rdd_deploy.live.types import Array
    from rdd_deploy.runtime import Segmenter

SCREENS = {
    "window": Entry("rdd_deploy.live.display:Window"),
    "none": Entry("rdd_deploy.live.display:Headless"),
}


class Sink(Protocol):
    """What gets the pictures, in order, from the main thread: a screen, or a recording."""

    def show(self, canvas: Array, at_s: float | None) -> None:
        """Take a picture, uint8 (H, W, 3) BGR. It is drawn over by the next one: what is kept must be copied.

        Args:
            at_s: seconds since the source's beginning, by its own time stamps; None where it has none.
        """

    def close(self) -> object:
        """May be called twice."""


class Screen(Sink, Protocol):
    """The sink that somebody watches and presses keys at; the run has one.

    Attributes:
        visible: pictures are wanted. Otherwise they are drawn for a recording only, and notices are printed.
    """

    visible: bool

    def __init__(self, options: LiveOptions) -> None:
        """Open it. Raises DeviceError."""

    @staticmethod
    def check() -> None:
        """Raise DeviceError where it can't work, before bundles are loaded."""

    def key(self) -> str | None:
        """A pressed key, at once, or None; 'q' too if it was closed. Called often, also without pictures."""


class Remote(Sink, Protocol):
    """The sink that people watch and steer from elsewhere, beside the screen. It gets pictures without panels: it shows
    figures itself.
    """

    @property
    def watched(self) -> bool:
        """Whether pictures are wanted just now."""

    def start(self, source: str, segmenters: Sequence[Segmenter]) -> None:
        """Let people in. Until then only its place was taken."""

    def next_ask(self) -> Ask | None:
        """What somebody asks for, at once, or None; the main thread answers."""


def screen_class(options: LiveOptions) -> type[Screen]:
    """The screen that the options name. Raises RddError for an unknown one."""
    if options.headless and options.show not in (None, "none"):
        raise RddError(f"got --headless and --show {options.show}; give one of them")
    name = options.show or ("none" if options.headless or options.serve is not None else "window")
    if name not in SCREENS:
        raise RddError(f"got --show {name}, expected one of {', '.join(SCREENS)}")
    found: type[Screen] = SCREENS[name].load()
    return found
