"""Text over the picture. Panels are drawn when their text changes (a few times a second) and only pasted per frame."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

import cv2
import numpy as np

from rdd_deploy.live.types import Array
from rdd_deploy.utils.text import shown

_FONT = cv2.FONT_HERSHEY_SIMPLEX
_WHITE = (255, 255, 255)
_ANY_LETTER = hasattr(cv2, "FontFace")
"""OpenCV 5 draws all of Unicode, OpenCV 4 question marks for each byte beyond ASCII."""
_DIM = 0.35
"""What is left of the picture behind a panel."""

HELP = (
    "h\tthis help",
    "q, Esc\tquit",
    "space\tpause",
    "1-9\tswitch bundle",
    "v\tsplit view of two bundles",
    "+ / -\topacity of the colours",
    "s\tsave frame, labels, overlay",
)


class Panel:
    """Lines of text, redrawn only when they or the scale change; a tab makes two columns."""

    def __init__(self) -> None:
        self._key: object = None
        self._image: Array = np.zeros((1, 1, 3), np.uint8)

    def image(self, lines: Sequence[str], scale: float, room: int, swatches: Array | None = None) -> Array:
        """Text on black, uint8 (h, w, 3), with lines shortened to what ``room`` columns hold.

        ``swatches`` (lines, 3) BGR adds a coloured square before each line.
        """
        key = (tuple(lines), scale, room)
        if key != self._key:
            self._key, self._image = key, _text(lines, scale, room, swatches)
        return self._image


def drawable(text: str) -> str:
    """Text from outside as it can be drawn in one line: what no font shows is a ``?``.

    Without Unicode fonts (OpenCV 4) letters lose their accents, and those of other scripts are written as their
    numbers, like ``<9053>``.
    """
    text = "".join(letter if letter.isprintable() else "?" for letter in text)
    if _ANY_LETTER or text.isascii():
        return text
    letters = unicodedata.normalize("NFKD", text.replace("\N{LATIN SMALL LETTER SHARP S}", "ss"))
    return "".join(
        letter if letter.isascii() else f"<{ord(letter):04X}>"
        for letter in letters
        if not unicodedata.combining(letter)
    )


def fitted(text: str, scale: float, room: int) -> str:
    """The text, or where it is wider than ``room`` columns its beginning and end with dots between: names often differ
    in either.
    """
    if _width(text, scale) <= room:
        return text

    def cut(kept: int) -> str:
        return text[: kept - kept // 2] + "..." + text[len(text) - kept // 2 :]

    short, long = 0, len(text)  # the longest that fits lies between
    while long - short > 1:
        middle = (short + long) // 2
        short, long = (middle, long) if _width(cut(middle), scale) <= room else (short, middle)
    return cut(short)


def _text(lines: Sequence[str], scale: float, room: int, swatches: Array | None) -> Array:
    row, margin = round(36 * scale), round(14 * scale)
    indent = margin + (0 if swatches is None else row)
    cells = [[shown(cell) for cell in line.split("\t")] for line in lines]
    second = max((_width(left, scale) + row for left, *right in cells if right), default=0)
    inner = room - indent - margin
    cells = [
        [fitted(left, scale, inner), *(fitted(one, scale, inner - second) for one in right)] for left, *right in cells
    ]
    width = (
        indent
        + margin
        + max((second + _width(cell[1], scale) if cell[1:] else _width(cell[0], scale) for cell in cells), default=0)
    )
    image = np.zeros((row * len(lines) + margin, width, 3), np.uint8)
    for number, cell in enumerate(cells):
        base = margin // 2 + row * number + round(26 * scale)
        if swatches is not None:
            corner = (margin, base - round(20 * scale))
            colour = tuple(int(value) for value in swatches[number])
            cv2.rectangle(image, corner, (corner[0] + round(24 * scale), base), colour, cv2.FILLED)
        for text, x in zip(cell, (indent, indent + second), strict=False):
            cv2.putText(image, text, (x, base), _FONT, scale, _WHITE, 1, cv2.LINE_AA)
    return image


def _width(text: str, scale: float) -> int:
    return int(cv2.getTextSize(text, _FONT, scale, 1)[0][0])


def paste(canvas: Array, panel: Array, x: int, y: int, dim: float = _DIM) -> None:
    """Darken the canvas behind the panel and add its text, in place; what doesn't fit is cut off. Negative x, y count
    from the far side.
    """
    height, width = canvas.shape[:2]
    x = x if x >= 0 else max(0, width + x + 1 - panel.shape[1])
    y = y if y >= 0 else max(0, height + y + 1 - panel.shape[0])
    region = canvas[y : y + panel.shape[0], x : x + panel.shape[1]]
    if region.size:
        blended = cv2.addWeighted(region, dim, panel[: region.shape[0], : region.shape[1]], 1.0, 0)
        region[:] = blended


class Hud:
    """All panels of the app on one canvas."""

    def __init__(self) -> None:
        self._status, self._legend, self._notice, self._help = Panel(), Panel(), Panel(), Panel()

    def draw(
        self,
        canvas: Array,
        status: Sequence[str],
        classes: Sequence[str],
        palette: Array,
        *,
        notice: str = "",
        show_help: bool = False,
    ) -> None:
        """Draw in place: status top left, legend bottom right, notice bottom left, help in the middle.

        Args:
            canvas: uint8 (H, W, 3) BGR.
            status: lines of text; what comes from outside in them, as in ``notice`` and ``classes``, may be any text.
            palette: uint8 (C, 3) RGB of ``classes``.
        """
        scale, room = text_scale(canvas), canvas.shape[1] - 8
        names = [drawable(name) for name in classes]
        paste(canvas, self._status.image([drawable(line) for line in status], scale, room), 4, 4)
        # Its colours mustn't mix.
        paste(canvas, self._legend.image(names, 0.85 * scale, room, palette[:, ::-1]), -4, -4, dim=0.0)
        if show_help:
            panel = self._help.image(HELP, scale, room)
            paste(
                canvas,
                panel,
                max(0, (canvas.shape[1] - panel.shape[1]) // 2),
                max(0, (canvas.shape[0] - panel.shape[0]) // 2),
            )
        if notice:
            paste(canvas, self._notice.image([drawable(notice)], scale, room), 4, -4)


def text_scale(canvas: Array) -> float:
    """Font scale for a canvas: legible at 360 rows, not huge at 1080."""
    return float(round(min(1.0, max(0.3, canvas.shape[0] / 960)), 2))
