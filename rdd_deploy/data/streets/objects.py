"""What stands still in a procedural street: buildings, trees, fences, poles, signs, clutter; and their shadows."""

from __future__ import annotations

from math import cos, pi, sin

import numpy as np

from rdd_deploy.data.streets.canvas import BUILDING, FENCE, NEAR, POLE, SIGN, TREE, VOID, Canvas, Points, tint
from rdd_deploy.data.streets.layout import Thing
from rdd_deploy.data.streets.lighting import Colour, mix
from rdd_deploy.data.streets.plants import BARE, CONIFER
from rdd_deploy.data.streets.textures import COLUMNS, FLOORS, STYLES, TREE_KINDS, bank

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


def _dye(value: float, blue: float, green: float, strength: float) -> Colour:
    """Most houses are pale or brick, a few are painted."""
    level, reach = 0.72 + 0.4 * value, 0.2 if strength < 0.8 else 0.6
    return (level * (1 - reach / 2 + reach * blue), level * (1 - reach / 3 + reach * 0.7 * green), level)


def building(canvas: Canvas, thing: Thing) -> None:
    """The front along the road, the gable towards the camera and the roof."""
    view, look, u = canvas.view, canvas.look, thing.u
    near, far = max(NEAR, thing.z - view.z), thing.z + thing.length - view.z
    quad = wall(canvas, thing.x, near, far, thing.height)
    sign = 1 if thing.x > 0 else -1
    if quad[1, 0] < -2 if sign < 0 else quad[1, 0] > view.width + 2:
        return  # its far end is already beside the frame
    cut = (near - (thing.z - view.z)) / thing.length
    floors = min(max(round(thing.height / 3.1), FLOORS[0]), FLOORS[-1])
    style, dye, distance = int(u[0] * STYLES), _dye(u[1], u[2], u[3], u[9]), (near + far) / 2
    roof_rise = 0.0 if u[4] < 0.35 or thing.height > 13 else 1.2 + 2 * u[5]
    if near > NEAR and thing.variant:
        _gable(canvas, thing, quad, roof_rise, (floors, style), dye)
    if roof_rise and distance < 90:
        ends = view.shifts(np.array([near, far])) + thing.x + sign * thing.width / 2
        ridge = view.project(np.stack((ends, np.full(2, thing.height + roof_rise), [near, far]), 1), 0.0)
        light = look.light(-sign * 0.5, 0.85, 0)
        roof = canvas.shade(mix((70, 75, 85), (70, 90, 150), u[6]), light, distance)
        canvas.polygon(np.stack((quad[0], quad[1], ridge[1], ridge[0])), roof, BUILDING)
        if u[7] < 0.6:
            foot = ridge[0] + (ridge[1] - ridge[0]) * (0.2 + 0.6 * u[8])
            size = 0.7 * view.focal / max(near, distance * 0.7)
            brick = canvas.shade((60, 70, 110), light, distance)
            canvas.limb((foot[0], foot[1] + size), (foot[0], foot[1] - 1.4 * size), size, size, brick, BUILDING)
    columns = min(max(round(thing.length / 3.0), COLUMNS[0]), COLUMNS[-1])
    canvas.blit(bank().facades[floors, columns, style], quad, (tint(look.light(-sign, 0, 0), dye), distance, BUILDING), (cut, 1.0))


def _gable(canvas: Canvas, thing: Thing, front: Points, rise: float, texture: tuple[int, int], dye: Colour) -> None:
    """The wall across the road's direction at the near end of a building, up to the ridge."""
    near, light = thing.z - canvas.view.z, canvas.look.light(0, 0, -1)
    scale = canvas.view.focal / near
    inner = (front[0, 0], front[0, 1], front[3, 1])
    outer = inner[0] + (1 if thing.x > 0 else -1) * thing.width * scale
    quad = np.array([[inner[0], inner[1]], [outer, inner[1]], [outer, inner[2]], [inner[0], inner[2]]])
    columns = min(max(round(thing.width / 3.5), COLUMNS[0]), COLUMNS[-1])
    canvas.blit(bank().facades[texture[0], columns, texture[1]], quad, (tint(light, dye), near, BUILDING))
    if rise:
        peak = [[(inner[0] + outer) / 2, inner[1] - rise * scale]]
        canvas.polygon(np.concatenate((quad[:2], peak)), canvas.shade(tint((120, 125, 130), dye), light, near), BUILDING)


def tree(canvas: Canvas, thing: Thing) -> None:
    view = canvas.view
    distance, u = thing.z - view.z, thing.u
    scale = view.focal / distance
    foot = view.pixel(thing.x, 0.0, distance)
    half, tall = thing.height * (0.45 + 0.2 * u[0]) * scale, thing.height * scale
    flip = -1 if u[1] < 0.5 else 1
    left, right = foot[0] - flip * half, foot[0] + flip * half
    quad = np.array([[left, foot[1] - tall], [right, foot[1] - tall], [right, foot[1]], [left, foot[1]]])
    number = int(u[5] * (len(TREE_KINDS) - 2 * thing.variant))  # conifers come last: they sweep the ground, so none at the kerb
    kind = TREE_KINDS[number]
    tone = 60 + 45 * u[6]
    bark = canvas.shade((tone * 0.75, tone * 0.9, tone), canvas.look.light(0, 0.1, -0.8), distance)
    if kind != BARE:  # the trunk is not part of the sprite: bark keeps its colour when the leaves turn
        wide, rise = 0.032 * tall, (0.12 if kind == CONIFER else 0.5) * tall
        dark = (bark[0] * 0.72, bark[1] * 0.72, bark[2] * 0.72)
        canvas.limb(foot, (foot[0], foot[1] - rise), wide, wide * 0.6, bark, TREE)
        canvas.limb((foot[0] + wide * 0.28, foot[1]), (foot[0] + wide * 0.17, foot[1] - rise), wide * 0.42, wide * 0.25, dark, TREE)
    leaves = tint(canvas.look.leaves, (0.85 + 0.3 * u[2], 0.8 + 0.4 * u[3], 0.8 + 0.4 * u[4])) if kind != BARE else (1.0, 1.0, 1.0)
    canvas.blit(bank().trees[number], quad, (tint(canvas.look.light(0, 0.6, -0.5), leaves), distance, TREE))


def fence(canvas: Canvas, thing: Thing) -> None:
    near, far = max(NEAR, thing.z - canvas.view.z), thing.z + thing.length - canvas.view.z
    sign = 1 if thing.x > 0 else -1
    cut = (near - (thing.z - canvas.view.z)) / thing.length
    u = thing.u
    dye = mix((0.9, 0.9, 0.9), (0.2 + u[1], 0.2 + u[2], 0.2 + u[3]), u[4])
    table = (tint(canvas.look.light(-sign, 0.2, 0), dye), near, FENCE)
    canvas.blit(bank().fences[thing.variant], wall(canvas, thing.x, near, far, thing.height), table, (cut, 1.0), filled=FENCE)


def hedge(canvas: Canvas, thing: Thing) -> None:
    near, far = max(NEAR, thing.z - canvas.view.z), thing.z + thing.length - canvas.view.z
    sign = 1 if thing.x > 0 else -1
    leaves = tint(canvas.look.leaves, (0.8 + 0.3 * thing.u[0],) * 3)
    view, look = canvas.view, canvas.look
    table = (tint(look.light(-sign * 0.8, 0.3, 0), leaves), near, TREE)
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
    side = 1 if thing.x > 0 else -1
    scale = view.focal / distance
    value = 45 + 140 * u[0]
    grey = (value, value * (0.9 + 0.15 * u[1]), value * (0.85 + 0.2 * u[2]))
    colour = canvas.shade(grey, canvas.look.light(-side * 0.6, 0.2, -0.7), distance)
    x, y = view.pixel(thing.x, 0, distance)
    top = y - thing.height * scale
    canvas.limb((x, y), (x, top), 0.19 * scale, 0.11 * scale, colour, POLE)
    canvas.limb((x, y), (x, y - 0.9 * scale), 0.26 * scale, 0.24 * scale, colour, POLE)
    if thing.variant == 0:
        tip = (x - side * (0.9 + u[3]) * scale, top - 0.15 * scale)
        canvas.limb((x, top), tip, 0.09 * scale, 0.09 * scale, colour, POLE)
        canvas.limb(tip, (tip[0] - side * 0.7 * scale, tip[1]), 0.2 * scale, 0.14 * scale, colour, POLE)


def bollard(canvas: Canvas, thing: Thing) -> None:
    distance = thing.z - canvas.view.z
    scale = canvas.view.focal / distance
    x, y = canvas.view.pixel(thing.x, 0, distance)
    facing = canvas.look.light(0, 0.3, -0.9)
    tall, wide = thing.height * scale, 0.16 * scale
    canvas.limb((x, y), (x, y - tall), wide, wide, canvas.shade((40 + 60 * thing.u[0],) * 3, facing, distance), POLE)
    canvas.limb((x, y - 0.75 * tall), (x, y - 0.9 * tall), wide, wide, canvas.shade((230, 230, 235), facing, distance), POLE)


def sign(canvas: Canvas, thing: Thing) -> None:
    """A post with one or two plates, seen from the front or, on the other side of the road, often from the back."""
    view, u = canvas.view, thing.u
    distance = thing.z - view.z
    scale = view.focal / distance
    x, y = view.pixel(thing.x, 0, distance)
    top = y - thing.height * scale
    facing = canvas.look.light(0, 0.1, -1)
    canvas.limb((x, y), (x, top), 0.08 * scale, 0.08 * scale, canvas.shade((120, 122, 125), facing, distance), POLE)
    shape = ("round", "round", "triangle", "square", "yield", "board", "diamond")[int(u[0] * 7)]
    size = (0.34 + 0.16 * u[1]) * scale
    plate(canvas, shape, np.array((x, top - 0.1 * size)), size, u, facing, distance)
    if u[2] < 0.4:
        below = np.array((x, top + 1.9 * size))
        plate(canvas, ("board", "round", "square")[int(u[3] * 3)], below, size * 0.75, u[5:] + u[:5], facing, distance)


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
        x, y = float(at[0]), float(at[1])
        canvas.limb((x - 0.35 * size, y), (x + 0.35 * size, y + 0.1 * size), 0.25 * size, 0.25 * size, symbol, SIGN)


def light(canvas: Canvas, thing: Thing) -> None:
    """A traffic light on its post."""
    distance = thing.z - canvas.view.z
    scale = canvas.view.focal / distance
    x, y = canvas.view.pixel(thing.x, 0, distance)
    top = y - thing.height * scale
    falling = canvas.look.light(0, 0.1, -1)
    canvas.limb((x, y), (x, top), 0.12 * scale, 0.12 * scale, canvas.shade((70, 72, 75), falling, distance), POLE)
    black = canvas.shade((35, 35, 35), falling, distance)
    canvas.limb((x, top - 0.1 * scale), (x, top + 0.9 * scale), 0.34 * scale, 0.34 * scale, black, SIGN)
    lit = int(thing.u[0] * 3)
    for n, colour in enumerate(((40, 40, 250), (40, 190, 255), (120, 230, 60))):
        shown = colour if n == lit else (colour[0] * 0.25, colour[1] * 0.25, colour[2] * 0.25)
        canvas.disc(x, top + (0.1 + 0.27 * n) * scale, 0.11 * scale, shown, SIGN)


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
    wide = thing.kind in ("building", "hedge", "fence")
    if near > 80 or (not wide and near > (55 if thing.kind in ("car", "tree") else 30)):
        return
    flat = (look.sun[0] ** 2 + look.sun[2] ** 2) ** 0.5
    reach = min(2.2, flat / max(look.sun[1], 0.05))
    away = np.array([-look.sun[0], -look.sun[2]]) / max(flat, 1e-3) * reach
    sunny = canvas.shade_depth < 0.9
    if thing.kind == "car":
        along = np.array([sin(thing.heading), cos(thing.heading)]) * 2.1
        across = np.array([along[1], -along[0]]) * 0.4
        middle = np.array([thing.x, near]) + (along if abs(along[1]) < 1.8 else (0, 2.1))
        box = np.array([middle - along - across, middle + along - across, middle + along + across, middle - along + across])
        if sunny:
            _ground_shadow(canvas, box + away * 1.1, 1.0)
        _ground_shadow(canvas, box, 1.0, 0.4)
    elif not sunny:
        return
    elif wide:
        base = np.array([[thing.x, near], [thing.x, near + thing.length]])
        _ground_shadow(canvas, np.concatenate((base, (base + away * thing.height)[::-1])), 1.0 if thing.kind != "fence" else 0.5)
    elif thing.kind == "tree":
        middle = np.array([thing.x, near]) + away * thing.height * 0.65
        _ground_shadow(canvas, middle + _CIRCLE * thing.height * (0.28, 0.34), 0.85)
        _bar_shadow(canvas, thing, near, away * 0.6, 0.12)
    else:
        _bar_shadow(canvas, thing, near, away, 0.25 if thing.kind in ("person", "cyclist", "clutter") else 0.07)


def _bar_shadow(canvas: Canvas, thing: Thing, near: float, away: Points, half: float) -> None:
    x, z = thing.x, near
    tip_x, tip_z = x + away[0] * thing.height, z + away[1] * thing.height
    _ground_shadow(canvas, np.array([[x - half, z], [x + half, z], [tip_x + half, tip_z], [tip_x - half, tip_z]]), 1.0)


def _ground_shadow(canvas: Canvas, flat: Points, strength: float, extra: float = 1.0) -> None:
    """Darken the ground under (N, 2) points (metres right of the road's middle, metres ahead)."""
    if flat[:, 1].max() <= NEAR:
        return
    points = np.zeros((len(flat), 3))
    points[:, 0], points[:, 2] = flat[:, 0], np.maximum(flat[:, 1], NEAR)
    canvas.shadow(canvas.view.project(points, canvas.view.shifts(points[:, 2])), strength, extra)
