"""A drawing as a list of shapes, and its two renderers: SVG for the report, PNG with OpenCV. So the edge needs no plotting package."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import cv2
import numpy as np

from rdd_deploy.data.base import Frame
from rdd_deploy.utils.text import in_html as escape
from rdd_deploy.utils.text import shown

Anchor = Literal["start", "middle", "end"]
CHARACTER_WIDTH = 0.56
"""Of a text's size: what layout reckons with, a little more than sans-serif fonts take on average."""


@dataclass(frozen=True)
class Line:
    """A polyline in pixels; ``style`` names an entry of STYLES and a CSS class."""

    points: tuple[tuple[float, float], ...]
    style: str


@dataclass(frozen=True)
class Area:
    """A filled rectangle."""

    x: float
    y: float
    width: float
    height: float
    style: str


@dataclass(frozen=True)
class Dot:
    """A circle; ``title`` is its tooltip in the SVG."""

    x: float
    y: float
    radius: float
    style: str
    title: str = ""


@dataclass(frozen=True)
class Text:
    """One line of text; y is its baseline."""

    x: float
    y: float
    text: str
    style: str
    anchor: Anchor = "start"
    size: float = 12.0
    bold: bool = False

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Left, top, right, bottom, as far as that is known without a font."""
        width = len(self.text) * self.size * CHARACTER_WIDTH
        left = _left(self.anchor, self.x, width)
        return left, self.y - self.size, left + width, self.y + 0.3 * self.size


Shape = Line | Area | Dot | Text


@dataclass(frozen=True)
class Style:
    """How a style looks in the PNG; the report's CSS says the same for light and dark."""

    rgb: tuple[int, int, int]
    width: float = 1.0
    hollow: bool = False
    halo: bool = False
    """Text gets a white rim, to be read across lines."""


STYLES = {
    "axis": Style((110, 110, 120)),
    "grid": Style((228, 230, 235)),
    "label": Style((60, 62, 72)),
    "front": Style((29, 91, 216), 2.0, halo=True),
    "whisker": Style((150, 178, 235), 1.5),
    "tail": Style((214, 226, 250), 7),
    "beaten": Style((125, 129, 138), 1.5, hollow=True, halo=True),
    "beaten-whisker": Style((200, 203, 210), 1.5),
    "beaten-tail": Style((236, 237, 240), 7),
    "chosen": Style((14, 131, 74), 2.5, hollow=True),
    "budget": Style((190, 70, 20), 1.5),
    "over": Style((253, 243, 236)),
}


_RIM = tuple((1.5 * dx, 1.5 * dy) for dx in (-1, 0, 1) for dy in (-1, 0, 1) if dx or dy)


def svg(shapes: Sequence[Shape], width: int, height: int, title: str, description: str, identifier: str = "plot") -> str:
    """An ``<svg>`` element to put into a page; colours come from the page's CSS classes ``plot-<style>``.

    Args:
        identifier: makes its ids unique within the page.
    """
    parts = [_svg(shape) for shape in shapes]
    return (
        f'<svg class="plot" viewBox="0 0 {width} {height}" role="img" aria-labelledby="{identifier}-title {identifier}-description">'
        f'<title id="{identifier}-title">{escape(title)}</title><desc id="{identifier}-description">{escape(description)}</desc>'
        f"{''.join(parts)}</svg>"
    )


def _svg(shape: Shape) -> str:
    if isinstance(shape, Line):
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in shape.points)
        return f'<polyline class="plot-{shape.style}" points="{points}"/>'
    if isinstance(shape, Area):
        return (
            f'<rect class="plot-{shape.style}" x="{shape.x:.1f}" y="{shape.y:.1f}" width="{shape.width:.1f}" height="{shape.height:.1f}"/>'
        )
    if isinstance(shape, Dot):
        kind = "ring" if STYLES[shape.style].hollow else "dot"
        title = f"<title>{escape(shape.title)}</title>" if shape.title else ""
        return f'<circle class="plot-{shape.style} {kind}" cx="{shape.x:.1f}" cy="{shape.y:.1f}" r="{shape.radius:.1f}">{title}</circle>'
    weight = ' font-weight="600"' if shape.bold else ""
    return (
        f'<text class="plot-{shape.style}" x="{shape.x:.1f}" y="{shape.y:.1f}" text-anchor="{shape.anchor}" '
        f'font-size="{shape.size:g}"{weight}>{escape(shape.text)}</text>'
    )


def png(shapes: Sequence[Shape], width: int, height: int, scale: int = 2) -> Frame:
    """The drawing on white, uint8 (height * scale, width * scale, 3) BGR."""
    canvas: Frame = np.full((height * scale, width * scale, 3), 255, np.uint8)
    for shape in shapes:
        style = STYLES[shape.style]
        colour = style.rgb[::-1]
        thick = max(1, round(style.width * scale))
        if isinstance(shape, Line):
            points = (np.array(shape.points) * scale * 16).round().astype(np.int32)
            cv2.polylines(canvas, [points.reshape(-1, 1, 2)], False, colour, thick, cv2.LINE_AA, 4)
        elif isinstance(shape, Area):
            corner = (round(shape.x * scale), round(shape.y * scale))
            cv2.rectangle(
                canvas, corner, (round((shape.x + shape.width) * scale), round((shape.y + shape.height) * scale)), colour, cv2.FILLED
            )
        elif isinstance(shape, Dot):
            centre, radius = (round(shape.x * scale * 16), round(shape.y * scale * 16)), round(shape.radius * scale * 16)
            if style.hollow:
                cv2.circle(canvas, centre, radius, colour, thick, cv2.LINE_AA, 4)
            else:
                cv2.circle(canvas, centre, radius, colour, cv2.FILLED, cv2.LINE_AA, 4)
        else:
            for dx, dy in _RIM if style.halo else ():
                _write(canvas, replace(shape, x=shape.x + dx, y=shape.y + dy), (255, 255, 255), scale)
            _write(canvas, shape, colour, scale)
    return canvas


def _write(canvas: Frame, text: Text, colour: tuple[int, ...], scale: int) -> None:
    text = replace(text, text=shown(text.text))
    origin, size = (text.x * scale, text.y * scale), text.size * scale
    library: Any = cv2
    if hasattr(library, "FontFace"):  # OpenCV 5 draws real fonts
        font, weight = library.FontFace("sans"), 600 if text.bold else 400
        left = _left(text.anchor, origin[0], library.getTextSize((0, 0), text.text, (0, 0), font, round(size), weight)[2])
        library.putText(canvas, text.text, (round(left), round(origin[1])), colour, font, round(size), weight)
        return
    face, factor, thick = cv2.FONT_HERSHEY_SIMPLEX, size / 30, 2 if text.bold else 1
    plain = text.text.encode("ascii", "replace").decode()  # OpenCV 4 knows no other letters
    left = _left(text.anchor, origin[0], cv2.getTextSize(plain, face, factor, thick)[0][0])
    cv2.putText(canvas, plain, (round(left), round(origin[1])), face, factor, colour, thick, cv2.LINE_AA)


def _left(anchor: Anchor, x: float, width: float) -> float:
    return x - {"start": 0.0, "middle": width / 2, "end": width}[anchor]
