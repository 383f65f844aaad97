"""How a procedural street is lit and seen: sun, sky, haze, exposure, colour cast and the flaws of the sensor."""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, exp, pi, sin

import cv2
import numpy as np
from numpy.typing import NDArray

from rdd_deploy.data.streets import textures

Image = NDArray[np.uint8]
Colour = tuple[float, float, float]
"""BGR, 0 to 255 for a surface, a factor around 1 for light."""


def mix(a: Colour, b: Colour, share: float) -> Colour:
    """``a`` and ``b`` with ``share`` of ``b``."""
    return (a[0] + (b[0] - a[0]) * share, a[1] + (b[1] - a[1]) * share, a[2] + (b[2] - a[2]) * share)


def tint(colour: Colour, factor: Colour) -> Colour:
    """A surface's colour or the light on it, dyed."""
    return (colour[0] * factor[0], colour[1] * factor[1], colour[2] * factor[2])


@dataclass(frozen=True)
class Lighting:
    """Light and camera of one street. Directions are unit vectors (right, up, along the road); haze is per metre.

    ``sky`` is the colour overhead, ``horizon`` that of the horizon and of the haze; ``leaves`` is a factor on the
    colour of all plants; ``bonnet`` is the share of the frame's height that the camera's own car hides.
    """

    sun: tuple[float, float, float]
    sun_light: Colour
    ambient: Colour
    sky: Colour
    horizon: Colour
    cloud: Colour
    cover: float
    haze: float
    exposure: float
    gamma: float
    cast: Colour
    noise: float
    blur: float
    vignette: float
    leaves: Colour
    bonnet: float

    def light(self, nx: float, ny: float, nz: float) -> Colour:
        """What falls on a surface with this normal, as factors."""
        facing = max(0.0, nx * self.sun[0] + ny * self.sun[1] + nz * self.sun[2])
        open_sky, ambient, sun = 0.8 + 0.2 * ny, self.ambient, self.sun_light
        return (
            ambient[0] * open_sky + sun[0] * facing,
            ambient[1] * open_sky + sun[1] * facing,
            ambient[2] * open_sky + sun[2] * facing,
        )

    def fog(self, distance: float) -> float:
        return 1.0 - exp(-self.haze * max(distance, 0.0))


def draw_lighting(rng: np.random.Generator) -> Lighting:
    """A weather, an hour and a camera."""
    overcast, dusk = rng.random() < 0.4, rng.random() < 0.18
    elevation = rng.uniform(0.12, 0.35) if dusk else rng.uniform(0.45, 1.15)
    azimuth = rng.uniform(-pi, pi)
    strength = rng.uniform(0.0, 0.12) if overcast else rng.uniform(0.55, 0.95)
    warm = rng.uniform(0.25, 0.5) if dusk else rng.uniform(0.0, 0.15)
    grey = rng.uniform(150, 240)
    sky: Colour = (rng.uniform(200, 245), rng.uniform(140, 185), rng.uniform(70, 140))
    horizon: Colour = (245, 232, rng.uniform(195, 228))
    if overcast:
        sky, horizon = (grey, grey * 0.985, grey * 0.96), (grey * 1.04, grey * 1.03, grey * 1.02)
    elif dusk:
        sky = (rng.uniform(120, 190), rng.uniform(95, 140), rng.uniform(70, 130))
        horizon = (150, rng.uniform(160, 200), rng.uniform(200, 250))
    level = rng.uniform(0.75, 0.98) if overcast else rng.uniform(0.45, 0.65)
    metered = level + strength * sin(elevation)  # the camera opens its iris, though not all the way
    autumn = rng.random() < 0.25
    leaves = (
        (0.5, rng.uniform(0.75, 1.05), rng.uniform(1.5, 2.4))
        if autumn
        else rng.uniform((0.6, 0.75, 0.6), (1.2, 1.15, 1.2)).tolist()
    )
    return Lighting(
        sun=(cos(elevation) * sin(azimuth), sin(elevation), cos(elevation) * cos(azimuth)),
        sun_light=(strength * (1 - warm), strength * (1 - warm * 0.35), strength),
        ambient=(level * 1.06, level, level * 0.95),
        sky=sky,
        horizon=horizon,
        cloud=(grey, grey, grey) if overcast else mix((250, 250, 250), horizon, warm),
        cover=rng.uniform(-0.4, 1.4),
        haze=rng.uniform(0.012, 0.03) if rng.random() < 0.15 else rng.uniform(0.002, 0.008),
        exposure=rng.uniform(0.8, 1.2) / metered**0.7,
        gamma=rng.uniform(0.8, 1.2),
        cast=tuple(1 + rng.normal(0, 0.035, 3)),
        noise=rng.uniform(0.02, 0.08) if rng.random() < 0.8 else rng.uniform(0.08, 0.2),
        blur=rng.uniform(0.4, 0.6) if rng.random() < 0.8 else rng.uniform(0.6, 1.0),
        vignette=rng.uniform(0.0, 0.35),
        leaves=tuple(leaves),
        bonnet=rng.uniform(0.04, 0.1) if rng.random() < 0.3 else 0.0,
    )


def sense(frame: Image, lighting: Lighting, rng: np.random.Generator) -> Image:
    """What the camera makes of the ideal frame, BGR uint8 (H, W, 3): blur, vignette, tone and noise."""
    height, width = frame.shape[:2]
    frame = cv2.GaussianBlur(frame, (5, 5), lighting.blur * max(1.0, (height * width / 76800) ** 0.25))
    across, down = (np.linspace(-1, 1, side, dtype=np.float32) ** 2 for side in (width, height))
    vignette = (255 - 127 * lighting.vignette * (across + down[:, None])).astype(np.uint8)
    frame = cv2.multiply(frame, cv2.cvtColor(vignette, cv2.COLOR_GRAY2BGR), scale=1 / 255)
    ramp = np.linspace(0, 1, 256)[:, None] ** lighting.gamma
    frame = cv2.LUT(
        frame, np.clip(255 * ramp * np.array(lighting.cast) * lighting.exposure, 0, 255).astype(np.uint8)[None]
    )
    tile = textures.noise()
    spare_y, spare_x = max(0, tile.shape[0] - height), max(0, tile.shape[1] - width)
    top, left = int(rng.integers(0, spare_y + 1)), int(rng.integers(0, spare_x + 1))
    tile = tile[top : top + height, left : left + width]
    if tile.shape != frame.shape:
        tile = np.tile(tile, (-(-height // tile.shape[0]), -(-width // tile.shape[1]), 1))[:height, :width]
    return np.asarray(cv2.addWeighted(frame, 1.0, tile, lighting.noise, -128 * lighting.noise), np.uint8)
