"""Pedestrians and cyclists of the procedural streets: jointed figures of tapered limbs."""

from __future__ import annotations

from math import cos, pi, sin

import numpy as np

from rdd_deploy.data.streets.canvas import BICYCLIST, PERSON, Canvas, tint
from rdd_deploy.data.streets.cars import Body
from rdd_deploy.data.streets.layout import Thing
from rdd_deploy.data.streets.lighting import Colour, mix

_SKINS: tuple[Colour, ...] = ((150, 175, 225), (125, 150, 205), (90, 120, 175), (55, 80, 130), (40, 55, 90))
_HAIRS: tuple[Colour, ...] = ((25, 25, 28), (40, 55, 75), (70, 115, 165), (140, 140, 145), (30, 45, 100))
_WHEELS = [np.array([[0.0, 0.34 + 0.33 * sin(k * pi / 7), centre + 0.33 * cos(k * pi / 7)] for k in range(14)]) for centre in (-0.52, 0.52)]
_TUBES = np.array(
    [[0, 0.34, -0.52], [0, 0.82, -0.2], [0, 0.32, 0.0], [0, 0.85, 0.4], [0, 0.34, 0.52], [-0.27, 1.03, 0.42], [0.27, 1.03, 0.42]]
)
_BIKE = np.concatenate((*_WHEELS, _TUBES))
Pixel = tuple[float, float]


def _between(a: Pixel, b: Pixel, down: float = 0.0) -> Pixel:
    return (a[0] + b[0]) / 2, (a[1] + b[1]) / 2 + down


def _clothes(a: float, b: float, c: float, d: float) -> Colour:
    """Mostly muted, sometimes loud, often the grey of a road or the beige of a wall."""
    value = 25 + 190 * a
    return mix((value, value, value), (20 + 220 * b, 20 + 220 * c, 20 + 220 * d), 0.15 + 0.7 * b * c)


def person(canvas: Canvas, thing: Thing) -> None:
    """Someone who walks or stands: jointed legs and arms, coat or skirt, a bag now and then."""
    body, u, h = Body(canvas, thing), thing.u, thing.height / 1.75
    standing = thing.phase == pi / 2
    swing = 0.06 if standing else 0.36 * sin(thing.phase)
    bend = 0.0 if standing else 0.14 * abs(cos(thing.phase))
    joints = [
        [-0.09, 0.9, 0], [0.09, 0.9, 0],  # 0, 1 hips
        [-0.1, 0.48, swing * 0.55 + bend], [0.1, 0.48, -swing * 0.55 + bend],  # 2, 3 knees
        [-0.1, 0.04, swing], [0.1, 0.04, -swing],  # 4, 5 feet
        [-0.19, 1.43, 0], [0.19, 1.43, 0],  # 6, 7 shoulders
        [-0.25, 1.15, -swing * 0.4], [0.25, 1.15, swing * 0.4],  # 8, 9 elbows
        [-0.23, 0.9, -swing * 0.6 + 0.1], [0.23, 0.9, swing * 0.6 + 0.1],  # 10, 11 hands
        [0, 1.5, 0], [0, 1.63, 0.02], [0, 1.08, 0],  # 12 neck, 13 head, 14 waist
        [-0.1, 0.03, swing + 0.17], [0.1, 0.03, -swing + 0.17],  # 15, 16 toes
    ]  # fmt: skip
    p: list[Pixel] = [(x, y) for x, y in body(np.array(joints) * h).tolist()]
    scale, distance = h * canvas.view.focal / body.distance, body.distance
    light = canvas.look.light(*body.normal(0, 0.2, -1 if body.cos > 0 else 1))
    skin, top, legs = _SKINS[int(u[0] * 5)], _clothes(u[1], u[2], u[3], u[4]), _clothes(u[4] * 0.7, u[5], u[6], u[1])
    skin, top, legs = canvas.shade(skin, light, distance), canvas.shade(top, light, distance), canvas.shade(legs, light, distance)
    sleeve, shoe = tint(top, (0.82, 0.82, 0.82)), canvas.shade((35, 35, 40), light, distance)
    hips = _between(p[0], p[1], 0.3 * scale if u[8] < 0.35 else 0.04 * scale)  # a coat reaches lower
    wide = (0.4 if abs(body.cos) > 0.5 else 0.28) * scale * (0.9 + 0.3 * u[3])
    if scale < 13:  # far away: two legs, a trunk, a head
        canvas.limb(p[0], p[4], 0.18 * scale, 0.12 * scale, legs, PERSON)
        canvas.limb(p[1], p[5], 0.18 * scale, 0.12 * scale, legs, PERSON)
        canvas.limb(_between(p[6], p[7]), _between(p[0], p[1]), wide * 1.25, wide, top, PERSON)
        canvas.disc(*p[13], 0.12 * scale, canvas.shade(_HAIRS[int(u[10] * 5)], light, distance), PERSON)
        return
    for side in (1, 0) if body.sin > 0 else (0, 1):
        tone = tint(legs, (0.8, 0.8, 0.8)) if (side == 1) == (body.sin > 0) else legs
        canvas.limb(p[6 + side], p[8 + side], 0.13 * scale, 0.11 * scale, sleeve, PERSON)
        canvas.limb(p[8 + side], p[10 + side], 0.11 * scale, 0.08 * scale, sleeve if u[7] < 0.7 else skin, PERSON)
        canvas.limb(p[side], p[2 + side], 0.19 * scale, 0.14 * scale, tone, PERSON)
        canvas.limb(p[2 + side], p[4 + side], 0.14 * scale, 0.09 * scale, tone, PERSON)
        canvas.limb(p[4 + side], p[15 + side], 0.1 * scale, 0.08 * scale, shoe, PERSON)
        canvas.disc(*p[10 + side], 0.05 * scale, skin, PERSON)
    canvas.limb(_between(p[6], p[7], -0.04 * scale), _between(p[6], p[7]), wide * 0.6, wide, top, PERSON)
    canvas.limb(_between(p[6], p[7]), p[14], wide, wide * 0.85, top, PERSON)
    canvas.limb(p[14], hips, wide * 0.85, wide, top, PERSON)
    if u[9] < 0.3:
        bag = canvas.shade(_clothes(u[10], u[2], u[1], u[5]), light, distance)
        canvas.limb(_between(p[12], p[14], -0.15 * scale), _between(p[12], p[14], 0.2 * scale), 0.26 * scale, 0.28 * scale, bag, PERSON)
    _head(canvas, p[12], p[13], scale, skin, canvas.shade(_HAIRS[int(u[10] * 5)], light, distance), body.cos, PERSON)


def _head(canvas: Canvas, neck: Pixel, head: Pixel, scale: float, skin: Colour, hair: Colour, facing: float, label: int) -> None:
    canvas.limb((neck[0], neck[1] + 0.05 * scale), head, 0.1 * scale, 0.1 * scale, skin, label)
    canvas.disc(head[0], head[1], 0.115 * scale, hair if facing > 0 else skin, label)
    canvas.disc(head[0], head[1] - 0.05 * scale, 0.105 * scale, hair, label)


def cyclist(canvas: Canvas, thing: Thing) -> None:
    """A rider on a bicycle; both carry the bicyclist's label, as in CamVid."""
    bike(canvas, thing)
    body, u = Body(canvas, thing), thing.u
    crank = [(0.17 * sin(a), 0.17 * cos(a)) for a in (thing.phase, thing.phase + pi)]
    joints = [[side * 0.12, 0.32 + up, 0.05 + forward] for side, (forward, up) in zip((-1, 1), crank, strict=True)]
    joints += [[side * 0.13, 0.78 + up * 0.5, 0.22 + forward * 0.3] for side, (forward, up) in zip((-1, 1), crank, strict=True)]
    joints += [[-0.11, 0.98, -0.18], [0.11, 0.98, -0.18], [-0.18, 1.42, 0.1], [0.18, 1.42, 0.1], [-0.25, 1.05, 0.43], [0.25, 1.05, 0.43]]
    p: list[Pixel] = [(x, y) for x, y in body(np.array([*joints, [0, 1.5, 0.14], [0, 1.64, 0.2]])).tolist()]
    scale, distance = canvas.view.focal / body.distance, body.distance
    light = canvas.look.light(*body.normal(0, 0.2, -1 if body.cos > 0 else 1))
    skin, top, legs = _SKINS[int(u[0] * 5)], _clothes(u[1], u[2], u[3], u[4]), _clothes(u[4] * 0.6, u[5], u[6], u[1])
    skin, top, legs = canvas.shade(skin, light, distance), canvas.shade(top, light, distance), canvas.shade(legs, light, distance)
    sleeve = tint(top, (0.82, 0.82, 0.82)) if u[7] < 0.6 else skin
    for side in (0, 1):
        canvas.limb(p[4 + side], p[2 + side], 0.19 * scale, 0.14 * scale, legs, BICYCLIST)
        canvas.limb(p[2 + side], p[side], 0.14 * scale, 0.09 * scale, legs if u[7] < 0.6 else skin, BICYCLIST)
        canvas.limb(p[6 + side], p[8 + side], 0.12 * scale, 0.08 * scale, sleeve, BICYCLIST)
    canvas.limb(_between(p[6], p[7], -0.05 * scale), _between(p[6], p[7], 0.02 * scale), 0.26 * scale, 0.44 * scale, top, BICYCLIST)
    canvas.limb(_between(p[6], p[7]), _between(p[4], p[5]), 0.44 * scale, 0.34 * scale, top, BICYCLIST)
    helmet = canvas.shade(_clothes(u[8], u[1], u[2], u[3]) if u[9] < 0.6 else _HAIRS[int(u[10] * 5)], light, distance)
    _head(canvas, p[10], p[11], scale, skin, helmet, body.cos, BICYCLIST)


def bike(canvas: Canvas, thing: Thing) -> None:
    """A bicycle: wheels, frame, handlebar."""
    body, u = Body(canvas, thing), thing.u
    scale = canvas.view.focal / body.distance
    light = canvas.look.light(0, 0.3, -0.9)
    tyre = canvas.shade((35, 35, 35), light, body.distance)
    paint = canvas.shade((40 + 180 * u[8], 40 + 180 * u[3], 40 + 180 * u[5]), light, body.distance)
    pixels = body(_BIKE)
    wheels = (pixels[14:28], pixels[:14]) if body.cos > 0 else (pixels[:14], pixels[14:28])  # the nearer one last
    canvas.polyline(wheels[0], tyre, BICYCLIST, 0.05 * scale, closed=True)
    if scale > 8:
        p = pixels[28:].tolist()
        for a, b in ((0, 1), (0, 2), (1, 2), (1, 3), (2, 3), (3, 4)):
            canvas.limb(p[a], p[b], 0.04 * scale, 0.04 * scale, paint, BICYCLIST)
        canvas.limb(p[5], p[6], 0.045 * scale, 0.045 * scale, tyre, BICYCLIST)
        canvas.limb((p[1][0] - 0.09 * scale, p[1][1]), (p[1][0] + 0.09 * scale, p[1][1]), 0.07 * scale, 0.07 * scale, tyre, BICYCLIST)
    canvas.polyline(wheels[1], tyre, BICYCLIST, 0.05 * scale, closed=True)
