"""What stands still in a procedural street: buildings, trees, fences, poles, signs, clutter; and their shadows."""

from __future__ import annotations

from math import cos, pi, sin

import numpy as np

from rdd_deploy.data.streets_bank import COLUMNS, FLOORS, STYLES, bank
from rdd_deploy.data.streets_canvas import BUILDING, FENCE, NEAR, POLE, SIGN, TREE, VOID, Canvas, Points, mix, tint
from rdd_deploy.data.streets_look import Colour
from rdd_deploy.data.streets_scene import FAR, Thing

_CIRCLE = np.stack((np.cos(np.linspace(0, 2 * pi, 12, endpoint=False)), np.sin(np.linspace(0, 2 * pi, 12, endpoint=False))), 1)
_PLATES = {
    "round": _CIRCLE,
    "triangle": np.array([[-1.0, -0.75], [1, -0.75], [0, 1]]),
    "yield": np.array([[-1.0, 0.75], [0, -1], [1, 0.75]]),
    "square": np.array([[-0.8, -0.8], [0.8, -0.8], [0.8, 0.8], [-0.8, 0.8]]),
    "board": np.array([[-1.9, -0.8], [1.9, -0.8], [1.9, 0.8], [-1.9, 0.8]]),
    "diamond": np.array([[0, -1.0], [1, 0], [0, 1], [-1, 0]]),
}


def wall(canvas: Canvas, x: float, near: float, far: float, height: float) -> Points:
    """An upright quad along the road in pixels: top near, top far, bottom far, bottom near."""
    points = np.array([[x, height, near], [x, height, far], [x, 0, far], [x, 0, near]])
    return canvas.view.project(points, canvas.view.shifts(points[:, 2]))


def building(canvas: Canvas, thing: Thing) -> None:
    """The front along the road, the gable towards the camera and the roof."""
    view, look, u = canvas.view, canvas.look, thing.u
    near, far = max(NEAR, thing.z - view.z), thing.z + thing.length - view.z
    sign = 1 if thing.x > 0 else -1
    cut = (near - (thing.z - view.z)) / thing.length
    floors = min(FLOORS, key=lambda n: abs(n - thing.height / 3.1))
    style, dye = int(u[0] * STYLES), (0.75 + 0.5 * u[1], 0.75 + 0.45 * u[2], 0.72 + 0.45 * u[3])
    distance = (near + far) / 2
    roof_rise = 0.0 if u[4] < 0.35 or thing.height > 13 else 1.2 + 2 * u[5]
    roof = mix((70, 75, 85), (70, 90, 150), u[6])
    if near > NEAR:
        columns = min(COLUMNS, key=lambda n: abs(n - thing.width / 3.5))
        x = np.array([thing.x, thing.x + sign * thing.width])
        shift, top = view.shift(near), thing.height
        quad = view.project(np.array([[x[0], top, near], [x[1], top, near], [x[1], 0, near], [x[0], 0, near]]), shift)
        canvas.blit(bank().facades[floors, columns, style], quad, canvas.lut(tint(look.light(0, 0, -1), dye), near, BUILDING))
        if roof_rise:
            ridge = view.project(np.array([[(x[0] + x[1]) / 2, top + roof_rise, near]]), shift)
            light = canvas.shade(tint((120, 125, 130), dye), look.light(0, 0, -1), near)
            canvas.polygon(np.concatenate((quad[:2], ridge)), light, BUILDING)
    quad = wall(canvas, thing.x, near, far, thing.height)
    if roof_rise:
        ends = view.shifts(np.array([near, far])) + thing.x + sign * thing.width / 2
        ridge = view.project(np.stack((ends, np.full(2, thing.height + roof_rise), [near, far]), 1), 0.0)
        light = look.light(-sign * 0.5, 0.85, 0)
        canvas.polygon(np.stack((quad[0], quad[1], ridge[1], ridge[0])), canvas.shade(roof, light, distance), BUILDING)
        if u[7] < 0.6:
            foot = ridge[0] + (ridge[1] - ridge[0]) * (0.2 + 0.6 * u[8])
            size = 0.7 * view.focal / max(near, distance * 0.7)
            canvas.limb(foot + (0, size), foot - (0, 1.4 * size), size, size, canvas.shade((60, 70, 110), light, distance), BUILDING)
    columns = min(COLUMNS, key=lambda n: abs(n - thing.length / 3.0))
    table = canvas.lut(tint(look.light(-sign, 0, 0), dye), distance, BUILDING)
    canvas.blit(bank().facades[floors, columns, style], quad, table, (cut, 1.0))


def tree(canvas: Canvas, thing: Thing) -> None:
    view = canvas.view
    distance, u = thing.z - view.z, thing.u
    scale = view.focal / distance
    foot = view.project(np.array([[thing.x, 0.0, distance]]), view.shift(distance))[0]
    half, tall = thing.height * (0.45 + 0.2 * u[0]) * scale, thing.height * scale
    flip = -1 if u[1] < 0.5 else 1
    left, right = foot[0] - flip * half, foot[0] + flip * half
    quad = np.array([[left, foot[1] - tall], [right, foot[1] - tall], [right, foot[1]], [left, foot[1]]])
    leaves = tint(canvas.look.leaves, (0.85 + 0.3 * u[2], 0.8 + 0.4 * u[3], 0.8 + 0.4 * u[4]))
    light = tint(canvas.look.light(0, 0.6, -0.5), leaves)
    trees = bank().trees
    canvas.blit(trees[int(u[5] * len(trees))], quad, canvas.lut(light, distance, TREE))


def fence(canvas: Canvas, thing: Thing) -> None:
    near, far = max(NEAR, thing.z - canvas.view.z), thing.z + thing.length - canvas.view.z
    sign = 1 if thing.x > 0 else -1
    cut = (near - (thing.z - canvas.view.z)) / thing.length
    u = thing.u
    dye = mix((0.9, 0.9, 0.9), (0.2 + u[1], 0.2 + u[2], 0.2 + u[3]), u[4])
    table = canvas.lut(tint(canvas.look.light(-sign, 0.2, 0), dye), near, FENCE)
    canvas.blit(bank().fences[thing.variant], wall(canvas, thing.x, near, far, thing.height), table, (cut, 1.0), filled=FENCE)


def hedge(canvas: Canvas, thing: Thing) -> None:
    near, far = max(NEAR, thing.z - canvas.view.z), thing.z + thing.length - canvas.view.z
    sign = 1 if thing.x > 0 else -1
    leaves = tint(canvas.look.leaves, (0.8 + 0.3 * thing.u[0],) * 3)
    view, look = canvas.view, canvas.look
    table = canvas.lut(tint(look.light(-sign * 0.8, 0.3, 0), leaves), near, TREE)
    points = np.array([[x, thing.height, z] for x in (thing.x, thing.x + sign * 1.2) for z in (near, far)])
    top = view.project(points, view.shifts(points[:, 2]))[[0, 1, 3, 2]]
    canvas.polygon(top, canvas.shade(tint((55, 110, 80), leaves), look.light(0, 1, 0), near), TREE)
    quad = wall(canvas, thing.x, near, far, thing.height)
    pieces = 4
    cut = (near - (thing.z - view.z)) / thing.length * pieces
    canvas.blit(bank().hedge, quad, table, (cut, float(pieces)))


def lamp(canvas: Canvas, thing: Thing) -> None:
    """A lamp post whose arm hangs over the road, or a bare column (variants 1 and 2)."""
    view, u = canvas.view, thing.u
    distance = thing.z - view.z
    sign = 1 if thing.x > 0 else -1
    scale = view.focal / distance
    grey = 45 + 140 * u[0]
    colour = canvas.shade((grey, grey * (0.9 + 0.15 * u[1]), grey * (0.85 + 0.2 * u[2])), canvas.look.light(-sign * 0.6, 0.2, -0.7), distance)
    foot, head = view.project(np.array([[thing.x, 0, distance], [thing.x, thing.height, distance]]), view.shift(distance))
    canvas.limb(foot, head, 0.19 * scale, 0.11 * scale, colour, POLE)
    canvas.limb(foot, foot - (0, 0.9 * scale), 0.26 * scale, 0.24 * scale, colour, POLE)
    if thing.variant == 0:
        tip = head + np.array([-sign * (0.9 + u[3]) * scale, -0.15 * scale])
        canvas.limb(head, tip, 0.09 * scale, 0.09 * scale, colour, POLE)
        canvas.limb(tip, tip - (sign * 0.7 * scale, 0), 0.2 * scale, 0.14 * scale, colour, POLE)


def bollard(canvas: Canvas, thing: Thing) -> None:
    view = canvas.view
    distance = thing.z - view.z
    foot, head = view.project(np.array([[thing.x, 0, distance], [thing.x, thing.height, distance]]), view.shift(distance))
    wide = 0.16 * view.focal / distance
    colour = canvas.shade((40 + 60 * thing.u[0],) * 3, canvas.look.light(0, 0.3, -0.9), distance)
    canvas.limb(foot, head, wide, wide, colour, POLE)
    band = foot + (head - foot) * 0.8
    canvas.limb(band, band + (head - foot) * 0.1, wide, wide, canvas.shade((230, 230, 235), canvas.look.light(0, 0, -1), distance), POLE)


def sign(canvas: Canvas, thing: Thing) -> None:
    """A post with one or two plates, seen from the front or, on the other side of the road, often from the back."""
    view, u = canvas.view, thing.u
    distance = thing.z - view.z
    scale, shift = view.focal / distance, view.shift(distance)
    foot, head = view.project(np.array([[thing.x, 0, distance], [thing.x, thing.height, distance]]), shift)
    light = canvas.look.light(0, 0.1, -1)
    canvas.limb(foot, head, 0.08 * scale, 0.08 * scale, canvas.shade((120, 122, 125), light, distance), POLE)
    shape = ("round", "round", "triangle", "square", "yield", "board", "diamond")[int(u[0] * 7)]
    size = (0.34 + 0.16 * u[1]) * scale
    plate(canvas, shape, head - (0, 0.1 * size), size, u, light, distance)
    if u[2] < 0.4:
        plate(canvas, ("board", "round", "square")[int(u[3] * 3)], head + (0, 1.9 * size), size * 0.75, u[5:] + u[:5], light, distance)


def plate(canvas: Canvas, shape: str, at: Points, size: float, u: tuple[float, ...], light: Colour, distance: float) -> None:
    """A sign's face: rim, field and symbol."""
    outline = _PLATES[shape] * (1, -1)
    squeeze = (0.75 + 0.25 * u[4], 1.0)
    back = u[6] < 0.25
    colours: tuple[Colour, ...] = ((40, 40, 200), (235, 238, 240), (190, 90, 30), (60, 200, 235), (70, 130, 40), (60, 60, 65))
    rim = colours[0] if u[5] < 0.55 else colours[int(u[7] * 6)]
    field = colours[1] if u[5] < 0.55 else colours[(2, 4, 3, 2, 1)[int(u[8] * 5)]]
    if back:
        rim = field = (120 + 70 * u[7],) * 3
    canvas.polygon(at + outline * size * squeeze, canvas.shade(rim, light, distance), SIGN)
    if size > 2.5 and not back:
        canvas.polygon(at + outline * size * 0.74 * squeeze, canvas.shade(field, light, distance), SIGN)
        symbol = canvas.shade((30, 30, 30) if field[0] > 200 else (240, 240, 240), light, distance)
        canvas.limb(at - (0.35 * size, 0), at + (0.35 * size, 0.1 * size), 0.25 * size, 0.25 * size, symbol, SIGN)


def light(canvas: Canvas, thing: Thing) -> None:
    """A traffic light on its post."""
    view, u = canvas.view, thing.u
    distance = thing.z - view.z
    scale = view.focal / distance
    points = np.array([[thing.x, 0, distance], [thing.x, thing.height, distance]])
    foot, head = view.project(points, view.shift(distance))
    falling = canvas.look.light(0, 0.1, -1)
    canvas.limb(foot, head, 0.12 * scale, 0.12 * scale, canvas.shade((70, 72, 75), falling, distance), POLE)
    box = head + (0, 0.9 * scale)
    canvas.limb(head - (0, 0.1 * scale), box, 0.34 * scale, 0.34 * scale, canvas.shade((35, 35, 35), falling, distance), SIGN)
    lit = int(u[0] * 3)
    for n, colour in enumerate(((40, 40, 250), (40, 190, 255), (120, 230, 60))):
        lamp_colour = colour if n == lit else (colour[0] * 0.25, colour[1] * 0.25, colour[2] * 0.25)
        canvas.disc(head[0], head[1] + (0.1 + 0.27 * n) * scale, 0.11 * scale, lamp_colour, SIGN)


def clutter(canvas: Canvas, thing: Thing) -> None:
    """Bins, boxes, benches and café boards: things CamVid leaves unlabelled."""
    view, u = canvas.view, thing.u
    near = thing.z - view.z
    half, deep, top = 0.2 + 0.35 * u[0], 0.4 + 0.6 * u[1], thing.height
    x0, x1 = thing.x - half, thing.x + half
    colour = (30 + 180 * u[2], 30 + 180 * u[3], 30 + 180 * u[4])
    inner = x0 if thing.x > 0 else x1
    corners = [[x0, top, near], [x1, top, near], [x1, 0, near], [x0, 0, near], [inner, top, near + deep], [inner, 0, near + deep]]
    p = view.project(np.array(corners), view.shift(near))
    front, edge = p[:4], (p[0], p[3]) if thing.x > 0 else (p[1], p[2])
    side = np.stack((edge[0], p[4], p[5], edge[1]))
    canvas.polygon(side, canvas.shade(colour, canvas.look.light(-1 if thing.x > 0 else 1, 0, 0), near), VOID)
    canvas.polygon(front, canvas.shade(colour, canvas.look.light(0, 0, -1), near), VOID)
    lid = front[0] + (front[2] - front[0]) * np.array([[0, 0], [1, 0], [1, 0.14], [0, 0.14]])
    canvas.polygon(lid, canvas.shade(tint(colour, (0.55, 0.55, 0.55)), canvas.look.light(0, 0.5, -0.8), near), VOID)


def cast_shadow(canvas: Canvas, thing: Thing) -> None:
    """The thing's shadow on the ground, and the dark under it that even a grey day shows."""
    view, look = canvas.view, canvas.look
    near = thing.z - view.z
    if near > FAR / 2 or look.sun[1] < 0.05:
        return
    reach = min(2.2, (look.sun[0] ** 2 + look.sun[2] ** 2) ** 0.5 / look.sun[1])
    norm = (look.sun[0] ** 2 + look.sun[2] ** 2) ** 0.5 or 1.0
    away = np.array([-look.sun[0] / norm, -look.sun[2] / norm]) * reach
    if thing.kind in ("building", "hedge", "fence"):
        base = np.array([[thing.x, near], [thing.x, near + thing.length]])
        _ground_shadow(canvas, np.concatenate((base, (base + away * thing.height)[::-1])), 1.0 if thing.kind != "fence" else 0.5)
    elif thing.kind == "tree":
        middle = np.array([thing.x, near]) + away * thing.height * 0.65
        _ground_shadow(canvas, middle + _CIRCLE * thing.height * (0.28, 0.34), 0.85)
        _bar_shadow(canvas, thing, near, away * 0.6, 0.12)
    elif thing.kind == "car":
        along = np.array([sin(thing.heading), cos(thing.heading)])
        across = np.array([along[1], -along[0]])
        middle = np.array([thing.x, near]) + along * (2.1 if thing.kind == "car" else 0)
        box = np.array([middle + a * along * 2.1 + b * across * 0.85 for a, b in ((-1, -1), (1, -1), (1, 1), (-1, 1))])
        _ground_shadow(canvas, box + away * 1.1, 1.0)
        _ground_shadow(canvas, box, 1.0, 0.45)
    else:
        _bar_shadow(canvas, thing, near, away, 0.25 if thing.kind in ("person", "cyclist", "clutter") else 0.07)


def _bar_shadow(canvas: Canvas, thing: Thing, near: float, away: Points, half: float) -> None:
    tip = np.array([thing.x, near]) + away * thing.height
    across = np.array([half, 0.0])
    foot = np.array([thing.x, near])
    _ground_shadow(canvas, np.stack((foot - across, foot + across, tip + across, tip - across)), 1.0)


def _ground_shadow(canvas: Canvas, flat: Points, strength: float, extra: float = 1.0) -> None:
    """Darken the ground under (N, 2) points (metres right of the road's middle, metres ahead)."""
    if flat[:, 1].max() <= NEAR:
        return
    points = np.stack((flat[:, 0], np.zeros(len(flat)), np.maximum(flat[:, 1], NEAR)), 1)
    canvas.shadow(canvas.view.project(points, canvas.view.shifts(points[:, 2])), strength, extra)
