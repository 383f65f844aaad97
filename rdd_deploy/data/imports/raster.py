"""Regions as pixels, by the rules of the tools' own readers. Coordinates are pixels, (x, y) from the top
left corner.
"""

from __future__ import annotations

import base64
import binascii
import math
import struct
import zlib
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from rdd_deploy.data.imports.export import Area, named
from rdd_deploy.errors import DataError

Points = NDArray[np.float64]
"""(N, 2)."""

_MOST_POINTS = 1_000_000


def points_of(value: Any, where: str) -> Points:
    """Points of a list of [x, y]. Raises DataError for anything else."""
    if not isinstance(value, list) or len(value) > _MOST_POINTS:
        raise DataError(f"{where}: the points are {named(value)}; expected a list of [x, y]")
    for one in value:
        if not isinstance(one, (list, tuple)) or len(one) != 2 or not all(_is_number(number) for number in one):
            raise DataError(f"{where}: a point is {one!r:.60}; expected two numbers [x, y]")
    return np.array(value, np.float64).reshape(-1, 2)


def flat_points(value: Any, where: str) -> Points:
    """Points of a list x, y, x, y … Raises DataError for anything else."""
    if (
        not isinstance(value, list)
        or len(value) % 2
        or not all(_is_number(number) for number in value)
        or len(value) > 2 * _MOST_POINTS
    ):
        raise DataError(f"{where}: a polygon is {value!r:.60}; expected numbers x, y, x, y …")
    return np.array(value, np.float64).reshape(-1, 2)


def _is_number(value: Any) -> bool:
    return (
        isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 2**53 and math.isfinite(value)
    )


def check_near(points: Points, height: int, width: int, where: str) -> None:
    """Raise DataError for points so far outside that no tool put them there: drawing them would take for ever."""
    if points.size and np.abs(points).max() > 10 * max(height, width) + 1000:
        far = points[np.abs(points).max(1).argmax()]
        raise DataError(
            f"{where}: the point ({far[0]:g}, {far[1]:g}) lies far outside of the image of {height}x{width} pixels;"
            " export it again"
        )


def by_coco(polygons: Sequence[Points], height: int, width: int, where: str) -> Area:
    """Polygons, each of 3 points or more, united as pycocotools does."""
    from pycocotools import mask as coco

    for points in polygons:
        check_near(points, height, width, where)
    encoded = coco.frPyObjects([points.ravel().tolist() for points in polygons], height, width)
    return np.asarray(coco.decode(coco.merge(encoded)), bool)


def by_pillow(points: Points, height: int, width: int, where: str, *, outline: bool = True) -> Area:
    """A polygon as Pillow fills it: Labelme's rule with an outline of a pixel, Cityscapes' without."""
    from PIL import Image, ImageDraw

    check_near(points, height, width, where)
    canvas = Image.new("L", (width, height))
    corners = [(float(x), float(y)) for x, y in points]
    ImageDraw.Draw(canvas).polygon(corners, fill=1, outline=1 if outline else None)
    return np.asarray(canvas, bool)


def by_opencv(outer: Points, holes: Sequence[Points], height: int, width: int, where: str) -> Area:
    """A polygon of whole pixels with the border in it, less its holes with theirs: Supervisely's rule, and without
    holes Ultralytics'.
    """
    for points in (outer, *holes):
        check_near(points, height, width, where)
    canvas = np.zeros((height, width), np.uint8)
    cv2.fillPoly(canvas, [outer.astype(np.int32)], 1)
    for hole in holes:
        cv2.fillPoly(canvas, [hole.astype(np.int32)], 0)
    return canvas.astype(bool)


def circle(points: Points, height: int, width: int, where: str) -> Area:
    """Labelme's: a centre and a point on the border."""
    from PIL import Image, ImageDraw

    check_near(points, height, width, where)
    (x, y), radius = points[0], float(np.hypot(*(points[1] - points[0])))
    canvas = Image.new("L", (width, height))
    ImageDraw.Draw(canvas).ellipse((x - radius, y - radius, x + radius, y + radius), fill=1, outline=1)
    return np.asarray(canvas, bool)


def rectangle(points: Points, height: int, width: int, where: str) -> Area:
    """Two corners, both in it, as Pillow draws it: Labelme's rule."""
    from PIL import Image, ImageDraw

    check_near(points, height, width, where)
    (left, top), (right, bottom) = points.min(0).tolist(), points.max(0).tolist()
    canvas = Image.new("L", (width, height))
    ImageDraw.Draw(canvas).rectangle((left, top, right, bottom), fill=1, outline=1)
    return np.asarray(canvas, bool)


def ellipse(
    centre: tuple[float, float], radii: tuple[float, float], degrees: float, height: int, width: int, where: str
) -> Area:
    """CVAT's: centre and radii rounded to pixels, filled by OpenCV."""
    check_near(np.array([centre, radii], np.float64), height, width, where)
    canvas = np.zeros((height, width), np.uint8)
    cv2.ellipse(
        canvas, (round(centre[0]), round(centre[1])), (round(radii[0]), round(radii[1])), degrees % 360, 0, 360, 1, -1
    )
    return canvas.astype(bool)


def turned(points: Points, degrees: float, about: Points) -> Points:
    """Points turned clockwise (y points down) about another."""
    angle = math.radians(degrees % 360)
    matrix = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    return np.asarray((points - about) @ matrix + about, np.float64)


def placed(patch: Area, top: int, left: int, height: int, width: int) -> Area:
    """A patch in an otherwise empty image, cut off at the image's border."""
    area = np.zeros((height, width), bool)
    y0, x0 = max(0, top), max(0, left)
    y1, x1 = min(height, top + patch.shape[0]), min(width, left + patch.shape[1])
    if y0 < y1 and x0 < x1:
        area[y0:y1, x0:x1] = patch[y0 - top : y1 - top, x0 - left : x1 - left]
    return area


def patch_of(text: Any, height: int, width: int, where: str, *, packed: bool) -> Area:
    """A region's PNG from base64: what isn't 0, of four channels what isn't transparent.

    Args:
        height, width: of the image; no part of it is larger.
        packed: whether it is compressed once more by zlib, as Supervisely does.

    Raises:
        DataError: anything else, or more pixels than the image has; found out before they are decoded.
    """
    if not isinstance(text, str):
        raise DataError(f"{where}: the mask is {named(text)}; expected a PNG in base64")
    try:
        data = base64.b64decode(text.encode("ascii"), validate=True)
        if packed:
            unpacker = zlib.decompressobj()
            data = unpacker.decompress(data, 4 * height * width + 2**16)
            if unpacker.unconsumed_tail:
                raise DataError(
                    f"{where}: the mask unpacks to more bytes than an image of {height}x{width} pixels has; export it"
                    " again"
                )
    except (ValueError, binascii.Error, zlib.error) as error:
        raise DataError(f"{where}: the mask isn't a PNG in base64 ({error}); export it again") from error
    if not data.startswith(b"\x89PNG\r\n\x1a\n") or len(data) < 33 or data[12:16] != b"IHDR":
        raise DataError(f"{where}: the mask holds no PNG; export it again")
    columns, rows = struct.unpack(">II", data[16:24])
    if rows > height or columns > width:
        raise DataError(
            f"{where}: the mask promises {rows}x{columns} pixels, the image has {height}x{width}; export it again"
        )
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        pixels = None
    if pixels is None:
        raise DataError(f"{where}: the mask's PNG is damaged; export it again")
    if pixels.ndim == 3:
        pixels = pixels[..., 3] if pixels.shape[2] == 4 else pixels.max(2)
    return np.asarray(pixels, bool)
