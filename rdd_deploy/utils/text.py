"""Text from outside (names of classes, files and streams, values of a user's, messages of libraries) as it may be shown
anywhere.
"""

from __future__ import annotations

import html
import unicodedata

_HIDDEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}
"""Unicode's categories of what steers a terminal, turns the reading direction, breaks a line or is no character at all."""
_JOINERS = "\u200c\u200d"
"""Invisible as well, but part of words in some scripts and of emoji."""


def shown(text: object) -> str:
    """One line in which every control character is visible, as Python writes it: ``\\x1b``, ``\\n``, ``\\u202e``; all
    else is as it was.
    """
    text = str(text)
    if text.isprintable():
        return text
    return "".join(
        _visible(one) if unicodedata.category(one) in _HIDDEN and one not in _JOINERS else one for one in text
    )


def in_html(text: object) -> str:
    """The same for a page."""
    return html.escape(shown(text))


def _visible(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
