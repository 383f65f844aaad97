"""Trees and foliage for the texture bank of the procedural streets."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
Noise = NDArray[np.float32]
SIDE = 256

BROADLEAF, CONIFER, BARE, POPLAR = range(4)


def paint_tree(rng: np.random.Generator, kind: int, noise: Noise) -> Image:
    """One tree, BGRA (256, 256, 4), its foot in the middle of the bottom row; ``noise`` is tileable, float32 (256, 256)."""
    image = np.zeros((SIDE, SIDE, 4), np.uint8)
    _trunk(rng, image, kind)
    if kind == BARE:
        _branches(rng, image, np.array([128.0, 180.0]), -np.pi / 2, 46.0, 9.0)
        image[..., 3] = cv2.dilate(image[..., 3], np.ones((2, 2), np.uint8))
        return image
    for x, y, radius, light in _clumps(rng, kind):
        colour = np.array([52, 112, 82]) * light * rng.uniform(0.85, 1.15) + rng.uniform(-8, 8, 3)
        cv2.circle(image, (int(x), int(y)), int(radius), (*np.clip(colour, 8, 250).tolist(), 255), -1)
    crown = image[:196] if kind != CONIFER else image[:230]
    grain = 1 + 0.22 * noise[: len(crown), :, None]
    crown[..., :3] = np.clip(crown[..., :3] * grain, 0, 255).astype(np.uint8)
    rim = cv2.distanceTransform((crown[..., 3] > 0).astype(np.uint8), cv2.DIST_L2, 3)
    crown[..., 3][(rim < 7) & (noise[: len(crown)] > rim * 0.22 - 0.6)] = 0  # ragged edges
    crown[..., 3][(noise[: len(crown)] < -2.1) & (rim < 22)] = 0  # holes the sky shines through
    return image


def foliage(rng: np.random.Generator, noise: Noise) -> Image:
    """A wall of leaves, BGRA (256, 256, 4), without holes."""
    image = np.empty((SIDE, SIDE, 4), np.float32)
    image[...] = (44, 92, 66, 255)
    for _ in range(700):
        light = rng.uniform(0.6, 1.5)
        centre = (int(rng.integers(0, SIDE)), int(rng.integers(0, SIDE)))
        cv2.circle(image, centre, int(rng.integers(3, 9)), (48 * light, 100 * light, 72 * light, 255), -1)
    image[..., :3] *= 1 + 0.2 * noise[..., None]
    return np.clip(image, 0, 255).astype(np.uint8)


def _trunk(rng: np.random.Generator, image: Image, kind: int) -> None:
    foot, head = rng.uniform(7, 11), rng.uniform(4, 6)
    top = 120 if kind != CONIFER else 60
    outline = np.array([[128 - foot, 256], [128 - head, top], [128 + head, top], [128 + foot, 256]], np.int32)
    cv2.fillConvexPoly(image, outline, (58, 74, 88, 255))
    outline[2:, 0] -= int(foot)
    cv2.fillConvexPoly(image, outline, (40, 52, 62, 255))


def _clumps(rng: np.random.Generator, kind: int) -> list[tuple[float, float, float, float]]:
    """Leaf clumps (x, y, radius, light) from the dark inside to the lit outside."""
    clumps = []
    if kind == CONIFER:
        for y in np.linspace(232, 14, 130):
            half = 8 + 70 * (y / 240) * (0.75 + 0.25 * (y % 34) / 34)
            x = 128 + rng.uniform(-half, half)
            clumps.append((x, y, rng.uniform(5, 11), 0.45 + 0.35 * (1 - (x - 128) / 160) * rng.uniform(0.6, 1.2)))
        return clumps
    width, height, middle = (34.0, 92.0, 100.0) if kind == POPLAR else (rng.uniform(70, 96), rng.uniform(62, 80), 92.0)
    lobes = rng.normal(0, 0.42, (7, 2))
    for layer in range(260):
        lobe = lobes[layer % 7]
        angle, radius = rng.uniform(0, 2 * np.pi), 0.58 * np.sqrt(rng.random())
        dx, dy = np.clip(lobe[0], -0.5, 0.5) + radius * np.cos(angle), np.clip(lobe[1], -0.45, 0.45) + radius * np.sin(angle)
        light = 0.5 + 0.45 * layer / 260 - 0.3 * dy - 0.12 * dx
        clumps.append((128 + dx * width, middle + dy * height, rng.uniform(5, 13), float(np.clip(light, 0.3, 1.6))))
    return clumps


def _branches(rng: np.random.Generator, image: Image, start: NDArray[np.float64], angle: float, length: float, width: float) -> None:
    """A bare crown, each branch splitting in two or three until it is a twig."""
    end = start + length * np.array([np.cos(angle), np.sin(angle)])
    shade = 0.7 + 0.5 * rng.random()
    points = tuple(int(v) for v in start), tuple(int(v) for v in end)
    cv2.line(image, *points, (58 * shade, 70 * shade, 80 * shade, 255), max(1, int(width)))
    if length < 9:
        return
    for spread in rng.uniform(-0.75, 0.75, 3 if length > 16 else 2):
        _branches(rng, image, end, angle + spread, length * rng.uniform(0.62, 0.82), width * 0.62)
