"""Pedestrians and cyclists of the procedural streets: jointed figures of tapered limbs."""

from __future__ import annotations

from math import cos, pi, sin

import cv2
import numpy as np

from rdd_deploy.data.streets.canvas import BICYCLIST, PERSON, Body, Canvas
from rdd_deploy.data.streets.layout import SceneObject
from rdd_deploy.data.streets.lighting import Colour, mix, tint

_SKINS: tuple[Colour, ...] = ((150, 175, 225), (125, 150, 205), (90, 120, 175), (55, 80, 130), (40, 55, 90))
_HAIRS: tuple[Colour, ...] = ((25, 25, 28), (40, 55, 75), (70, 115, 165), (140, 140, 145), (30, 45, 100))
_WHEELS = [
    np.array([[0.0, 0.34 + 0.33 * sin(k * pi / 7), centre + 0.33 * cos(k * pi / 7)] for k in range(14)])
    for centre in (-0.52, 0.52)
]
_TUBES = [
    [0, 0.34, -0.52],
    [0, 0.82, -0.2],
    [0, 0.32, 0.0],
    [0, 0.85, 0.4],
    [0, 0.34, 0.52],
    [-0.27, 1.03, 0.42],
    [0.27, 1.03, 0.42],
]
_BIKE = np.concatenate((*_WHEELS, _TUBES))
Joint = list[float]


def person(canvas: Canvas, thing: SceneObject) -> None:
    """Someone who walks or stands."""
    standing = thing.phase == pi / 2
    swing = 0.06 if standing else 0.36 * sin(thing.phase)
    bend = 0.0 if standing else 0.14 * abs(cos(thing.phase))
    joints = [
        [-0.09, 0.9, 0], [0.09, 0.9, 0],  # hips
        [-0.1, 0.48, swing * 0.55 + bend], [0.1, 0.48, -swing * 0.55 + bend],  # knees
        [-0.1, 0.04, swing], [0.1, 0.04, -swing],  # feet
        [-0.19, 1.43, 0], [0.19, 1.43, 0],  # shoulders
        [-0.25, 1.15, -swing * 0.4], [0.25, 1.15, swing * 0.4],  # elbows
        [-0.23, 0.9, -swing * 0.6 + 0.1], [0.23, 0.9, swing * 0.6 + 0.1],  # hands
        [0, 1.63, 0.02],  # head
    ]  # fmt: skip
    _figure(canvas, thing, joints, thing.height / 1.75, PERSON)


def cyclist(canvas: Canvas, thing: SceneObject) -> None:
    """A rider on a bicycle; both carry the bicyclist's label, as in CamVid."""
    bike(canvas, thing)
    # Forward and up of the pedals.
    a, b = ((0.17 * sin(angle), 0.17 * cos(angle)) for angle in (thing.phase, thing.phase + pi))
    joints = [
        [-0.11, 0.98, -0.18], [0.11, 0.98, -0.18],
        [-0.13, 0.78 + a[1] * 0.5, 0.22 + a[0] * 0.3], [0.13, 0.78 + b[1] * 0.5, 0.22 + b[0] * 0.3],
        [-0.12, 0.32 + a[1], 0.05 + a[0]], [0.12, 0.32 + b[1], 0.05 + b[0]],
        [-0.18, 1.42, 0.1], [0.18, 1.42, 0.1], [-0.22, 1.23, 0.27], [0.22, 1.23, 0.27], [-0.25, 1.05, 0.43], [0.25, 1.05, 0.43],
        [0, 1.64, 0.2],
    ]  # fmt: skip
    _figure(canvas, thing, joints, 1.0, BICYCLIST)


def _clothes(a: float, b: float, c: float, d: float) -> Colour:
    """Mostly muted, sometimes loud, often the grey of a road or the beige of a wall."""
    value = 25 + 190 * a
    return mix((value, value, value), (20 + 220 * b, 20 + 220 * c, 20 + 220 * d), 0.15 + 0.7 * b * c)


def _figure(canvas: Canvas, thing: SceneObject, joints: list[Joint], size: float, label: int) -> None:
    """Legs, arms, trunk and head; the joints are pairs of hips, knees, feet, shoulders, elbows and
    hands, and the head.
    """
    body, u = Body(canvas.view, thing), thing.u
    p = body(np.array(joints) * size).tolist()
    scale, distance = size * canvas.view.focal / body.distance, body.distance
    light = canvas.lighting.light(*body.normal(0, 0.2, -1 if body.cos > 0 else 1))

    def bar(a: Joint, b: Joint, wide: float, narrow: float, colour: Colour) -> None:
        canvas.limb(a, b, wide * scale, narrow * scale, colour, label)

    skin = canvas.shade(_SKINS[int(u[0] * 5)], light, distance)
    top = canvas.shade(_clothes(u[1], u[2], u[3], u[4]), light, distance)
    legs = canvas.shade(_clothes(u[4] * 0.7, u[5], u[6], u[1]), light, distance)
    hair = canvas.shade(
        _clothes(u[8], u[1], u[2], u[3]) if label == BICYCLIST and u[9] < 0.6 else _HAIRS[int(u[10] * 5)],
        light,
        distance,
    )
    shoulders, hips = ([(p[i][0] + p[i + 1][0]) / 2, (p[i][1] + p[i + 1][1]) / 2] for i in (6, 0))
    wide = (0.44 if abs(body.cos) > 0.5 else 0.3) * (0.85 + 0.25 * u[3])
    near = scale >= 13
    for side in (1, 0) if body.sin > 0 else (0, 1):
        tone = tint(legs, (0.8, 0.8, 0.8)) if (side == 1) == (body.sin > 0) else legs
        if near:
            sleeve = tint(top, (0.82, 0.82, 0.82))
            bar(p[6 + side], p[8 + side], 0.13, 0.11, sleeve)
            bar(p[8 + side], p[10 + side], 0.11, 0.08, sleeve if u[7] < 0.7 else skin)
            bar(p[side], p[2 + side], 0.19, 0.14, tone)
            bar(p[2 + side], p[4 + side], 0.14, 0.09, tone)
        else:
            bar(p[side], p[4 + side], 0.18, 0.12, tone)
    if near:
        bar([shoulders[0], shoulders[1] - 0.06 * scale], shoulders, wide * 0.6, wide, top)
        coat = 0.3 if label == PERSON and u[8] < 0.35 else 0.04
        hips[1] += coat * scale
        bar(shoulders, p[12], 0.1, 0.1, skin)
        canvas.disc(p[12][0], p[12][1], 0.115 * scale, hair if body.cos > 0 else skin, label)
    bar(shoulders, hips, wide, wide * 0.9, top)
    if near and label == PERSON and u[9] < 0.3:
        bag = canvas.shade(_clothes(u[10], u[2], u[1], u[5]), light, distance)
        bar(shoulders, [shoulders[0], shoulders[1] + 0.35 * scale], 0.26, 0.28, bag)
    canvas.disc(p[12][0], p[12][1] - 0.05 * scale, 0.105 * scale, hair, label)


def bike(canvas: Canvas, thing: SceneObject) -> None:
    """A bicycle: wheels, frame, handlebar."""
    body, u = Body(canvas.view, thing), thing.u
    scale = canvas.view.focal / body.distance
    light = canvas.lighting.light(0, 0.3, -0.9)
    tyre = canvas.shade((35, 35, 35), light, body.distance)
    paint = canvas.shade((40 + 180 * u[8], 40 + 180 * u[3], 40 + 180 * u[5]), light, body.distance)
    pixels = body(_BIKE)
    rims = (pixels[:28] * 8).astype(np.int32).reshape(2, 14, 2)
    cv2.polylines(canvas.image, list(rims), True, (*tyre, BICYCLIST), max(1, round(0.05 * scale)), cv2.LINE_8, 3)
    if scale > 8:
        p = pixels[28:].tolist()
        for a, b in ((0, 1), (0, 2), (1, 2), (1, 3), (2, 3), (3, 4)):
            canvas.limb(p[a], p[b], 0.04 * scale, 0.04 * scale, paint, BICYCLIST)
        canvas.limb(p[5], p[6], 0.045 * scale, 0.045 * scale, tyre, BICYCLIST)
