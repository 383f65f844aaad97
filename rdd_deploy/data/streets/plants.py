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
    """One tree, BGRA (256, 256, 4), its foot in the middle of the bottom row.

    Only bare trees bring their trunk. ``noise`` is tileable, float32 (256, 256).
    """
    image = np.zeros((SIDE, SIDE, 4), np.uint8)
    if kind == BARE:
        _trunk(rng, image)
        _branches(rng, image, np.array([128.0, 180.0]), -np.pi / 2, 46.0, 9.0)
        image[..., 3] = cv2.dilate(image[..., 3], np.ones((2, 2), np.uint8))
        return image
    for x, y, radius, light in _clumps(rng, kind):
        colour = np.array([52, 112, 82]) * light * rng.uniform(0.85, 1.15) + rng.uniform(-8, 8, 3)
        cv2.circle(image, (int(x), int(y)), int(radius), (*np.clip(colour, 8, 250).tolist(), 255), -1)
    crown = image
    crown[..., :3] = np.clip(crown[..., :3] * (1 + 0.22 * noise[: len(crown), :, None]), 0, 255).astype(np.uint8)
    leaves = cv2.morphologyEx(crown[..., 3], cv2.MORPH_CLOSE, np.ones((7, 7), np.uint8))  # speckles of sky would be unlearnable
    holes = (leaves > 0) & (crown[..., 3] == 0)
    crown[holes] = (26, 50, 38, 255)
    rim = cv2.distanceTransform((leaves > 0).astype(np.uint8), cv2.DIST_L2, 3)
    ragged = cv2.GaussianBlur(noise, (0, 0), 1.6)[: len(crown)] * 3.0
    crown[..., 3][(rim < 8) & (ragged > rim * 0.35 - 0.2)] = 0
    crown[..., 3][(ragged > 3.6) & (rim < 26)] = 0  # gaps between the boughs
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


def _trunk(rng: np.random.Generator, image: Image) -> None:
    for right, shade in ((6, 1.0), (0, 0.7)):
        outline = np.array([[122, 256], [124, 170], [128 + right * 2 // 3, 170], [128 + right, 256]], np.int32)
        cv2.fillConvexPoly(image, outline, (58 * shade, 74 * shade, 88 * shade, 255))
    image[..., :3] = np.clip(image[..., :3] * rng.uniform(0.85, 1.1, (SIDE, SIDE, 1)), 0, 255).astype(np.uint8)


def _clumps(rng: np.random.Generator, kind: int) -> list[tuple[float, float, float, float]]:
    """Leaf clumps (x, y, radius, light) from the dark inside to the lit outside."""
    clumps: list[tuple[float, float, float, float]] = []
    if kind == CONIFER:
        for y in np.repeat(np.linspace(232, 14, 90), 5):
            half = 4 + 70 * (y / 240) * (0.75 + 0.25 * (y % 34) / 34)
            x = 128 + rng.uniform(-half, half)
            clumps.append((float(x), float(y), rng.uniform(5, 11), float(0.45 + 0.35 * (1 - (x - 128) / 160) * rng.uniform(0.6, 1.2))))
        return clumps
    width, height, middle = (34.0, 92.0, 100.0) if kind == POPLAR else (rng.uniform(70, 96), rng.uniform(62, 80), 92.0)
    lobes = rng.normal(0, 0.42, (7, 2))
    for layer in range(260):
        lobe = lobes[layer % 7]
        angle, radius = rng.uniform(0, 2 * np.pi), 0.58 * np.sqrt(rng.random())
        dx, dy = np.clip(lobe[0], -0.5, 0.5) + radius * np.cos(angle), np.clip(lobe[1], -0.45, 0.45) + radius * np.sin(angle)
        light = 0.5 + 0.45 * layer / 260 - 0.3 * dy - 0.12 * dx
        clumps.append((float(128 + dx * width), float(middle + dy * height), rng.uniform(5, 13), float(np.clip(light, 0.3, 1.6))))
    return clumps


def _branches(rng: np.random.Generator, image: Image, start: NDArray[np.float64], angle: float, length: float, width: float) -> None:
    """A bare crown, each branch splitting in two or three until it is a twig."""
    end = start + length * np.array([np.cos(angle), np.sin(angle)])
    shade = 0.7 + 0.5 * rng.random()
    points = tuple(int(v) for v in start), tuple(int(v) for v in end)
    cv2.line(image, *points, (58 * shade, 70 * shade, 80 * shade, 255), max(1, int(width)))
    if length < 10:
        return
    for spread in rng.uniform(-0.8, 0.8, 4 if length > 24 else 3):
        _branches(rng, image, end, angle + spread, length * rng.uniform(0.62, 0.82), width * 0.62)
