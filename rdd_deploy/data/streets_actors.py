"""What moves in a procedural street: cars, people and cyclists, built of a few solid parts each."""

from __future__ import annotations

from math import atan, cos, pi, sin

import numpy as np
from numpy.typing import NDArray

from rdd_deploy.data.streets_canvas import BICYCLIST, CAR, PERSON, Canvas, Points, mix, tint
from rdd_deploy.data.streets_look import Colour
from rdd_deploy.data.streets_scene import Thing

# Side views in metres: (along, up), from the rear bumper over the roof to the front; glass marks the edges that are windows.
_BODIES = (
    # hatchback
    ([(0, 0.35), (0.02, 0.95), (0.35, 1.42), (2.3, 1.46), (3.05, 0.98), (3.95, 0.8), (4.0, 0.35)], (1, 3)),
    # saloon
    ([(0, 0.35), (0.0, 0.92), (0.75, 0.98), (1.35, 1.4), (2.7, 1.43), (3.5, 0.98), (4.5, 0.78), (4.55, 0.35)], (2, 4)),
    # estate or SUV
    ([(0, 0.4), (0.0, 1.05), (0.3, 1.65), (2.9, 1.7), (3.6, 1.12), (4.5, 0.98), (4.55, 0.4)], (1, 3)),
    # van
    ([(0, 0.4), (0.0, 1.15), (0.1, 2.05), (3.6, 2.1), (4.4, 1.2), (5.0, 1.05), (5.05, 0.4)], (1, 3)),
)
_PAINTS: tuple[Colour, ...] = (
    (35, 35, 38), (60, 60, 62), (110, 110, 112), (165, 166, 168), (205, 207, 208), (232, 233, 235), (120, 60, 35), (150, 105, 70),
    (40, 35, 150), (50, 50, 95), (60, 90, 45), (120, 150, 175), (95, 115, 140), (70, 100, 160), (40, 140, 190), (120, 125, 95),
)  # fmt: skip
_WHEEL = np.stack((np.cos(np.linspace(0, 2 * pi, 14, endpoint=False)), np.sin(np.linspace(0, 2 * pi, 14, endpoint=False))), 1)
_SKINS: tuple[Colour, ...] = ((150, 175, 225), (125, 150, 205), (90, 120, 175), (55, 80, 130), (40, 55, 90))
_HAIRS: tuple[Colour, ...] = ((25, 25, 28), (40, 55, 75), (70, 115, 165), (140, 140, 145), (30, 45, 100))


class _Frame:
    """Turns an object's own coordinates (right, up, forward) into pixels."""

    def __init__(self, canvas: Canvas, thing: Thing) -> None:
        view = canvas.view
        self.view, self.distance = view, thing.z - view.z
        turn = thing.heading - atan(view.world.slope(view.z)) + atan(view.world.slope(thing.z))
        self.sin, self.cos = sin(turn), cos(turn)
        self.x, self.shift = thing.x, view.shift(self.distance)

    def __call__(self, points: Points) -> NDArray[np.float64]:
        right, forward = points[:, 0], points[:, 2]
        x = self.x + right * self.cos + forward * self.sin
        z = self.distance - right * self.sin + forward * self.cos
        return self.view.project(np.stack((x, points[:, 1], z), 1), self.shift)

    def normal(self, right: float, up: float, forward: float) -> tuple[float, float, float]:
        return right * self.cos + forward * self.sin, up, -right * self.sin + forward * self.cos


def _faces_camera(points: Points) -> bool:
    """Whether a polygon listed clockwise on the screen (y down) shows its front."""
    x, y = points[:, 0], points[:, 1]
    return bool(np.dot(x, np.roll(y, -1)) > np.dot(y, np.roll(x, -1)))


def car(canvas: Canvas, thing: Thing) -> None:
    """A body extruded from its side view, with glass, wheels, lights and a number plate. The origin is its end nearest to z."""
    frame, u = _Frame(canvas, thing), thing.u
    outline, glass = _BODIES[(0, 0, 1, 1, 2, 2, 0, 3)[int(u[0] * 8)]]
    scale, half = 0.93 + 0.14 * u[1], 0.84 + 0.1 * u[2]
    profile = np.array(outline) * (scale, 1)
    if thing.heading > 2.5:  # seen from the front: keep z the nearest end
        profile = profile - (profile[:, 0].max(), 0)
    paint = mix(_PAINTS[int(u[3] * len(_PAINTS))], (u[4] * 255, u[5] * 255, u[6] * 255), 0.18)
    near_right = frame.x + frame.shift < 0
    count = len(profile)
    solid = np.empty((2 * count, 3))
    solid[:count, 0], solid[count:, 0] = -half, half
    solid[:, 1:] = np.tile(profile[:, ::-1], (2, 1))
    narrow = np.where(solid[:, 1] > 1.2, 0.86, 1.0)  # the cabin leans in
    solid[:, 0] *= narrow
    pixels = frame(solid)
    faces = []
    for i in range(count - 1):
        quad = np.stack((pixels[i], pixels[i + 1], pixels[count + i + 1], pixels[count + i]))
        step = profile[i + 1] - profile[i]
        faces.append((quad, step, i))
    towards = frame.cos > -0.3  # draw the far faces first
    for quad, step, i in faces[::-1] if towards else faces:
        if not _faces_camera(quad):
            continue
        length = max(1e-6, (step[0] ** 2 + step[1] ** 2) ** 0.5)
        light = canvas.look.light(*frame.normal(0, float(step[0] / length), float(-step[1] / length)))
        canvas.polygon(quad, canvas.shade(paint, light, frame.distance), CAR)
        if i in glass:
            _pane(canvas, quad, frame.distance)
    _car_side(canvas, frame, profile, half, paint, near_right if abs(frame.cos) > 0.5 else None)
    if canvas.view.focal / max(2.0, frame.distance) > 7:
        _car_ends(canvas, frame, profile, half, u, paint)


def _pane(canvas: Canvas, quad: Points, distance: float) -> None:
    """A dark window with the sky in its upper part."""
    middle = quad.mean(0)
    glass = middle + (quad - middle) * (0.86, 0.84)
    dark = canvas.shade((52, 48, 44), canvas.look.light(0, 0.5, -0.6), distance)
    canvas.polygon(glass, dark, CAR)
    streak = np.stack((glass[1], glass[1] + (glass[2] - glass[1]) * 0.7, glass[0] + (glass[3] - glass[0]) * 0.25))
    canvas.polygon(streak, mix(dark, canvas.look.horizon, 0.35), CAR)


def _car_side(
    canvas: Canvas, frame: _Frame, profile: NDArray[np.float64], half: float, paint: Colour, right: bool | None
) -> None:
    """The side that the camera sees: body, windows, wheels, sill."""
    side = 1.0 if right else -1.0
    points = np.zeros((len(profile), 3))
    points[:, 1:] = profile[:, ::-1]
    for side in (1.0, -1.0):
        points[:, 0] = side * half * np.where(points[:, 1] > 1.2, 0.86, 1.0)
        pixels = frame(points)
        if _faces_camera(pixels) == (side < 0):
            break
    light = canvas.look.light(*frame.normal(side, 0, 0))
    distance = frame.distance
    canvas.polygon(pixels, canvas.shade(paint, light, distance), CAR, convex=False)
    top, low = profile[:, 1].max(), 0.55 * profile[:, 1].max() + 0.2
    above = profile[profile[:, 1] > low + 0.05]
    left, right_end, belt = above[:, 0].min() + 0.15, above[:, 0].max() - 0.1, low + 0.06
    roof = profile[profile[:, 1] > top - 0.15]
    corners = np.array([[left, belt], [roof[0, 0] + 0.1, top - 0.12], [roof[-1, 0] - 0.05, top - 0.12], [right_end, belt]])
    window = np.column_stack((np.full(4, side * half * 0.93), corners[:, 1], corners[:, 0]))
    dark = canvas.shade((50, 46, 42), light, distance)
    panes = frame(window)
    canvas.polygon(panes, dark, CAR)
    pillar = panes[[0, 1]] + (panes[[3, 2]] - panes[[0, 1]]) * 0.52
    width = 0.09 * canvas.view.focal / max(2.0, distance)
    canvas.limb(pillar[0], pillar[1], width, width, canvas.shade(paint, light, distance), CAR)
    length = profile[:, 0].max() - profile[:, 0].min()
    for share in (0.19, 0.81):
        centre = profile[:, 0].min() + share * length
        wheel = np.column_stack((np.full(14, side * half), 0.33 + 0.34 * _WHEEL[:, 1], centre + 0.34 * _WHEEL[:, 0]))
        disc = frame(wheel)
        canvas.polygon(disc, canvas.shade((28, 28, 28), light, distance), CAR)
        canvas.polygon(disc.mean(0) + (disc - disc.mean(0)) * 0.6, canvas.shade((125, 125, 128), light, distance), CAR)


def _car_ends(canvas: Canvas, frame: _Frame, profile: NDArray[np.float64], half: float, u: tuple[float, ...], paint: Colour) -> None:
    """Lights, number plate, bumper and tyres of the end that faces the camera."""
    if abs(frame.cos) < 0.5:
        return
    rear = frame.cos > 0
    end = profile[:, 0].min() - 0.01 if rear else profile[:, 0].max() + 0.01
    light = canvas.look.light(*frame.normal(0, 0, -1 if rear else 1))
    distance = frame.distance

    def box(x0: float, x1: float, y0: float, y1: float, colour: Colour, glow: float = 0.0) -> None:
        quad = frame(np.array([[x0, y0, end], [x0, y1, end], [x1, y1, end], [x1, y0, end]]))
        canvas.polygon(quad, mix(canvas.shade(colour, light, distance), colour, glow), CAR)

    box(-half, half, 0.3, 0.48, tint(paint, (0.45, 0.45, 0.45)))
    box(-half * 0.95, -half * 0.65, 0.02, 0.34, (22, 22, 22))
    box(half * 0.65, half * 0.95, 0.02, 0.34, (22, 22, 22))
    lamp: Colour = (40, 35, 190) if rear else (225, 235, 240)
    low = 0.68 + 0.12 * u[8]
    glow = 0.8 if u[7] < 0.3 else 0.1
    box(-half * 0.96, -half * 0.66, low, low + 0.17, lamp, glow)
    box(half * 0.66, half * 0.96, low, low + 0.17, lamp, glow)
    box(-0.26, 0.26, 0.5, 0.62, (70, 200, 220) if rear and u[8] < 0.4 else (225, 228, 230))
    if not rear:
        box(-half * 0.55, half * 0.55, 0.66, 0.78, (35, 35, 36))


def _clothes(a: float, b: float, c: float, d: float) -> Colour:
    """Mostly muted, sometimes loud, often the grey of a road or the beige of a wall."""
    value = 25 + 190 * a
    return mix((value, value, value), (20 + 220 * b, 20 + 220 * c, 20 + 220 * d), 0.15 + 0.7 * b * c)


def person(canvas: Canvas, thing: Thing) -> None:
    """Someone who walks or stands: jointed legs and arms, coat or skirt, a bag now and then."""
    frame, u, h = _Frame(canvas, thing), thing.u, thing.height / 1.75
    swing = 0.42 * sin(thing.phase) if thing.phase != pi / 2 else 0.06
    bend = 0.16 * max(0.0, cos(thing.phase))
    joints = h * np.array(
        [
            [-0.1, 0.88, 0], [0.1, 0.88, 0],  # 0, 1 hips
            [-0.11, 0.48, swing * 0.6 + bend], [0.11, 0.48, -swing * 0.6 + bend],  # 2, 3 knees
            [-0.11, 0.05, swing], [0.11, 0.05, -swing],  # 4, 5 feet
            [-0.19, 1.42, 0], [0.19, 1.42, 0],  # 6, 7 shoulders
            [-0.25, 1.13, -swing * 0.35], [0.25, 1.13, swing * 0.35],  # 8, 9 elbows
            [-0.22, 0.88, -swing * 0.6 + 0.1], [0.22, 0.88, swing * 0.6 + 0.1],  # 10, 11 hands
            [0, 1.5, 0], [0, 1.63, 0.02], [0, 1.05, 0],  # 12 neck, 13 head, 14 waist
        ]
    )  # fmt: skip
    p, scale = frame(joints), h * canvas.view.focal / frame.distance
    light = canvas.look.light(*frame.normal(0, 0.2, -1 if frame.cos > 0 else 1))
    skin, top, legs = _SKINS[int(u[0] * 5)], _clothes(u[1], u[2], u[3], u[4]), _clothes(u[4] * 0.7, u[5], u[6], u[1])
    skin, top, legs = (canvas.shade(c, light, frame.distance) for c in (skin, top, legs))
    sleeve, shoe = tint(top, (0.85, 0.85, 0.85)), canvas.shade((35, 35, 40), light, frame.distance)
    for side in (0, 1) if frame.sin < 0 else (1, 0):
        shade = (0.8, 0.8, 0.8) if side else (1.0, 1.0, 1.0)
        canvas.limb(p[6 + side], p[8 + side], 0.13 * scale, 0.11 * scale, sleeve, PERSON)
        canvas.limb(p[8 + side], p[10 + side], 0.11 * scale, 0.08 * scale, sleeve if u[7] < 0.7 else skin, PERSON)
        canvas.limb(p[side], p[2 + side], 0.2 * scale, 0.15 * scale, tint(legs, shade), PERSON)
        canvas.limb(p[2 + side], p[4 + side], 0.15 * scale, 0.09 * scale, tint(legs, shade), PERSON)
        canvas.limb(p[4 + side], p[4 + side] + (0.1 * scale * frame.sin, 0.05 * scale), 0.11 * scale, 0.1 * scale, shoe, PERSON)
    coat = u[8] < 0.35
    waist = (p[0] + p[1]) / 2 + ((0, 0.32 * scale) if coat else (0, 0.0))
    broad = (0.42 if abs(frame.cos) > 0.5 else 0.3) * scale
    canvas.limb((p[6] + p[7]) / 2, p[14], broad, broad * 0.82, top, PERSON)
    canvas.limb(p[14], waist, broad * 0.82, broad * (1.1 if coat else 0.9), top, PERSON)
    if u[9] < 0.3:
        bag = canvas.shade(_clothes(u[10], u[2], u[1], u[5]), light, frame.distance)
        middle = (p[12] + p[14]) / 2
        canvas.limb(middle - (0, 0.17 * scale), middle + (0, 0.2 * scale), 0.28 * scale, 0.3 * scale, bag, PERSON)
    _head(canvas, p[12], p[13], scale, skin, canvas.shade(_HAIRS[int(u[10] * 5)], light, frame.distance), frame.cos, PERSON)


def _head(
    canvas: Canvas, neck: Points, head: Points, scale: float, skin: Colour, hair: Colour, facing: float, label: int
) -> None:
    canvas.limb(neck + (0, 0.05 * scale), head, 0.1 * scale, 0.1 * scale, skin, label)
    canvas.disc(head[0], head[1], 0.115 * scale, hair if facing > 0 else skin, label)
    canvas.disc(head[0], head[1] - 0.05 * scale, 0.105 * scale, hair, label)


def cyclist(canvas: Canvas, thing: Thing) -> None:
    """A rider on a bicycle; both carry the bicyclist's label, as in CamVid."""
    bike(canvas, thing)
    frame, u = _Frame(canvas, thing), thing.u
    crank = 0.17 * np.array([[sin(thing.phase), cos(thing.phase)], [-sin(thing.phase), -cos(thing.phase)]])
    feet = [[s * 0.12, 0.32 + c[1], 0.05 + c[0]] for s, c in zip((-1, 1), crank, strict=True)]
    knees = [[s * 0.13, 0.78 + c[1] * 0.5, 0.22 + c[0] * 0.3] for s, c in zip((-1, 1), crank, strict=True)]
    fixed = [[-0.11, 0.98, -0.18], [0.11, 0.98, -0.18], [-0.18, 1.42, 0.1], [0.18, 1.42, 0.1], [-0.24, 1.02, 0.45], [0.24, 1.02, 0.45]]
    p = frame(np.array(feet + knees + fixed + [[0, 1.5, 0.14], [0, 1.64, 0.2]]))
    scale = canvas.view.focal / frame.distance
    light = canvas.look.light(*frame.normal(0, 0.2, -1 if frame.cos > 0 else 1))
    skin, top, legs = _SKINS[int(u[0] * 5)], _clothes(u[1], u[2], u[3], u[4]), _clothes(u[4] * 0.6, u[5], u[6], u[1])
    skin, top, legs = (canvas.shade(c, light, frame.distance) for c in (skin, top, legs))
    for side in (0, 1):
        canvas.limb(p[4 + side], p[2 + side], 0.19 * scale, 0.14 * scale, legs, BICYCLIST)
        canvas.limb(p[2 + side], p[side], 0.14 * scale, 0.09 * scale, legs if u[7] < 0.6 else skin, BICYCLIST)
        canvas.limb(p[6 + side], p[8 + side], 0.12 * scale, 0.08 * scale, top if u[7] < 0.6 else skin, BICYCLIST)
    canvas.limb((p[6] + p[7]) / 2, (p[4] + p[5]) / 2, 0.42 * scale, 0.34 * scale, top, BICYCLIST)
    helmet = canvas.shade(_clothes(u[8], u[1], u[2], u[3]) if u[9] < 0.6 else _HAIRS[int(u[10] * 5)], light, frame.distance)
    _head(canvas, p[10], p[11], scale, skin, helmet, frame.cos, BICYCLIST)


def bike(canvas: Canvas, thing: Thing) -> None:
    """A bicycle: wheels, frame, handlebar."""
    frame, u = _Frame(canvas, thing), thing.u
    scale = canvas.view.focal / frame.distance
    light = canvas.look.light(0, 0.3, -0.9)
    tyre = canvas.shade((35, 35, 35), light, frame.distance)
    paint = canvas.shade((40 + 180 * u[8], 40 + 180 * u[3], 40 + 180 * u[5]), light, frame.distance)
    for centre in (-0.52, 0.52):
        rim = np.column_stack((np.zeros(14), 0.34 + 0.33 * _WHEEL[:, 1], centre + 0.33 * _WHEEL[:, 0]))
        canvas.polyline(frame(rim), tyre, BICYCLIST, 0.055 * scale, closed=True)
    tubes = [[0, 0.34, -0.52], [0, 0.82, -0.2], [0, 0.32, 0.0], [0, 0.85, 0.4], [0, 0.34, 0.52], [-0.27, 1.03, 0.42], [0.27, 1.03, 0.42]]
    p = frame(np.array(tubes))
    for a, b in ((0, 1), (0, 2), (1, 2), (1, 3), (2, 3), (3, 4), (5, 6)):
        canvas.limb(p[a], p[b], 0.05 * scale, 0.05 * scale, paint, BICYCLIST)
