"""The pinhole camera and the four-channel canvas of the procedural streets.

The canvas is uint8 (H, W, 4): BGR and the class id. One drawing call writes both, so frame and labels cannot disagree;
nothing is anti-aliased (a blend of two class ids would be a third class), the blur of the sensor softens the edges
afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import atan, ceil, cos, floor, log2, sin

import cv2
import numpy as np
from numpy.typing import NDArray

from rdd_deploy.data.base import IGNORE
from rdd_deploy.data.streets.layout import SceneObject, World
from rdd_deploy.data.streets.lighting import Colour, Lighting
from rdd_deploy.data.streets.textures import Texture

SKY, BUILDING, POLE, ROAD, PAVEMENT, TREE, SIGN, FENCE, CAR, PERSON, BICYCLIST = range(11)
VOID = IGNORE
NEAR = 1.6
"""Nothing is drawn nearer than this many metres."""

Points = NDArray[np.floating]
_RAMP = np.arange(256, dtype=np.float32)[:, None]
_UNIT = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], np.float32)


@dataclass(frozen=True)
class View:
    """A camera on the road: it looks along the road's tangent. Focal length and centre in pixels, the
    rest in metres.
    """

    height: int
    width: int
    focal: float
    centre: float
    horizon: float
    x: float
    y: float
    z: float
    world: World

    def shift(self, distance: float) -> float:
        """How far the road's middle has moved across at this distance, seen from the camera."""
        return (
            self.world.middle(self.z + distance)
            - self.world.middle(self.z)
            - self.world.slope(self.z) * distance
            - self.x
        )

    def shifts(self, distances: NDArray[np.floating]) -> NDArray[np.float64]:
        """``shift`` for many distances at once."""
        street, z = self.world.street, self.z
        bent = street.bend * np.sin((z + distances) / street.bend_length)
        return np.asarray(bent - self.world.middle(z) - self.world.slope(z) * distances - self.x, np.float64)

    def project(self, points: Points, shift: float | Points) -> NDArray[np.float64]:
        """(N, 3) points (metres right of the road's middle, up, ahead of the camera) to (N, 2) pixels."""
        scale = self.focal / np.maximum(points[:, 2], NEAR)
        pixels = np.empty((len(points), 2))
        pixels[:, 0] = (points[:, 0] + shift) * scale + self.centre
        pixels[:, 1] = (self.y - points[:, 1]) * scale + self.horizon
        return pixels

    def foot(self, thing: SceneObject) -> tuple[float, float, float, float]:
        """Where an object stands: its distance in metres, pixels a metre there, and its foot in pixels."""
        distance = thing.z - self.z
        scale = self.focal / max(distance, NEAR)
        return distance, scale, self.centre + (thing.x + self.shift(distance)) * scale, self.horizon + self.y * scale


class Body:
    """Turns an object's own coordinates (right, up, forward; metres) into pixels, heading and bend of the road
    included.
    """

    def __init__(self, view: View, thing: SceneObject) -> None:
        self.view, self.distance = view, thing.z - view.z
        turn = thing.heading - atan(view.world.slope(view.z)) + atan(view.world.slope(thing.z))
        self.sin, self.cos = sin(turn), cos(turn)
        self.x = thing.x + view.shift(self.distance)

    def __call__(self, points: Points) -> NDArray[np.float64]:
        """(N, 3) to (N, 2) pixels."""
        right, forward = points[:, 0], points[:, 2]
        world = np.empty((len(points), 3))
        world[:, 0] = right * self.cos + forward * self.sin
        world[:, 1] = points[:, 1]
        world[:, 2] = forward * self.cos - right * self.sin + self.distance
        return self.view.project(world, self.x)

    def normal(self, right: float, up: float, forward: float) -> tuple[float, float, float]:
        return right * self.cos + forward * self.sin, up, -right * self.sin + forward * self.cos


class Canvas:
    """Draws into frame and labels at once. Colours are BGR as if lit by white light; light and haze are added here."""

    def __init__(self, view: View, lighting: Lighting) -> None:
        self.view, self.lighting = view, lighting
        self.image = np.zeros((view.height, view.width, 4), np.uint8)
        self.shadows = np.full((view.height, view.width), 255, np.uint8)
        self.shade_depth = lighting.ambient[1] / (lighting.ambient[1] + lighting.sun_light[1] * lighting.sun[1])
        """Light in the shade as a share of full sunlight."""

    def shade(self, colour: Colour, light: Colour, distance: float) -> Colour:
        """A surface's colour as it reaches the camera."""
        fog, air = self.lighting.fog(distance), self.lighting.horizon
        clear = 1.0 - fog
        return (
            min(255.0, colour[0] * light[0]) * clear + air[0] * fog,
            min(255.0, colour[1] * light[1]) * clear + air[1] * fog,
            min(255.0, colour[2] * light[2]) * clear + air[2] * fog,
        )

    def polygon(self, points: Points, colour: Colour, label: int, convex: bool = True) -> None:
        """Fill (N, 2) pixels with a colour that is already shaded."""
        fixed = (points * 8).astype(np.int32)
        if convex:
            cv2.fillConvexPoly(self.image, fixed, (*colour, label), cv2.LINE_8, 3)
        else:
            cv2.fillPoly(self.image, [fixed], (*colour, label), cv2.LINE_8, 3)

    def disc(self, x: float, y: float, radius: float, colour: Colour, label: int) -> None:
        cv2.circle(self.image, (int(x * 8), int(y * 8)), max(4, int(radius * 8)), (*colour, label), -1, cv2.LINE_8, 3)

    def limb(
        self, a: Sequence[float], b: Sequence[float], wide: float, narrow: float, colour: Colour, label: int
    ) -> None:
        """A tapered bar from a to b (pixels), ``wide`` at a and ``narrow`` at b. The hot spot of small figures, hence
        no numpy.
        """
        ax, ay, bx, by = a[0] * 8, a[1] * 8, b[0] * 8, b[1] * 8
        dx, dy = bx - ax, by - ay
        unit = 4 / ((dx * dx + dy * dy) ** 0.5 + 1e-6)
        nx, ny = -dy * unit, dx * unit
        corners = (
            (int(ax + nx * wide), int(ay + ny * wide)),
            (int(bx + nx * narrow), int(by + ny * narrow)),
            (int(bx - nx * narrow), int(by - ny * narrow)),
            (int(ax - nx * wide), int(ay - ny * wide)),
        )
        cv2.fillConvexPoly(self.image, np.array(corners, np.int32), (*colour, label), cv2.LINE_8, 3)

    def blit(
        self,
        texture: Texture,
        quad: Points,
        surface: tuple[Colour, float, int],
        window: tuple[float, float] = (0, 1),
        filled: bool = False,
    ) -> None:
        """Warp a texture into a quad of pixels (top left, top right, bottom right, bottom left).

        Args:
            surface: the light on it, its distance in metres and its class id.
            window: the part of the texture's width to use; above 1 it repeats.
            filled: the class id also covers the holes of the texture inside the quad (a fence is a fence between its
                bars).
        """
        xs, ys = quad.T.tolist()
        x0, y0 = max(0, floor(min(xs))), max(0, floor(min(ys)))
        x1, y1 = min(self.view.width, ceil(max(xs)) + 1), min(self.view.height, ceil(max(ys)) + 1)
        if x1 <= x0 or y1 <= y0:
            return
        light, distance, label = surface
        if max(xs) - min(xs) < 3.5:
            self.polygon(quad, self.shade((125, 125, 125), light, distance), label)
            return
        source = texture[
            min(
                len(texture) - 1,
                max(0, floor(log2(texture[0].shape[0] / max(1.0, ys[3] - ys[0], ys[2] - ys[1])) + 0.3)),
            )
        ]
        height, width = source.shape[:2]
        whole = window[0] >= 0 and window[1] <= 1
        corners = _UNIT * np.array([(window[1] - window[0]) * width, height if whole else height - 2], np.float32)
        # Repeating must not bleed over top and bottom.
        corners += np.array([window[0] * width - 0.5, -0.5 if whole else 0.5], np.float32)
        target = (quad - (x0, y0)).astype(np.float32)
        border = cv2.BORDER_CONSTANT if whole else cv2.BORDER_WRAP
        matrix = cv2.getPerspectiveTransform(corners, target)
        patch = cv2.warpPerspective(source, matrix, (x1 - x0, y1 - y0), flags=cv2.INTER_LINEAR, borderMode=border)
        mask = cv2.threshold(cv2.extractChannel(patch, 3), 127, 255, cv2.THRESH_BINARY)[1]
        region = self.image[y0:y1, x0:x1]
        if not whole or filled or window[0] > 0:
            inside = np.zeros(mask.shape, np.uint8)
            cv2.fillConvexPoly(inside, (target * 8).astype(np.int32), 255, cv2.LINE_8, 3)
            mask = cv2.bitwise_and(mask, inside)
            if filled:
                region[..., 3][inside > 0] = label
        # The table lights, adds haze and makes alpha the class id.
        fog, air = (
            self.lighting.fog(distance),
            self.lighting.horizon,
        )
        clear = 1 - fog
        table = _RAMP * np.array((light[0] * clear, light[1] * clear, light[2] * clear, 0), np.float32)
        table += np.array((air[0] * fog, air[1] * fog, air[2] * fog, label), np.float32)
        cv2.copyTo(cv2.LUT(patch, np.minimum(table, 255, out=table).astype(np.uint8)[None]), mask, region)
