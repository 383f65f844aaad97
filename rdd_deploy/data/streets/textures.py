"""The texture bank of the procedural streets: painted once per process from a fixed seed, then only warped and tinted.

Every sprite is BGRA (alpha 0 or 255 at full size) as a tuple of mip levels, each half the size of the one before, because a
facade 100 m away sampled from its full-size texture would glitter from frame to frame.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

from rdd_deploy.data.streets.plants import BARE, BROADLEAF, CONIFER, POPLAR, foliage, paint_tree

Image = NDArray[np.uint8]
Mips = tuple[Image, ...]

FLOORS = (1, 2, 3, 4, 5, 6)
COLUMNS = (2, 3, 4, 5)
STYLES = 3
TREE_KINDS = (*(BROADLEAF,) * 8, POPLAR, BARE, CONIFER, CONIFER)
FACADE = 256
TILE_METRES = 8.0
"""Side of the ground tiles (512 pixels) in metres."""


@dataclass(frozen=True)
class Bank:
    """Textures shared by all scenes. ``ground`` is uint8 (512, 512, 2): asphalt, slabs; ``noise`` is uint8 (H, W, 3); both around 128."""

    ground: Mips
    clouds: Image
    facades: dict[tuple[int, int, int], Mips]
    trees: tuple[Mips, ...]
    hedge: Mips
    fences: tuple[Mips, ...]
    skylines: tuple[Mips, ...]
    treelines: tuple[Mips, ...]
    noise: Image


@cache
def bank() -> Bank:
    """The bank of this process (about 0.3 s on the first call)."""
    rng = np.random.default_rng(np.random.SeedSequence(20240703))
    return Bank(
        ground=mips(np.dstack((_asphalt(rng), _slabs(rng))), 6),
        clouds=as_bytes(128 + 60 * fractal(rng, 512, 1024, 1.7)),
        facades={(f, c, s): mips(_facade(rng, f, c, s), 5) for f in FLOORS for c in COLUMNS for s in range(STYLES)},
        trees=tuple(mips(paint_tree(rng, kind, fractal(rng, 256, 256, 0.7)), 5) for kind in TREE_KINDS),
        hedge=mips(foliage(rng, fractal(rng, 256, 256, 0.8)), 5),
        fences=tuple(mips(_fence(rng, kind), 5) for kind in range(6)),
        skylines=tuple(mips(_skyline(rng), 4) for _ in range(3)),
        treelines=tuple(mips(_treeline(rng), 4) for _ in range(3)),
        noise=as_bytes(128 + 32 * cv2.GaussianBlur(rng.standard_normal((640, 832, 3), np.float32), (0, 0), 0.6) / 0.55),
    )


def fractal(rng: np.random.Generator, height: int, width: int, power: float) -> NDArray[np.float32]:
    """Noise that tiles, with a spectrum of 1/f**power, mean 0 and standard deviation 1; float32 (height, width)."""
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = np.inf
    spectrum = rng.standard_normal((2, *frequency.shape))
    noise = np.fft.irfft2((spectrum[0] + 1j * spectrum[1]) / frequency**power, s=(height, width))
    return np.asarray(noise / noise.std(), np.float32)


def as_bytes(values: NDArray[np.floating]) -> Image:
    return np.asarray(np.clip(values, 0, 255), np.uint8)


def mips(image: Image, levels: int) -> Mips:
    """The image and its halvings, ``levels`` in all."""
    chain = [np.ascontiguousarray(image)]
    for _ in range(levels - 1):
        height, width = chain[-1].shape[:2]
        chain.append(np.asarray(cv2.resize(chain[-1], (max(1, width // 2), max(1, height // 2)), interpolation=cv2.INTER_AREA)))
    return tuple(chain)


def _asphalt(rng: np.random.Generator) -> Image:
    grain = rng.standard_normal((512, 512)).astype(np.float32)
    return as_bytes(128 + 9 * grain + 9 * fractal(rng, 512, 512, 0.8) + 7 * fractal(rng, 512, 512, 1.6))


def _slabs(rng: np.random.Generator) -> Image:
    """Paving slabs of 0.5 m, every second row shifted by half a slab."""
    tile = 128 + 7 * rng.standard_normal((512, 512)) + 8 * fractal(rng, 512, 512, 1.4)
    for row in range(16):
        for column in range(16):
            left = column * 32 + (row % 2) * 16
            tile[row * 32 : row * 32 + 32, left : left + 32] += rng.normal(0, 7)
            tile[row * 32 : row * 32 + 32, left : left + 2] -= 38
        tile[row * 32 : row * 32 + 2] -= 38
    return as_bytes(tile)


def _opaque(colour: NDArray[np.floating]) -> Image:
    """BGR floats (H, W, 3) to a BGRA sprite without holes."""
    return np.dstack([as_bytes(colour), np.full(colour.shape[:2], 255, np.uint8)])


def _wall(rng: np.random.Generator, style: int) -> NDArray[np.float32]:
    """A wall of bricks, plaster or concrete panels, float32 (FACADE, FACADE, 3)."""
    hue = rng.random()
    brick = np.array([70, 85, 140]) * (0.7 + 0.6 * hue) if hue < 0.6 else np.array([120, 165, 190])
    colour = (brick, np.array([175, 190, 200]) - 40 * hue * np.array([1.3, 1.0, 0.6]), np.array([150, 150, 148]) - 50 * hue)[style]
    wall = np.full((FACADE, FACADE, 3), colour, np.float32)
    wall += 7 * fractal(rng, FACADE, FACADE, 1.3)[..., None] + 5 * rng.standard_normal((FACADE, FACADE, 1)).astype(np.float32)
    if style == 0:
        for row in range(0, FACADE, 5):
            wall[row] *= 0.86
            wall[row : row + 5, (row % 2) * 5 :: 11] *= 0.9
    elif style == 2:
        wall[:: FACADE // 8] *= 0.8
        wall[:, :: FACADE // 6] *= 0.85
    streaks = np.repeat(fractal(rng, 1, FACADE, 0.6), FACADE, 0) * np.linspace(1, 0.2, FACADE, dtype=np.float32)[:, None]
    return np.asarray(wall * (1 + 0.05 * streaks[..., None]), np.float32)


def _window(rng: np.random.Generator, wall: NDArray[np.float32], box: tuple[int, int, int, int], style: int) -> None:
    """One window into the wall at (left, top, right, bottom): frame, glass with a reflection or a curtain, sill."""
    left, top, right, bottom = box
    frame = (wall[0, 0] * 0.55 if rng.random() < 0.4 else np.array([225, 228, 230], np.float32) * (0.75 + 0.25 * rng.random())).tolist()
    cv2.rectangle(wall, (left - 2, top - 2), (right + 2, bottom + 2), frame, -1)
    dark = 35 + 60 * rng.random()
    glass = np.linspace(dark + 60 * rng.random(), dark, max(1, bottom - top), dtype=np.float32)[:, None, None]
    wall[top:bottom, left:right] = glass * np.array([1.08, 1.0, 0.94], np.float32)
    if rng.random() < 0.3:  # curtain or blind
        share = rng.uniform(0.25, 1.0)
        wall[top : top + int((bottom - top) * share), left:right] = wall[top, left] * 0.4 + rng.uniform(80, 150) + rng.uniform(-15, 15, 3)
    if rng.random() < 0.5:  # the sky in the glass
        corner = np.array([[left, bottom], [left, top], [right, top]], np.int32)
        tint = (wall[top, left] * 0.7 + 55).tolist()
        cv2.fillConvexPoly(wall, corner, tint)
    middle = (left + right) // 2
    if right - left > 12 and style != 2:
        cv2.line(wall, (middle, top), (middle, bottom), frame, 1)
        cv2.line(wall, (left, (2 * top + bottom) // 3), (right, (2 * top + bottom) // 3), frame, 1)
    cv2.rectangle(wall, (left - 4, bottom + 2), (right + 4, bottom + 4), (wall[0, 0] * 1.15 + 15).tolist(), -1)


def _shop(rng: np.random.Generator, wall: NDArray[np.float32], top: int) -> None:
    """A shop front over the ground floor: sign band, panes, door, perhaps an awning."""
    band = rng.uniform(30, 200, 3)
    band = band * 0.55 + band.mean() * 0.45
    wall[top:] = band * 0.5
    cv2.rectangle(wall, (0, top), (FACADE, top + 10), band.tolist(), -1)
    for left in range(8, FACADE - 20, 12):  # letters
        if rng.random() < 0.55:
            cv2.rectangle(wall, (left, top + 3), (left + int(rng.integers(3, 9)), top + 7), (255 - band).tolist(), -1)
    panes = int(rng.integers(2, 5))
    for pane in range(panes):
        left, right = FACADE * pane // panes + 5, FACADE * (pane + 1) // panes - 5
        wall[top + 13 : FACADE - 8, left:right] = np.array([95, 90, 80], np.float32) * rng.uniform(0.4, 1.5)
        for _ in range(6):
            x, y = int(rng.integers(left, right - 8)), int(rng.integers(top + 16, FACADE - 12))
            cv2.rectangle(
                wall, (x, y), (min(x + 14, right), min(y + 9, FACADE - 8)), (rng.uniform(30, 190) + rng.uniform(-30, 30, 3)).tolist(), -1
            )
    if rng.random() < 0.4:
        for left in range(0, FACADE, 16):
            stripe = (band * (1.3 if left % 32 else 0.8) + 20).tolist()
            cv2.rectangle(wall, (left, top + 8), (left + 15, top + 20), stripe, -1)


def _facade(rng: np.random.Generator, floors: int, columns: int, style: int) -> Image:
    """One front of a building with its windows, door or shop, and cornice."""
    wall = _wall(rng, style)
    storey, bay = FACADE // floors, FACADE // columns
    width, height = int(min(bay, 90) * rng.uniform(0.36, 0.6)), int(min(storey, 130) * rng.uniform(0.42, 0.62))
    for floor in range(floors):
        for column in range(columns):
            left = column * bay + (bay - width) // 2
            top = floor * storey + (storey - height) // 2 + 3
            _window(rng, wall, (left, top, left + width, min(top + height, FACADE - 6)), style)
        if style == 1 and floor:
            wall[floor * storey : floor * storey + 2] *= 1.15
    if floors > 1 and rng.random() < 0.45:
        _shop(rng, wall, FACADE - storey + storey // 8)
    else:
        left = int(rng.integers(0, columns)) * bay + bay // 3
        colour = (rng.uniform(30, 170) + rng.uniform(-30, 30, 3)).tolist()
        cv2.rectangle(wall, (left, FACADE - int(min(storey, 110) * 0.75)), (left + max(8, bay // 3), FACADE), colour, -1)
    wall[:6] = wall[:6] * 0.4 + 110
    wall[6:9] *= 0.6  # the cornice's shadow
    wall[FACADE - 4 :] *= 0.7
    return _opaque(wall)


def _fence(rng: np.random.Generator, kind: int) -> Image:
    """Railings, planks, mesh or panels, BGRA (128, 256, 4), transparent between the bars."""
    shape = (128, 256)
    image = np.zeros((*shape, 4), np.uint8)
    image[..., :3] = as_bytes(np.clip(rng.uniform(60, 200), 0, 255) + 10 * fractal(rng, *shape, 1.0))[..., None]
    alpha = np.zeros(shape, np.uint8)
    if kind in (0, 1):  # railings
        for left in range(0, 256, 12 if kind else 16):
            alpha[4:, left : left + 4] = 255
        alpha[10:16] = alpha[112:118] = 255
        alpha[:, :7] = 255
    elif kind == 2:  # mesh
        for offset in range(-128, 256, 11):
            cv2.line(alpha, (offset, 0), (offset + 128, 128), 255, 2)
            cv2.line(alpha, (offset + 128, 0), (offset, 128), 255, 2)
        alpha[:5] = 255
        alpha[:, :6] = 255
    elif kind in (3, 4):  # planks
        for left in range(0, 256, 16):
            image[:, left : left + 16, :3] = np.clip(image[:, left : left + 16, :3] * rng.uniform(0.8, 1.2), 0, 255).astype(np.uint8)
            alpha[int(rng.integers(0, 6)) :, left + (kind == 4) : left + 15] = 255
        image[24:30, :, :3] = image[24:30, :, :3] // 5 * 4
        image[96:102, :, :3] = image[96:102, :, :3] // 5 * 4
    else:  # beams of a crash barrier
        alpha[20:52] = alpha[66:98] = 255
        image[30:38, :, :3] = image[76:84, :, :3] = 235
        alpha[:, 100:112] = 255
    image[..., 3] = alpha
    return image


def _skyline(rng: np.random.Generator) -> Image:
    """Far roofs, BGRA (64, 512, 4)."""
    image = np.zeros((64, 512, 4), np.uint8)
    left = 0
    while left < 512:
        width, top = int(rng.integers(10, 48)), int(rng.integers(8, 50))
        colour = rng.uniform(70, 190) * np.array([0.95, 1.0, 1.0 + 0.25 * rng.random()])
        cv2.rectangle(image, (left, top), (left + width, 64), (*np.clip(colour, 0, 255).tolist(), 255), -1)
        for y in range(top + 4, 62, 5):
            for x in range(left + 2, left + width - 2, 5):
                if rng.random() < 0.7:
                    cv2.rectangle(image, (x, y), (x + 1, y + 2), (*(colour * 0.6).tolist(), 255), -1)
        left += width
    image[54:] = np.where(image[54:, :, 3:] > 0, image[54:], 110)
    image[54:, :, 3] = 255
    return image


def _treeline(rng: np.random.Generator) -> Image:
    """Far trees and bushes, BGRA (64, 512, 4), with gaps."""
    image = np.zeros((64, 512, 4), np.uint8)
    top = 40 + 9 * fractal(rng, 1, 512, 1.2)[0] + 4 * fractal(rng, 1, 512, 0.3)[0]
    leaves = foliage(rng, fractal(rng, 256, 256, 0.8))
    for x in range(512):
        image[int(np.clip(top[x], 2, 64)) :, x] = leaves[int(np.clip(top[x], 2, 64)) : 64, x % 256]
    return image
