"""How a procedural street is lit and seen: sun, sky, haze, exposure, colour cast and the flaws of the sensor."""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, exp, pi, sin

import cv2
import numpy as np
from numpy.typing import NDArray

from rdd_deploy.data.streets.textures import bank

Image = NDArray[np.uint8]
Colour = tuple[float, float, float]
"""BGR, 0 to 255 for a surface, a factor around 1 for light."""


def mix(a: Colour, b: Colour, share: float) -> Colour:
    """``a`` and ``b`` with ``share`` of ``b``."""
    return (a[0] + (b[0] - a[0]) * share, a[1] + (b[1] - a[1]) * share, a[2] + (b[2] - a[2]) * share)


@dataclass(frozen=True)
class Look:
    """Light and camera of one street. Directions are unit vectors (right, up, along the road); densities are per metre."""

    sun: tuple[float, float, float]
    sun_light: Colour
    ambient: Colour
    zenith: Colour
    horizon: Colour
    cloud: Colour
    cover: float
    haze: float
    wet: float
    exposure: float
    gamma: float
    cast: Colour
    noise: float
    blur: float
    vignette: float
    jpeg: int
    leaves: Colour
    bonnet: float

    def light(self, nx: float, ny: float, nz: float) -> Colour:
        """What falls on a surface with this normal, as factors."""
        facing = max(0.0, nx * self.sun[0] + ny * self.sun[1] + nz * self.sun[2])
        open_sky = 0.8 + 0.2 * ny
        return (
            self.ambient[0] * open_sky + self.sun_light[0] * facing,
            self.ambient[1] * open_sky + self.sun_light[1] * facing,
            self.ambient[2] * open_sky + self.sun_light[2] * facing,
        )

    def fog(self, distance: float) -> float:
        return 1.0 - exp(-self.haze * max(distance, 0.0))


def draw_look(rng: np.random.Generator) -> Look:
    """A weather, an hour and a camera."""
    overcast, dusk = rng.random() < 0.4, rng.random() < 0.18
    elevation = rng.uniform(0.12, 0.35) if dusk else rng.uniform(0.45, 1.15)
    azimuth = rng.uniform(-pi, pi)
    strength = rng.uniform(0.0, 0.12) if overcast else rng.uniform(0.55, 0.95)
    warm = rng.uniform(0.25, 0.5) if dusk else rng.uniform(0.0, 0.15)
    grey = rng.uniform(150, 240)
    zenith, horizon = _sky(rng, overcast, dusk, grey)
    level = rng.uniform(0.75, 0.98) if overcast else rng.uniform(0.45, 0.65)
    metered = level + strength * sin(elevation)  # the camera opens its iris, though not all the way
    cast = 1 + rng.normal(0, 0.035, 3)
    autumn = rng.random() < 0.25
    leaves = (0.5, rng.uniform(0.75, 1.05), rng.uniform(1.5, 2.4)) if autumn else tuple(rng.uniform((0.6, 0.75, 0.6), (1.2, 1.15, 1.2)))
    return Look(
        sun=(cos(elevation) * sin(azimuth), sin(elevation), cos(elevation) * cos(azimuth)),
        sun_light=(strength * (1 - warm), strength * (1 - warm * 0.35), strength),
        ambient=(level * 1.06, level, level * 0.95),
        zenith=zenith,
        horizon=horizon,
        cloud=(grey, grey, grey) if overcast else mix((250, 250, 250), horizon, warm),
        cover=rng.uniform(-0.4, 1.4),
        haze=rng.uniform(0.012, 0.03) if rng.random() < 0.15 else rng.uniform(0.002, 0.008),
        wet=rng.random() if overcast and rng.random() < 0.5 else 0.0,
        exposure=rng.uniform(0.8, 1.2) / metered**0.7,
        gamma=rng.uniform(0.8, 1.2),
        cast=(float(cast[0]), float(cast[1]), float(cast[2])),
        noise=rng.uniform(0.02, 0.08) if rng.random() < 0.8 else rng.uniform(0.08, 0.2),
        blur=rng.uniform(0.4, 0.6) if rng.random() < 0.8 else rng.uniform(0.6, 1.0),
        vignette=rng.uniform(0.0, 0.35),
        jpeg=int(rng.integers(35, 90)) if rng.random() < 0.3 else 0,
        leaves=(float(leaves[0]), float(leaves[1]), float(leaves[2])),
        bonnet=rng.uniform(0.04, 0.1) if rng.random() < 0.3 else 0.0,
    )


def _sky(rng: np.random.Generator, overcast: bool, dusk: bool, grey: float) -> tuple[Colour, Colour]:
    """The sky overhead and at the horizon."""
    if overcast:
        return (grey, grey * 0.985, grey * 0.96), (grey * 1.04, grey * 1.03, grey * 1.02)
    if dusk:
        overhead = (rng.uniform(120, 190), rng.uniform(95, 140), rng.uniform(70, 130))
        return overhead, (150, rng.uniform(160, 200), rng.uniform(200, 250))
    return (rng.uniform(200, 245), rng.uniform(140, 185), rng.uniform(70, 140)), (245, 232, rng.uniform(195, 228))


def sense(frame: Image, look: Look, rng: np.random.Generator) -> Image:
    """What the camera makes of the ideal frame, BGR uint8 (H, W, 3): blur, vignette, tone, noise and compression."""
    height, width = frame.shape[:2]
    sigma = look.blur * max(1.0, (height * width / 76800) ** 0.25)
    frame = cv2.GaussianBlur(frame, (5, 5), sigma)
    if look.vignette > 0.03:
        frame = cv2.multiply(frame, _vignette(height, width, look.vignette), scale=1 / 255)
    frame = cv2.LUT(frame, _tone(look))
    frame = cv2.addWeighted(frame, 1.0, _noise(height, width, rng), look.noise, -128 * look.noise)
    if look.jpeg:
        packed = cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, look.jpeg])[1]
        return np.asarray(cv2.imdecode(packed, cv2.IMREAD_COLOR), np.uint8)
    return np.asarray(frame, np.uint8)


def _tone(look: Look) -> Image:
    ramp = np.linspace(0, 1, 256)[:, None] ** look.gamma
    return np.asarray(np.clip(255 * ramp * np.array(look.cast) * look.exposure, 0, 255), np.uint8)[None]


def _vignette(height: int, width: int, strength: float) -> Image:
    across = np.linspace(-1, 1, width, dtype=np.float32) ** 2
    down = np.linspace(-1, 1, height, dtype=np.float32)[:, None] ** 2
    return np.asarray(cv2.cvtColor((255 - 127 * strength * (across + down)).astype(np.uint8), cv2.COLOR_GRAY2BGR), np.uint8)


def _noise(height: int, width: int, rng: np.random.Generator) -> Image:
    """A random crop of the bank's noise, repeated where the frame is larger."""
    tile = bank().noise
    spare_y, spare_x = tile.shape[0] - height, tile.shape[1] - width
    if spare_y < 0 or spare_x < 0:
        return np.tile(tile, (-(-height // tile.shape[0]), -(-width // tile.shape[1]), 1))[:height, :width]
    top, left = int(rng.integers(0, spare_y + 1)), int(rng.integers(0, spare_x + 1))
    return tile[top : top + height, left : left + width]
