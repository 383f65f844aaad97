"""What stands still in a procedural street: buildings, trees, fences, poles, signs and clutter."""

from __future__ import annotations

import numpy as np

from rdd_deploy.data.streets import textures
from rdd_deploy.data.streets.canvas import BUILDING, FENCE, NEAR, POLE, SIGN, TREE, VOID, Canvas, Points
from rdd_deploy.data.streets.layout import SceneObject
from rdd_deploy.data.streets.lighting import Colour, mix, tint

_TURN = np.linspace(0, 2 * np.pi, 12, endpoint=False)
CIRCLE = np.stack((np.cos(_TURN), np.sin(_TURN)), 1)
_PLATES = {
    "round": CIRCLE,
    "triangle": np.array([[-1.0, -0.75], [1, -0.75], [0, 1]]),
    "yield": np.array([[-1.0, 0.75], [0, -1], [1, 0.75]]),
    "square": np.array([[-0.8, -0.8], [0.8, -0.8], [0.8, 0.8], [-0.8, 0.8]]),
    "board": np.array([[-1.9, -0.8], [1.9, -0.8], [1.9, 0.8], [-1.9, 0.8]]),
    "diamond": np.array([[0, -1.0], [1, 0], [0, 1], [-1, 0]]),
}
_PAINTS: tuple[Colour, ...] = (
    (40, 40, 200),
    (235, 238, 240),
    (190, 90, 30),
    (60, 200, 235),
    (70, 130, 40),
    (60, 60, 65),
)


def _wall(canvas: Canvas, thing: SceneObject) -> tuple[Points, float, float, float, int]:
    """The upright side along the road of a long object.

    Returns:
        its quad in pixels (top near, top far, bottom far, bottom near), the distances of its ends, the share of it that
        lies behind the camera, and its side of the road (-1 or 1).
    """
    start, far = thing.z - canvas.view.z, thing.z + thing.length - canvas.view.z
    near = max(NEAR, start)
    points = np.array([[thing.x, y, z] for y, z in ((thing.height, near), (thing.height, far), (0, far), (0, near))])
    quad = canvas.view.project(points, canvas.view.shifts(points[:, 2]))
    return quad, near, far, (near - start) / thing.length, 1 if thing.x > 0 else -1


def building(canvas: Canvas, thing: SceneObject) -> None:
    """The front along the road, the gable towards the camera and the roof."""
    view, u = canvas.view, thing.u
    quad, near, far, cut, sign = _wall(canvas, thing)
    if quad[1, 0] < -2 if sign < 0 else quad[1, 0] > view.width + 2:
        return  # its far end is already beside the frame
    floors, style = round(thing.height / 3.1), int(u[0] * textures.STYLES)
    level, reach = 0.72 + 0.4 * u[1], 0.2 if u[9] < 0.8 else 0.6  # most are pale or brick, a few are painted
    dye = (level * (1 - reach / 2 + reach * u[2]), level * (1 - reach / 3 + reach * 0.7 * u[3]), level)
    rise = 0.0 if u[4] < 0.35 or thing.height > 13 else 1.2 + 2 * u[5]
    if near > NEAR and thing.variant:
        light, scale = canvas.lighting.light(0, 0, -1), view.focal / near
        inner, outer = quad[0, 0], quad[0, 0] + sign * thing.width * scale
        gable = np.array([[inner, quad[0, 1]], [outer, quad[0, 1]], [outer, quad[3, 1]], [inner, quad[3, 1]]])
        canvas.blit(textures.facade(floors, round(thing.width / 3.5), style), gable, (tint(light, dye), near, BUILDING))
        if rise:
            peak = np.concatenate((gable[:2], [[(inner + outer) / 2, quad[0, 1] - rise * scale]]))
            canvas.polygon(peak, canvas.shade(tint((120, 125, 130), dye), light, near), BUILDING)
    if rise and near < 90:
        middle = view.shifts(np.array([near, far])) + thing.x + sign * thing.width / 2
        ridge = view.project(np.stack((middle, np.full(2, thing.height + rise), [near, far]), 1), 0.0)
        roof = canvas.shade(
            mix((70, 75, 85), (70, 90, 150), u[6]), canvas.lighting.light(-sign * 0.5, 0.85, 0), (near + far) / 2
        )
        canvas.polygon(np.stack((quad[0], quad[1], ridge[1], ridge[0])), roof, BUILDING)
    front = (tint(canvas.lighting.light(-sign, 0, 0), dye), (near + far) / 2, BUILDING)
    canvas.blit(textures.facade(floors, round(thing.length / 3.0), style), quad, front, (cut, 1.0))


def tree(canvas: Canvas, thing: SceneObject) -> None:
    distance, scale, x, y = canvas.view.foot(thing)
    u, light = thing.u, canvas.lighting.light
    half, tall = thing.height * (0.45 + 0.2 * u[0]) * scale * (-1 if u[1] < 0.5 else 1), thing.height * scale
    quad = np.array([[x - half, y - tall], [x + half, y - tall], [x + half, y], [x - half, y]])
    # Conifers come last: they sweep the ground, so none at the kerb.
    number = int(u[5] * (textures.TREES - 2 * thing.variant))
    leaves = (0.85 + 0.3 * u[2], 0.8 + 0.4 * u[3], 0.8 + 0.4 * u[4])
    # The trunk is not part of the sprite: bark keeps its colour when the leaves turn.
    if textures.kind_of_tree(number) != textures.BARE:
        tone, wide, rise = (
            60 + 45 * u[6],
            0.032 * tall,
            (0.12 if textures.kind_of_tree(number) == textures.CONIFER else 0.5) * tall,
        )
        bark = canvas.shade((tone * 0.75, tone * 0.9, tone), light(0, 0.1, -0.8), distance)
        canvas.limb((x, y), (x, y - rise), wide, wide * 0.6, bark, TREE)
        canvas.limb(
            (x + wide * 0.28, y),
            (x + wide * 0.17, y - rise),
            wide * 0.42,
            wide * 0.25,
            tint(bark, (0.72, 0.72, 0.72)),
            TREE,
        )
        leaves = tint(canvas.lighting.leaves, leaves)
    canvas.blit(textures.tree(number), quad, (tint(light(0, 0.6, -0.5), leaves), distance, TREE))


def fence(canvas: Canvas, thing: SceneObject) -> None:
    quad, near, _, cut, sign = _wall(canvas, thing)
    u = thing.u
    dye = mix((0.9, 0.9, 0.9), (0.2 + u[1], 0.2 + u[2], 0.2 + u[3]), u[4])
    surface = (tint(canvas.lighting.light(-sign, 0.2, 0), dye), near, FENCE)
    canvas.blit(textures.fence(thing.variant), quad, surface, (cut, 1.0), filled=True)


def hedge(canvas: Canvas, thing: SceneObject) -> None:
    quad, near, far, cut, sign = _wall(canvas, thing)
    view, light = canvas.view, canvas.lighting.light
    leaves = tint(canvas.lighting.leaves, (0.8 + 0.3 * thing.u[0],) * 3)
    back = np.array([[thing.x + sign * 1.2, thing.height, z] for z in (far, near)])
    top = np.concatenate((quad[:2], view.project(back, view.shifts(back[:, 2]))))
    canvas.polygon(top, canvas.shade(tint((55, 110, 80), leaves), light(0, 1, 0), near), TREE)
    canvas.blit(textures.hedge(), quad, (tint(light(-sign * 0.8, 0.3, 0), leaves), near, TREE), (4 * cut, 4.0))


def lamp(canvas: Canvas, thing: SceneObject) -> None:
    """A lamp post whose arm hangs over the road, or a bare column (variant 1)."""
    distance, scale, x, y = canvas.view.foot(thing)
    u, side, top = thing.u, 1 if thing.x > 0 else -1, y - thing.height * scale
    value = 45 + 140 * u[0]
    grey = (value, value * (0.9 + 0.15 * u[1]), value * (0.85 + 0.2 * u[2]))
    colour = canvas.shade(grey, canvas.lighting.light(-side * 0.6, 0.2, -0.7), distance)
    canvas.limb((x, y), (x, top), 0.19 * scale, 0.11 * scale, colour, POLE)
    canvas.limb((x, y), (x, y - 0.9 * scale), 0.26 * scale, 0.24 * scale, colour, POLE)
    if thing.variant == 0:
        tip = (x - side * (0.9 + u[3]) * scale, top - 0.15 * scale)
        canvas.limb((x, top), tip, 0.09 * scale, 0.09 * scale, colour, POLE)
        canvas.limb(tip, (tip[0] - side * 0.7 * scale, tip[1]), 0.2 * scale, 0.14 * scale, colour, POLE)


def bollard(canvas: Canvas, thing: SceneObject) -> None:
    distance, scale, x, y = canvas.view.foot(thing)
    light, tall, wide = canvas.lighting.light(0, 0.3, -0.9), thing.height * scale, 0.16 * scale
    canvas.limb((x, y), (x, y - tall), wide, wide, canvas.shade((40 + 60 * thing.u[0],) * 3, light, distance), POLE)
    canvas.limb(
        (x, y - 0.75 * tall), (x, y - 0.9 * tall), wide, wide, canvas.shade((230, 230, 235), light, distance), POLE
    )


def sign(canvas: Canvas, thing: SceneObject) -> None:
    """A post with one or two plates, seen from the front or sometimes from the back."""
    distance, scale, x, y = canvas.view.foot(thing)
    u, light, top = thing.u, canvas.lighting.light(0, 0.1, -1), y - thing.height * scale
    canvas.limb((x, y), (x, top), 0.08 * scale, 0.08 * scale, canvas.shade((120, 122, 125), light, distance), POLE)
    size = (0.34 + 0.16 * u[1]) * scale
    shape = ("round", "round", "triangle", "square", "yield", "board", "diamond")[int(u[0] * 7)]
    plates = [(shape, top - 0.1 * size, size, u)]
    if u[2] < 0.4:
        plates.append((("board", "round", "square")[int(u[3] * 3)], top + 1.9 * size, size * 0.75, u[5:] + u[:5]))
    for shape, height, size, v in plates:
        rim, field = (
            (_PAINTS[0], _PAINTS[1])
            if v[5] < 0.55
            else (_PAINTS[int(v[7] * 6)], _PAINTS[(2, 4, 3, 2, 1)[int(v[8] * 5)]])
        )
        back = v[6] < 0.25
        outline = _PLATES[shape] * np.array((size * (0.75 + 0.25 * v[4]), -size))
        canvas.polygon(
            outline + np.array((x, height)),
            canvas.shade((120 + 70 * v[7],) * 3 if back else rim, light, distance),
            SIGN,
        )
        if size > 2.5 and not back:
            canvas.polygon(outline * 0.74 + np.array((x, height)), canvas.shade(field, light, distance), SIGN)
            symbol = canvas.shade((30, 30, 30) if field[0] > 200 else (240, 240, 240), light, distance)
            canvas.limb(
                (x - 0.35 * size, height),
                (x + 0.35 * size, height + 0.1 * size),
                0.25 * size,
                0.25 * size,
                symbol,
                SIGN,
            )


def light(canvas: Canvas, thing: SceneObject) -> None:
    """A traffic light on its post."""
    distance, scale, x, y = canvas.view.foot(thing)
    top, falling = y - thing.height * scale, canvas.lighting.light(0, 0.1, -1)
    canvas.limb((x, y), (x, top), 0.12 * scale, 0.12 * scale, canvas.shade((70, 72, 75), falling, distance), POLE)
    black = canvas.shade((35, 35, 35), falling, distance)
    canvas.limb((x, top - 0.1 * scale), (x, top + 0.9 * scale), 0.34 * scale, 0.34 * scale, black, SIGN)
    for n, colour in enumerate(((40, 40, 250), (40, 190, 255), (120, 230, 60))):
        shown = colour if n == int(thing.u[0] * 3) else tint(colour, (0.25, 0.25, 0.25))
        canvas.disc(x, top + (0.1 + 0.27 * n) * scale, 0.11 * scale, shown, SIGN)


def clutter(canvas: Canvas, thing: SceneObject) -> None:
    """Boxes, bins and café boards: things that CamVid leaves unlabelled."""
    view, u, near, top = canvas.view, thing.u, thing.z - canvas.view.z, thing.height
    half, deep, side = 0.2 + 0.35 * u[0], 0.4 + 0.6 * u[1], 1 if thing.x > 0 else -1
    inner, outer = thing.x - side * half, thing.x + side * half
    corners = [
        [inner, top, near],
        [outer, top, near],
        [outer, 0, near],
        [inner, 0, near],
        [inner, top, near + deep],
        [inner, 0, near + deep],
    ]
    p = view.project(np.array(corners), view.shift(near))
    colour = (30 + 180 * u[2], 30 + 180 * u[3], 30 + 180 * u[4])
    canvas.polygon(p[[0, 4, 5, 3]], canvas.shade(colour, canvas.lighting.light(-side, 0, 0), near), VOID)
    canvas.polygon(p[:4], canvas.shade(colour, canvas.lighting.light(0, 0, -1), near), VOID)
    lid = p[[0, 1, 1, 0]] + (p[3] - p[0]) * np.array([[0.0], [0], [0.14], [0.14]])
    canvas.polygon(lid, canvas.shade(tint(colour, (0.55, 0.55, 0.55)), canvas.lighting.light(0, 0.5, -0.8), near), VOID)
