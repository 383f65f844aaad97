"""Textures of the procedural streets: each is painted from a seed of its own when it is first used, then only warped
and tinted.

A texture is a tuple of halvings of one image: a far facade sampled from its full size would glitter. Sprites are BGRA
with an alpha of 0 or 255.
"""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
Floats = NDArray[np.float32]
Texture = tuple[Image, ...]

STYLES = 3
"""Of facades: brick, plaster, concrete."""
BROADLEAF, CONIFER, BARE, POPLAR = range(4)
TREES = 12
SIDE = 256
TILE, TILE_METRES = 512, 8.0
"""Side of the ground's tile, in pixels and in metres."""


def _rng(*key: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence([20240703, *key]))


def _fractal(rng: np.random.Generator, height: int, width: int, power: float) -> Floats:
    """Noise that tiles, with a spectrum of 1/f**power, mean 0 and standard deviation 1; float32 (height, width)."""
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = np.inf
    spectrum = rng.standard_normal((2, *frequency.shape))
    noise = np.fft.irfft2((spectrum[0] + 1j * spectrum[1]) / frequency**power, s=(height, width))
    return np.asarray(noise / noise.std(), np.float32)


def _bytes(values: NDArray[np.floating]) -> Image:
    return np.asarray(np.clip(values, 0, 255), np.uint8)


def _texture(image: Image) -> Texture:
    return (
        image,
        *(
            np.asarray(cv2.resize(image, None, fx=s, fy=s, interpolation=cv2.INTER_AREA))
            for s in (1 / 2, 1 / 4, 1 / 8, 1 / 16)
        ),
    )


@cache
def noise() -> Image:
    """Sensor noise, uint8 (H, W, 3) around 128."""
    return _bytes(128 + 32 * cv2.GaussianBlur(_rng(0).standard_normal((640, 832, 3), np.float32), (0, 0), 0.6) / 0.55)


@cache
def clouds() -> Image:
    return _bytes(128 + 60 * _fractal(_rng(1), 512, 1024, 1.7))


@cache
def ground() -> Texture:
    """Asphalt and paving slabs of 0.5 m, every second row shifted by half a slab; two channels around 128, (TILE, TILE,
    2).
    """
    rng = _rng(2)
    asphalt = (
        128
        + 9 * rng.standard_normal((TILE, TILE))
        + 9 * _fractal(rng, TILE, TILE, 0.8)
        + 7 * _fractal(rng, TILE, TILE, 1.6)
    )
    slabs = 128 + 7 * rng.standard_normal((TILE, TILE)) + 8 * _fractal(rng, TILE, TILE, 1.4)
    for y in range(0, TILE, 32):
        for x in range(y // 32 % 2 * 16, TILE, 32):
            slabs[y : y + 32, x : x + 32] += rng.normal(0, 7)
            slabs[y : y + 32, x : x + 2] -= 38
        slabs[y : y + 2] -= 38
    return _texture(_bytes(np.dstack((asphalt, slabs))))


def facade(floors: int, columns: int, style: int) -> Texture:
    """The front of a house with 1 to 6 floors and 2 to 5 windows a floor."""
    return _facade(min(max(floors, 1), 6), min(max(columns, 2), 5), style)


@cache
def _facade(floors: int, columns: int, style: int) -> Texture:
    rng = _rng(3, floors, columns, style)
    hue = rng.random()
    brick = np.array([70, 85, 140]) * (0.7 + 0.6 * hue) if hue < 0.6 else np.array([120, 165, 190])
    colour = (
        brick,
        np.array([175, 190, 200]) - 40 * hue * np.array([1.3, 1.0, 0.6]),
        np.array([150, 150, 148]) - 50 * hue,
    )[style]
    wall = np.full((SIDE, SIDE, 3), colour, np.float32)
    wall += 7 * _fractal(rng, SIDE, SIDE, 1.3)[..., None] + 5 * rng.standard_normal((SIDE, SIDE, 1)).astype(np.float32)
    if style == 0:
        wall[::5] *= 0.86
        wall[:, ::11] *= 0.93
    elif style == 2:
        wall[:: SIDE // 8] *= 0.8
        wall[:, :: SIDE // 6] *= 0.85
    storey, bay = SIDE // floors, SIDE // columns
    width, height = int(min(bay, 90) * rng.uniform(0.36, 0.6)), int(min(storey, 130) * rng.uniform(0.42, 0.62))
    for top in range((storey - height) // 2 + 3, floors * storey, storey):
        for left in range((bay - width) // 2, columns * bay, bay):
            _window(rng, wall, left, top, left + width, min(top + height, SIDE - 6))
    if floors > 1 and rng.random() < 0.45:
        _shop(rng, wall, SIDE - storey + storey // 8)
    else:
        left, door = int(rng.integers(0, columns)) * bay + bay // 3, rng.uniform(30, 170) + rng.uniform(-30, 30, 3)
        wall[SIDE - int(min(storey, 110) * 0.75) :, left : left + max(8, bay // 3)] = door
    wall[:6] = wall[:6] * 0.4 + 110  # the cornice and its shadow
    wall[6:9] *= 0.6
    wall[SIDE - 4 :] *= 0.7
    return _texture(np.dstack((_bytes(wall), np.full((SIDE, SIDE), 255, np.uint8))))


def _window(rng: np.random.Generator, wall: Floats, left: int, top: int, right: int, bottom: int) -> None:
    """Frame, glass with a reflection or a curtain, and sill, into the wall."""
    frame = (
        wall[0, 0] * 0.55
        if rng.random() < 0.4
        else np.array([225, 228, 230], np.float32) * (0.75 + 0.25 * rng.random())
    )
    wall[top - 2 : bottom + 3, left - 2 : right + 3] = frame
    dark = 35 + 60 * rng.random()
    glass = np.linspace(dark + 60 * rng.random(), dark, max(1, bottom - top), dtype=np.float32)[:, None, None]
    wall[top:bottom, left:right] = glass * np.array([1.08, 1.0, 0.94], np.float32)
    if rng.random() < 0.3:  # a curtain or blind
        end = top + int((bottom - top) * rng.uniform(0.25, 1.0))
        wall[top:end, left:right] = wall[top, left] * 0.4 + rng.uniform(80, 150) + rng.uniform(-15, 15, 3)
    if rng.random() < 0.5:  # the sky in the glass
        cv2.fillConvexPoly(
            wall, np.array([[left, bottom], [left, top], [right, top]], np.int32), (wall[top, left] * 0.7 + 55).tolist()
        )
    if right - left > 12:
        wall[top:bottom, (left + right) // 2] = wall[(2 * top + bottom) // 3, left:right] = frame
    wall[bottom + 2 : bottom + 5, left - 4 : right + 5] = wall[0, 0] * 1.15 + 15


def _shop(rng: np.random.Generator, wall: Floats, top: int) -> None:
    """A shop front over the ground floor: sign band with letters, panes with goods, perhaps an awning."""
    band = rng.uniform(30, 200, 3)
    band = band * 0.55 + band.mean() * 0.45
    wall[top:] = band * 0.5
    wall[top : top + 11] = band
    for left in range(8, SIDE - 20, 12):
        if rng.random() < 0.55:
            wall[top + 3 : top + 8, left : left + int(rng.integers(3, 9))] = 255 - band
    panes = int(rng.integers(2, 5))
    for pane in range(panes):
        left, right = SIDE * pane // panes + 5, SIDE * (pane + 1) // panes - 5
        wall[top + 13 : SIDE - 8, left:right] = np.array([95, 90, 80]) * rng.uniform(0.4, 1.5)
        for _ in range(6):
            x, y = int(rng.integers(left, right - 8)), int(rng.integers(top + 16, SIDE - 12))
            wall[y : min(y + 9, SIDE - 8), x : min(x + 14, right)] = rng.uniform(30, 190) + rng.uniform(-30, 30, 3)
    if rng.random() < 0.4:
        for left in range(0, SIDE, 16):
            wall[top + 8 : top + 20, left : left + 16] = band * (1.3 if left % 32 else 0.8) + 20


def kind_of_tree(number: int) -> int:
    """BROADLEAF, CONIFER, BARE or POPLAR, for 0 to TREES - 1."""
    return (*(BROADLEAF,) * 8, POPLAR, BARE, CONIFER, CONIFER)[number]


@cache
def tree(number: int) -> Texture:
    """One tree, its foot in the middle of the bottom row. Only bare trees bring their trunk."""
    rng, kind, image = _rng(4, number), kind_of_tree(number), np.zeros((SIDE, SIDE, 4), np.uint8)
    if kind == BARE:
        cv2.fillConvexPoly(
            image, np.array([[122, 256], [124, 170], [132, 170], [134, 256]], np.int32), (52, 66, 78, 255)
        )
        _branch(rng, image, np.array([128.0, 180.0]), -np.pi / 2, 46.0, 9.0)
        image[..., 3] = cv2.dilate(image[..., 3], np.ones((2, 2), np.uint8))
        return _texture(image)
    for x, y, radius, light in _clumps(rng, kind):
        colour = np.array([52, 112, 82]) * light * rng.uniform(0.85, 1.15) + rng.uniform(-8, 8, 3)
        cv2.circle(image, (int(x), int(y)), int(radius), (*np.clip(colour, 8, 250).tolist(), 255), -1)
    noise = _fractal(rng, SIDE, SIDE, 0.7)
    image[..., :3] = _bytes(image[..., :3] * (1 + 0.22 * noise[..., None]))
    # Speckles of sky would be unlearnable.
    leaves = cv2.morphologyEx(image[..., 3], cv2.MORPH_CLOSE, np.ones((7, 7), np.uint8))
    image[(leaves > 0) & (image[..., 3] == 0)] = (26, 50, 38, 255)
    rim = cv2.distanceTransform((leaves > 0).astype(np.uint8), cv2.DIST_L2, 3)
    ragged = cv2.GaussianBlur(noise, (0, 0), 1.6) * 3.0
    image[..., 3][((rim < 8) & (ragged > rim * 0.35 - 0.2)) | ((ragged > 3.6) & (rim < 26))] = (
        0  # and gaps between the boughs
    )
    return _texture(image)


def _clumps(rng: np.random.Generator, kind: int) -> list[tuple[float, float, float, float]]:
    """Leaf clumps (x, y, radius, light) from the dark inside to the lit outside."""
    clumps: list[tuple[float, float, float, float]] = []
    if kind == CONIFER:
        for y in np.repeat(np.linspace(232, 14, 90), 5).tolist():
            half = 4 + 70 * (y / 240) * (0.75 + 0.25 * (y % 34) / 34)
            x = 128 + rng.uniform(-half, half)
            clumps.append((x, y, rng.uniform(5, 11), 0.45 + 0.35 * (1 - (x - 128) / 160) * rng.uniform(0.6, 1.2)))
        return clumps
    width, height, middle = (34.0, 92.0, 100.0) if kind == POPLAR else (rng.uniform(70, 96), rng.uniform(62, 80), 92.0)
    lobes = np.clip(rng.normal(0, 0.42, (7, 2)), -0.5, 0.45).tolist()
    for layer in range(260):
        angle, radius = rng.uniform(0, 2 * np.pi), 0.58 * rng.random() ** 0.5
        dx, dy = lobes[layer % 7][0] + radius * np.cos(angle), lobes[layer % 7][1] + radius * np.sin(angle)
        light = min(max(0.5 + 0.45 * layer / 260 - 0.3 * dy - 0.12 * dx, 0.3), 1.6)
        clumps.append((128 + dx * width, middle + dy * height, rng.uniform(5, 13), light))
    return clumps


def _branch(
    rng: np.random.Generator, image: Image, start: NDArray[np.float64], angle: float, length: float, width: float
) -> None:
    """A branch that splits in three or four until it is a twig."""
    end = start + length * np.array([np.cos(angle), np.sin(angle)])
    shade = 0.7 + 0.5 * rng.random()
    points = (int(start[0]), int(start[1])), (int(end[0]), int(end[1]))
    cv2.line(image, *points, (58 * shade, 70 * shade, 80 * shade, 255), max(1, int(width)))
    for spread in rng.uniform(-0.8, 0.8, 4 if length > 24 else 3) if length >= 10 else ():
        _branch(rng, image, end, angle + spread, length * rng.uniform(0.62, 0.82), width * 0.62)


@cache
def hedge() -> Texture:
    """A wall of leaves without holes."""
    rng, image = _rng(5), np.full((SIDE, SIDE, 4), (44, 92, 66, 255), np.float32)
    for _ in range(700):
        light, centre = rng.uniform(0.6, 1.5), (int(rng.integers(0, SIDE)), int(rng.integers(0, SIDE)))
        cv2.circle(image, centre, int(rng.integers(3, 9)), (48 * light, 100 * light, 72 * light, 255), -1)
    image[..., :3] *= 1 + 0.2 * _fractal(rng, SIDE, SIDE, 0.8)[..., None]
    return _texture(_bytes(image))


@cache
def fence(kind: int) -> Texture:
    """Railings (0, 1), mesh (2), planks (3, 4) or the beams of a crash barrier (5), transparent between the bars."""
    rng, image = _rng(6, kind), np.zeros((128, 256, 4), np.uint8)
    image[..., :3] = _bytes(rng.uniform(60, 200) + 10 * _fractal(rng, 128, 256, 1.0))[..., None]
    alpha = np.zeros((128, 256), np.uint8)
    if kind < 2:
        for left in range(0, 256, 12 if kind else 16):
            alpha[4:, left : left + 4] = 255
        alpha[10:16] = alpha[112:118] = alpha[:, :7] = 255
    elif kind == 2:
        for offset in range(-128, 256, 11):
            cv2.line(alpha, (offset, 0), (offset + 128, 128), 255, 2)
            cv2.line(alpha, (offset + 128, 0), (offset, 128), 255, 2)
        alpha[:5] = alpha[:, :6] = 255
    elif kind < 5:
        for left in range(0, 256, 16):
            image[:, left : left + 16, :3] = _bytes(image[:, left : left + 16, :3] * rng.uniform(0.8, 1.2))
            alpha[int(rng.integers(0, 6)) :, left + (kind == 4) : left + 15] = 255
    else:
        alpha[20:52] = alpha[66:98] = alpha[:, 100:112] = 255
        image[30:38, :, :3] = image[76:84, :, :3] = 235
    image[..., 3] = alpha
    return _texture(image)


@cache
def skyline(number: int) -> Texture:
    """Far roofs, (64, 512)."""
    rng, image, left = _rng(7, number), np.zeros((64, 512, 4), np.uint8), 0
    while left < 512:
        width, top = int(rng.integers(10, 48)), int(rng.integers(8, 50))
        house = image[top:, left : left + width]
        house[...] = 255
        house[..., :3] = rng.uniform(70, 190) * np.array([0.95, 1.0, 1.0 + 0.25 * rng.random()])
        house[4::5, 2:-2:5, :3] = house[5::5, 2:-2:5, :3][: len(house[4::5])] = house[0, 0, :3] * 0.6
        left += width
    image[54:][image[54:, :, 3] == 0] = 110
    image[54:, :, 3] = 255
    return _texture(image)


@cache
def treeline(number: int) -> Texture:
    """Far trees and bushes, (64, 512), with gaps."""
    rng, image = _rng(8, number), np.zeros((64, 512, 4), np.uint8)
    tops = np.clip(40 + 9 * _fractal(rng, 1, 512, 1.2)[0] + 4 * _fractal(rng, 1, 512, 0.3)[0], 2, 64).astype(int)
    for x, top in enumerate(tops.tolist()):
        image[top:, x] = hedge()[0][top:64, x % SIDE]
    return _texture(image)
