"""Sky, road, pavement and shadows: all that lies behind or below the things of a procedural street."""

from __future__ import annotations

from math import floor

import cv2
import numpy as np
from numpy.typing import NDArray

from rdd_deploy.data.streets.canvas import BUILDING, NEAR, PAVEMENT, ROAD, SKY, TREE, Canvas, tint
from rdd_deploy.data.streets.layout import CELL, FAR, Cell, World
from rdd_deploy.data.streets.lighting import Colour, mix
from rdd_deploy.data.streets.textures import TILE_METRES, bank

_AHEAD = np.array([NEAR, 2.2, 3, 4.2, 6, 8.5, 12, 16, 22, 30, 40, 52, 68, 88, 115, 150, 220], np.float64)


def paint_sky(canvas: Canvas, rng: np.random.Generator, seconds: float) -> None:
    """A gradient with clouds, down to the horizon. Computed at half size: a sky has no edges to lose."""
    view, look = canvas.view, canvas.look
    rows, half_width = min(view.height, floor(view.horizon) + 2), (view.width + 1) // 2
    if rows < 2:
        return
    half = (rows + 1) // 2
    down = np.linspace(max(0.0, 1 - rows / (0.6 * view.height)), 1, half, dtype=np.float32)[:, None, None] ** 1.5
    sky = np.array(look.zenith, np.float32) * (1 - down) + np.array(look.horizon, np.float32) * down
    clouds = bank().clouds
    top, left = int(rng.integers(0, 250)), rng.uniform(0, 400) + seconds * 0.8
    step = rng.uniform(0.8, 1.4) * 320 / view.width
    matrix = np.array([[step, 0, left], [0, step * 2.2, top]], np.float32)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    noise = cv2.warpAffine(clouds, matrix, (half_width, half), flags=flags, borderMode=cv2.BORDER_WRAP)
    share = np.clip((noise.astype(np.float32) - 128) / 90 + look.cover - 0.4, 0, 0.85)[..., None]
    shading = 1.06 - 0.16 * np.clip(share - 0.4, 0, 1)
    sky = sky + (np.array(look.cloud, np.float32) * shading - sky) * share
    full = cv2.resize(np.minimum(sky, 255).astype(np.uint8), (view.width, rows), interpolation=cv2.INTER_LINEAR)
    canvas.image[:rows, :, :3] = full
    canvas.image[:rows, :, 3] = SKY


def paint_skyline(canvas: Canvas, rng: np.random.Generator) -> None:
    """What closes the street at its end: far roofs, then far trees."""
    view = canvas.view
    offset = rng.uniform(0, 1) + 0.3 * view.world.slope(view.z)
    for sprites, label, metres, colour in (
        (bank().skylines, BUILDING, rng.uniform(14, 26), (0.95, 0.95, 0.95)),
        (bank().treelines, TREE, rng.uniform(9, 20), canvas.look.leaves),
    ):
        top = view.horizon - metres * view.focal / 190
        bottom = view.horizon + 1.5 * view.focal / 190
        quad = np.array([[-1.0, top], [view.width + 1, top], [view.width + 1, bottom], [-1.0, bottom]])
        light = tint(canvas.look.light(0, 0.3, -1), colour)
        canvas.blit(sprites[int(rng.integers(0, 3))], quad, (light, 120, label), (offset, offset + 1.2))


def paint_ground(canvas: Canvas, world: World, rng: np.random.Generator) -> None:
    """Flat areas with their class first; texture, shadows and haze are then multiplied over all of them at once."""
    view, street = canvas.view, world.street
    grey, other = rng.uniform(70, 135), rng.uniform(90, 185)
    road = (grey * rng.uniform(0.94, 1.08), grey, grey * rng.uniform(0.92, 1.06))
    warm = rng.uniform(0.8, 1.0)
    pave = (other * warm, other * (0.5 + warm / 2), other * rng.uniform(1.0, 1.15))
    top = max(0, min(view.height, floor(view.horizon) + 1))
    canvas.image[top:] = (*pave, PAVEMENT)
    cells = world.cells(view.z)
    for k, cell in cells:
        _grass(canvas, k, cell)
    kerb = mix(pave, (235, 235, 235), 0.35)
    for outer, inner, colour, label in (
        ((-street.kerb[0] - 0.15), street.kerb[1] + 0.15, kerb, PAVEMENT),
        ((-street.kerb[0]), street.kerb[1], mix(road, (30, 30, 30), 0.4), ROAD),
        ((-street.kerb[0] + 0.25), street.kerb[1] - 0.25, road, ROAD),
    ):
        canvas.polygon(_strip(canvas, outer, inner, _AHEAD), colour, label, convex=False)
    for _, cell in cells:
        if cell.crossing:
            ahead = np.array(cell.crossing) - view.z
            _rectangle(canvas, -60, 60, ahead[0], ahead[1], road, ROAD)
    _marks(canvas, world, cells, road)
    _texture(canvas, top)


def _strip(canvas: Canvas, left: float, right: float, ahead: NDArray[np.float64]) -> NDArray[np.float64]:
    """Outline in pixels, (2N, 2), of a band that follows the road between two distances from its middle."""
    zeros, shifts = np.zeros_like(ahead), canvas.view.shifts(ahead)
    edges = [canvas.view.project(np.stack((zeros + x, zeros, ahead), 1), shifts) for x in (left, right)]
    return np.concatenate((edges[0], edges[1][::-1]))


def _rectangle(canvas: Canvas, left: float, right: float, near: float, far: float, colour: Colour, label: int) -> None:
    """A patch of ground in metres, drawn if it is in sight."""
    if far <= NEAR or near > FAR:
        return
    ahead = np.array([max(near, NEAR), far])
    canvas.polygon(_strip(canvas, left, right, ahead), colour, label)


def _grass(canvas: Canvas, k: int, cell: Cell) -> None:
    street, near = canvas.view.world.street, k * CELL - canvas.view.z
    for side, sign in ((0, -1), (1, 1)):
        if cell.grass[side]:
            inner = sign * street.front[side]
            light = canvas.look.leaves
            colour = tint((55, 105, 85), light)
            _rectangle(canvas, min(inner, inner + sign * 60), max(inner, inner + sign * 60), near, near + CELL, colour, TREE)


def _marks(canvas: Canvas, world: World, cells: list[tuple[int, Cell]], road: Colour) -> None:
    """Repairs, puddles, paint and cracks. All rectangles are projected together: there are a hundred of them."""
    view, look = canvas.view, canvas.look
    patches = np.concatenate([cell.patches for k, cell in cells if k * CELL - view.z < 100])
    near, far = patches[:, 2] - view.z, patches[:, 3] - view.z
    seen = (far > NEAR) & ((patches[:, 4] != 3) | (look.wet > 0))
    patches, near, far = patches[seen], np.maximum(near[seen], NEAR), far[seen]
    corners = np.zeros((len(patches), 4, 3))
    corners[:, 0, 0] = corners[:, 3, 0] = patches[:, 0]
    corners[:, 1, 0] = corners[:, 2, 0] = patches[:, 1]
    corners[:, 0, 2] = corners[:, 1, 2] = near
    corners[:, 2, 2] = corners[:, 3, 2] = far
    flat = corners.reshape(-1, 3)
    fixed = (view.project(flat, view.shifts(flat[:, 2])) * 8).astype(np.int32).reshape(-1, 4, 2)
    paint = mix(road, (235, 240, 240), world.rng(4).uniform(0.35, 0.95))
    wet = mix(road, look.horizon, 0.5 * look.wet)
    for quad, tone in zip(fixed, patches[:, 4].tolist(), strict=True):
        colour = paint if tone == 2 else wet if tone == 3 else (road[0] * tone, road[1] * tone, road[2] * tone)
        cv2.fillConvexPoly(canvas.image, quad, (*colour, ROAD), cv2.LINE_8, 3)
    for crack in (crack for k, cell in cells[:2] for crack in cell.cracks):
        distance = crack[0, 1] - view.z
        if NEAR < distance < 28:
            points = np.column_stack((crack[:, 0], np.zeros(len(crack)), crack[:, 1] - view.z))
            thick = min(0.011 * view.focal / distance, 3.0)
            canvas.polyline(view.project(points, view.shift(distance)), tint(road, (0.6, 0.6, 0.6)), ROAD, thick)


def _texture(canvas: Canvas, top: int) -> None:
    """Multiply grain, joints, shadows and light over the ground rows, then add the haze of each row."""
    view, look = canvas.view, canvas.look
    rows = np.arange(top, view.height, dtype=np.float32)
    if not len(rows):
        return
    ahead = np.maximum(view.y * view.focal / np.maximum(rows - view.horizon, 0.3), 0.5).astype(np.float32)
    ground = canvas.image[top:]
    grain = _grain(canvas, rows, ahead)
    shadows = cv2.GaussianBlur(canvas.shadows[top:], (3, 3), 0)
    grain = cv2.multiply(grain, shadows, scale=1 / 255)
    light = np.array(look.light(0, 1, 0), np.float32)
    fog = 1 - np.exp(-look.haze * ahead)
    gain = np.clip(light[None] * (1 - fog[:, None]) * 128, 0, 255)  # (rows, 3)
    table = np.empty((len(rows), 1, 4), np.uint8)
    table[:, 0, :3], table[:, 0, 3] = gain, 128
    lit = cv2.multiply(ground, cv2.resize(table, (view.width, len(rows)), interpolation=cv2.INTER_NEAREST), scale=1 / 128)
    grain4 = cv2.merge((grain, grain, grain, np.full_like(grain, 128)))
    lit = cv2.multiply(lit, grain4, scale=1 / 128)
    table[:, 0, :3], table[:, 0, 3] = np.minimum(np.array(look.horizon, np.float32)[None] * fog[:, None], 255), 0
    cv2.add(lit, cv2.resize(table, (view.width, len(rows)), interpolation=cv2.INTER_NEAREST), dst=ground)


def _grain(canvas: Canvas, rows: NDArray[np.float32], ahead: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Brightness of the ground, uint8 (rows, W) around 128, fixed to the world and sampled at the mip level of its distance."""
    view = canvas.view
    columns = np.arange(view.width, dtype=np.float32)
    across = (columns[None] - view.centre) * (ahead / view.focal)[:, None] - view.shifts(ahead).astype(np.float32)[:, None]
    along = np.repeat((ahead + view.z % TILE_METRES).astype(np.float32)[:, None], view.width, 1)
    grain = np.empty(across.shape, np.uint8)
    smooth = (canvas.image[int(rows[0]) :, :, 3] != PAVEMENT).view(np.uint8)
    per_row = np.gradient(ahead) if len(ahead) > 1 else np.ones(1, np.float32)
    level = np.clip(np.log2(np.maximum(np.abs(per_row) * 512 / TILE_METRES, 1)), 0, 5).astype(int)
    for mip in range(6):
        chosen = np.flatnonzero(level == mip)
        if not len(chosen):
            continue
        start, end = int(chosen[0]), int(chosen[-1]) + 1
        scale = 512 / TILE_METRES / 2**mip
        maps = across[start:end] * scale, along[start:end] * scale
        both = cv2.remap(bank().ground[mip], *maps, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
        slabs = cv2.extractChannel(both, 1)
        grain[start:end] = cv2.copyTo(cv2.extractChannel(both, 0), smooth[start:end], slabs)
    return grain
