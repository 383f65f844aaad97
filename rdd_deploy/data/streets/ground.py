"""Sky, road, pavement and shadows: all that lies behind or below the objects of a procedural street."""

from __future__ import annotations

from math import cos, floor, sin

import cv2
import numpy as np
from numpy.typing import NDArray

from rdd_deploy.data.streets import textures
from rdd_deploy.data.streets.canvas import BUILDING, NEAR, PAVEMENT, ROAD, SKY, TREE, Canvas, Points
from rdd_deploy.data.streets.layout import CELL, FAR, Cell, SceneObject
from rdd_deploy.data.streets.lighting import Colour, mix, tint
from rdd_deploy.data.streets.objects import CIRCLE

_AHEAD = np.array([NEAR, 2.2, 3, 4.2, 6, 8.5, 12, 16, 22, 30, 40, 52, 68, 88, 115, 150, 220], np.float64)


def paint_sky(canvas: Canvas, rng: np.random.Generator, seconds: float) -> None:
    """A gradient with clouds, down to the horizon. Computed at half size: a sky has no edges to lose."""
    view, lighting = canvas.view, canvas.lighting
    rows, half_width = min(view.height, floor(view.horizon) + 2), (view.width + 1) // 2
    if rows < 2:
        return
    half = (rows + 1) // 2
    down = np.linspace(max(0.0, 1 - rows / (0.6 * view.height)), 1, half, dtype=np.float32)[:, None, None] ** 1.5
    sky = np.array(lighting.sky, np.float32) * (1 - down) + np.array(lighting.horizon, np.float32) * down
    top, left = int(rng.integers(0, 250)), rng.uniform(0, 400) + seconds * 0.8
    step = rng.uniform(0.8, 1.4) * 320 / view.width
    matrix = np.array([[step, 0, left], [0, step * 2.2, top]], np.float32)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    clouds = cv2.warpAffine(textures.clouds(), matrix, (half_width, half), flags=flags, borderMode=cv2.BORDER_WRAP)
    share = np.clip((clouds.astype(np.float32) - 128) / 90 + lighting.cover - 0.4, 0, 0.85)[..., None]
    sky = sky + (np.array(lighting.cloud, np.float32) * (1.06 - 0.16 * np.clip(share - 0.4, 0, 1)) - sky) * share
    canvas.image[:rows, :, :3] = cv2.resize(
        np.minimum(sky, 255).astype(np.uint8), (view.width, rows), interpolation=cv2.INTER_LINEAR
    )
    canvas.image[:rows, :, 3] = SKY


def paint_skyline(canvas: Canvas, rng: np.random.Generator) -> None:
    """What closes the street at its end: far roofs, then far trees."""
    view = canvas.view
    offset = rng.uniform(0, 1) + 0.3 * view.world.slope(view.z)
    for sprite, label, metres, colour in (
        (textures.skyline, BUILDING, rng.uniform(14, 26), (0.95, 0.95, 0.95)),
        (textures.treeline, TREE, rng.uniform(9, 20), canvas.lighting.leaves),
    ):
        top, bottom = view.horizon - metres * view.focal / 190, view.horizon + 1.5 * view.focal / 190
        quad = np.array([[-1.0, top], [view.width + 1, top], [view.width + 1, bottom], [-1.0, bottom]])
        light = tint(canvas.lighting.light(0, 0.3, -1), colour)
        canvas.blit(sprite(int(rng.integers(0, 3))), quad, (light, 120, label), (offset, offset + 1.2))


def paint_ground(canvas: Canvas, cells: list[Cell], rng: np.random.Generator) -> None:
    """Flat areas with their class first; texture, shadows and haze are then multiplied over all of them at once."""
    view, street = canvas.view, canvas.view.world.street
    grey, other, warm = rng.uniform(70, 135), rng.uniform(90, 185), rng.uniform(0.8, 1.0)
    road = (grey * rng.uniform(0.94, 1.08), grey, grey * rng.uniform(0.92, 1.06))
    pave = (other * warm, other * (0.5 + warm / 2), other * rng.uniform(1.0, 1.15))
    top = max(0, min(view.height, floor(view.horizon) + 1))
    canvas.image[top:] = (*pave, PAVEMENT)
    for cell in cells:
        near = cell.start - view.z
        for side, inner, outer in (
            (0, -street.front[0], -street.front[0] - 60),
            (1, street.front[1], street.front[1] + 60),
        ):
            if cell.grass[side]:
                _strip(canvas, inner, outer, near, near + CELL, tint((55, 105, 85), canvas.lighting.leaves), TREE)
    for beyond, colour, label in (
        (0.15, mix(pave, (235, 235, 235), 0.35), PAVEMENT),  # the kerb
        (0.0, mix(road, (30, 30, 30), 0.4), ROAD),  # the gutter
        (-0.25, road, ROAD),
    ):
        canvas.polygon(
            _band(canvas, -street.kerb[0] - beyond, street.kerb[1] + beyond, _AHEAD), colour, label, convex=False
        )
    for cell in cells:
        if cell.crossing:
            _strip(canvas, -60, 60, cell.crossing[0] - view.z, cell.crossing[1] - view.z, road, ROAD)
    _patches(canvas, np.concatenate([cell.patches for cell in cells if cell.start - view.z < 100]), road)
    _texture(canvas, top)


def _band(canvas: Canvas, left: float, right: float, ahead: NDArray[np.float64]) -> NDArray[np.float64]:
    """Outline in pixels, (2N, 2), of a band that follows the road between two distances from its middle."""
    zeros, shifts = np.zeros_like(ahead), canvas.view.shifts(ahead)
    edges = [canvas.view.project(np.stack((zeros + x, zeros, ahead), 1), shifts) for x in (left, right)]
    return np.concatenate((edges[0], edges[1][::-1]))


def _strip(canvas: Canvas, left: float, right: float, near: float, far: float, colour: Colour, label: int) -> None:
    """A rectangle on the ground in metres, drawn if it is in sight."""
    if far > NEAR and near < FAR:
        canvas.polygon(_band(canvas, left, right, np.array([max(near, NEAR), far])), colour, label)


def _patches(canvas: Canvas, patches: NDArray[np.float64], road: Colour) -> None:
    """Repairs and paint. All are projected together: there are a hundred of them."""
    view = canvas.view
    patches = patches[patches[:, 3] > view.z + NEAR]
    corners = np.zeros((len(patches), 4, 3))
    corners[:, :, 0] = patches[:, [0, 1, 1, 0]]
    corners[:, :, 2] = np.maximum(patches[:, [2, 2, 3, 3]] - view.z, NEAR)
    flat = corners.reshape(-1, 3)
    fixed = (view.project(flat, view.shifts(flat[:, 2])) * 8).astype(np.int32).reshape(-1, 4, 2)
    paint = mix(road, (235, 240, 240), view.world.rng(4).uniform(0.35, 0.95))
    for quad, tone in zip(fixed, patches[:, 4].tolist(), strict=True):
        cv2.fillConvexPoly(
            canvas.image, quad, (*(paint if tone == Cell.PAINT else tint(road, (tone,) * 3)), ROAD), cv2.LINE_8, 3
        )


def _texture(canvas: Canvas, top: int) -> None:
    """Multiply grain, joints, shadows and light over the ground rows, then add the haze of each row."""
    view, lighting = canvas.view, canvas.lighting
    rows = np.arange(top, view.height, dtype=np.float32)
    if not len(rows):
        return
    ahead = np.maximum(view.y * view.focal / np.maximum(rows - view.horizon, 0.3), 0.5).astype(np.float32)
    ground = canvas.image[top:]
    grain = cv2.multiply(
        _grain(canvas, ground, ahead), cv2.GaussianBlur(canvas.shadows[top:], (3, 3), 0), scale=1 / 255
    )
    fog = (1 - np.exp(-lighting.haze * ahead))[:, None]
    gain, haze = np.full((len(rows), 1, 4), 128, np.uint8), np.zeros((len(rows), 1, 4), np.uint8)
    gain[:, 0, :3] = np.clip(np.array(lighting.light(0, 1, 0), np.float32) * (1 - fog) * 128, 0, 255)
    haze[:, 0, :3] = np.minimum(np.array(lighting.horizon, np.float32) * fog, 255)
    wide = (view.width, len(rows))
    lit = cv2.multiply(ground, cv2.resize(gain, wide, interpolation=cv2.INTER_NEAREST), scale=1 / 128)
    lit = cv2.multiply(lit, cv2.merge((grain, grain, grain, np.full_like(grain, 128))), scale=1 / 128)
    cv2.add(lit, cv2.resize(haze, wide, interpolation=cv2.INTER_NEAREST), dst=ground)


def _grain(canvas: Canvas, ground: NDArray[np.uint8], ahead: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Brightness of the ground, uint8 (rows, W) around 128, fixed to the world and sampled at the halving that fits its
    distance.
    """
    view, per_metre = canvas.view, textures.TILE / textures.TILE_METRES
    columns = np.arange(view.width, dtype=np.float32)
    across = (columns[None] - view.centre) * (ahead / view.focal)[:, None] - view.shifts(ahead).astype(np.float32)[
        :, None
    ]
    along = np.repeat((ahead + view.z % textures.TILE_METRES).astype(np.float32)[:, None], view.width, 1)
    texels = np.abs(np.gradient(ahead)) * per_metre if len(ahead) > 1 else np.ones(1)
    levels = np.clip(np.log2(np.maximum(texels, 1)), 0, len(textures.ground()) - 1).astype(int)
    both = np.empty((*across.shape, 2), np.uint8)
    for level in set(levels.tolist()):  # in one piece: they fall from the horizon down
        chosen = np.flatnonzero(levels == level)
        piece, scale = slice(int(chosen[0]), int(chosen[-1]) + 1), per_metre / 2**level
        maps = across[piece] * scale, along[piece] * scale
        both[piece] = cv2.remap(textures.ground()[level], *maps, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
    paved = (ground[..., 3] == PAVEMENT).view(np.uint8)
    return np.asarray(cv2.copyTo(cv2.extractChannel(both, 1), paved, cv2.extractChannel(both, 0)), np.uint8)


def cast_shadow(canvas: Canvas, thing: SceneObject) -> None:
    """An object's shadow on the ground, and the dark under a car that even a grey day shows."""
    lighting, near = canvas.lighting, thing.z - canvas.view.z
    long = thing.kind in ("building", "hedge", "fence")
    if near > (80 if long else 55 if thing.kind in ("car", "tree") else 30):
        return
    flat = (lighting.sun[0] ** 2 + lighting.sun[2] ** 2) ** 0.5
    away = -np.array([lighting.sun[0], lighting.sun[2]]) / max(flat, 1e-3) * min(2.2, flat / max(lighting.sun[1], 0.05))
    at, sunny = np.array([thing.x, near]), canvas.shade_depth < 0.9
    if thing.kind == "car":
        along = np.array([sin(thing.heading), cos(thing.heading)]) * 2.1
        across = np.array([along[1], -along[0]]) * 0.4
        middle = at + (along if abs(along[1]) < 1.8 else (0, 2.1))
        box = np.array(
            [middle - along - across, middle + along - across, middle + along + across, middle - along + across]
        )
        if sunny:
            _darken(canvas, box + away * 1.1, 1.0)
        _darken(canvas, box, 1.0, 0.4)
    elif not sunny:
        return
    elif long:
        base = at + np.array([[0, 0], [0, thing.length]])
        _darken(
            canvas, np.concatenate((base, (base + away * thing.height)[::-1])), 0.5 if thing.kind == "fence" else 1.0
        )
    else:
        reach, half = away * thing.height, 0.25 if thing.kind in ("person", "cyclist", "clutter") else 0.08
        if thing.kind == "tree":
            _darken(canvas, at + reach * 0.65 + CIRCLE * thing.height * (0.28, 0.34), 0.85)
            reach = reach * 0.6
        side = np.array([half, 0])
        _darken(canvas, np.array([at - side, at + side, at + reach + side, at + reach - side]), 1.0)


def _darken(canvas: Canvas, flat: Points, strength: float, extra: float = 1.0) -> None:
    """Put the sun's shade (times ``extra``) under (N, 2) points: metres right of the road's middle, metres ahead."""
    if flat[:, 1].max() <= NEAR:
        return
    points = np.zeros((len(flat), 3))
    points[:, 0], points[:, 2] = flat[:, 0], np.maximum(flat[:, 1], NEAR)
    pixels = canvas.view.project(points, canvas.view.shifts(points[:, 2]))
    depth = (1.0 - (1.0 - canvas.shade_depth) * strength) * extra
    cv2.fillConvexPoly(canvas.shadows, (pixels * 8).astype(np.int32), int(255 * depth), cv2.LINE_8, 3)
