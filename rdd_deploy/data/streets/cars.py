"""Cars of the procedural streets: bodies extruded from a side view, with glass, wheels, lights and number plates."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from math import atan, cos, pi, sin

import cv2
import numpy as np
from numpy.typing import NDArray

from rdd_deploy.data.streets.canvas import CAR, Canvas, Points
from rdd_deploy.data.streets.layout import Thing
from rdd_deploy.data.streets.lighting import Colour, mix

# Side views in metres: (along, up), from the rear bumper over the roof to the front; then the edges that are windows.
_BODIES: tuple[tuple[tuple[tuple[float, float], ...], tuple[int, ...]], ...] = (
    (((0, 0.3), (0, 0.62), (0.05, 0.95), (0.42, 1.42), (2.3, 1.46), (3.05, 0.98), (3.95, 0.8), (4.0, 0.3)), (2, 4)),  # hatchback
    (((0, 0.3), (0, 0.6), (0.0, 0.92), (0.75, 0.98), (1.35, 1.4), (2.7, 1.43), (3.5, 0.98), (4.5, 0.78), (4.55, 0.3)), (3, 5)),  # saloon
    (((0, 0.35), (0, 0.7), (0.0, 1.05), (0.3, 1.62), (2.9, 1.7), (3.6, 1.12), (4.5, 0.98), (4.55, 0.35)), (2, 4)),  # estate
    (((0, 0.4), (0, 1.2), (0.03, 1.3), (0.1, 2.05), (3.6, 2.1), (4.4, 1.2), (5.0, 1.05), (5.05, 0.4)), (2, 4)),  # van
    (((0, 0.45), (0, 0.9), (0, 1.3), (0.05, 2.9), (9.8, 2.95), (9.95, 1.1), (10, 0.9), (10, 0.45)), (2, 4)),  # bus or lorry
)
_KINDS = (0, 0, 0, 0, 1, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 4)
_PAINTS: tuple[Colour, ...] = (
    (35, 35, 38), (60, 60, 62), (110, 110, 112), (165, 166, 168), (205, 207, 208), (232, 233, 235), (120, 60, 35), (150, 105, 70),
    (40, 35, 150), (50, 50, 95), (60, 90, 45), (120, 150, 175), (95, 115, 140), (70, 100, 160), (40, 140, 190), (120, 125, 95),
)  # fmt: skip
_ROUND = np.linspace(0, 2 * pi, 12, endpoint=False)


class Body:
    """Turns an object's own coordinates (right, up, forward; metres) into pixels, heading and bend of the road included."""

    def __init__(self, canvas: Canvas, thing: Thing) -> None:
        view = canvas.view
        self.view, self.distance = view, thing.z - view.z
        turn = thing.heading - atan(view.world.slope(view.z)) + atan(view.world.slope(thing.z))
        self.sin, self.cos = sin(turn), cos(turn)
        self.x = thing.x + view.shift(self.distance)

    def __call__(self, points: Points) -> NDArray[np.float64]:
        """(N, 3) to (N, 2) pixels."""
        right, forward = points[:, 0], points[:, 2]
        world = np.empty((len(points), 3))
        world[:, 0] = right * self.cos + forward * self.sin
        world[:, 1] = points[:, 1]
        world[:, 2] = forward * self.cos - right * self.sin + self.distance
        return self.view.project(world, self.x)

    def normal(self, right: float, up: float, forward: float) -> tuple[float, float, float]:
        return right * self.cos + forward * self.sin, up, -right * self.sin + forward * self.cos


@dataclass(frozen=True)
class _Mesh:
    """All points of a car of half width 1, and which of them make which polygon."""

    points: NDArray[np.float64]
    faces: NDArray[np.intp]
    """(F, 4): the shell from rear to front."""
    normals: tuple[tuple[float, float], ...]
    """Per face: up and forward."""
    panes: dict[int, tuple[slice, slice]]
    """Per glazed face: the window and the streak of sky in it."""
    sides: tuple[tuple[slice, slice, slice, slice, slice, slice], ...]
    """Left, right: outline, window, pillar, sill, two wheels; hubs are shrunk wheels."""
    ends: tuple[tuple[slice, ...], ...]
    """Rear, front: bumper, two tyres, two lamps, number plate, grille."""


@cache
def _mesh(kind: int) -> _Mesh:
    outline, glass = _BODIES[kind]
    profile, parts = np.array(outline), []
    total = 0

    def add(points: object) -> slice:
        nonlocal total
        parts.append(np.asarray(points, np.float64))
        total += len(parts[-1])
        return slice(total - len(parts[-1]), total)

    count, belt = len(profile), 0.57 * profile[:, 1].max() + 0.22
    lean = np.where(profile[:, 1] > belt + 0.12, 0.84 if kind < 3 else 0.96, 1.0)  # the cabin leans in
    rings = [add(np.column_stack((side * lean, profile[:, 1], profile[:, 0]))) for side in (-1, 1)]
    shell = np.arange(count - 1)
    faces = np.stack((shell, shell + 1, shell + 1 + count, shell + count), 1)
    steps = np.diff(profile, axis=0)
    normals = tuple((float(a / np.hypot(a, b)), float(-b / np.hypot(a, b))) for a, b in steps)
    panes = {}
    for face in glass:
        corners = np.concatenate(parts)[faces[face]]
        quad = corners.mean(0) + (corners - corners.mean(0)) * (0.84, 0.84, 0.84)
        high, low = (quad[[1, 2]], quad[[0, 3]]) if quad[1, 1] > quad[0, 1] else (quad[[0, 3]], quad[[1, 2]])
        a, b = (high[1] - high[0]), (low[1] - low[0])
        streak = [high[0] + 0.25 * a, high[0] + 0.8 * a, low[0] + 0.5 * b, low[0] + 0.1 * b]
        panes[face] = add(quad), add(streak)
    sides = tuple((rings[i], *(add(part) for part in _side(profile, belt, (-1, 1)[i], kind))) for i in (0, 1))
    ends = tuple(tuple(add(box) for box in _end(x, front)) for front, x in ((False, -0.01), (True, profile[-1, 0] + 0.01)))
    return _Mesh(np.concatenate(parts), faces, normals, panes, sides, ends)  # type: ignore[arg-type]


def _side(profile: NDArray[np.float64], belt: float, side: float, kind: int) -> list[NDArray[np.float64]]:
    """Window, pillar, sill and wheels of one side."""
    top, length = profile[:, 1].max(), profile[-1, 0]
    cabin, roof = profile[profile[:, 1] > belt - 0.12], profile[profile[:, 1] > profile[:, 1].max() - 0.15]
    rear, front = cabin[0, 0] + 0.22, cabin[-1, 0] - 0.08
    if kind == 3:  # a van is blind behind the driver
        rear = roof[-1, 0] - 0.9
        roof = np.array([[rear - 0.1, top], roof[-1]])
    window = [[rear, belt], [roof[0, 0] + 0.12, top - 0.1], [roof[-1, 0] - 0.02, top - 0.1], [front, belt]]
    middle = (roof[0, 0] + roof[-1, 0]) / 2 + 0.1
    pillar = [[middle - 0.05, belt], [middle - 0.05, top - 0.1], [middle + 0.05, top - 0.1], [middle + 0.05, belt]]
    sill = [[0.02, 0.3], [0.02, 0.44], [length - 0.02, 0.44], [length - 0.02, 0.3]]
    flat = [np.array(part) for part in (window, pillar, sill)]
    radius = 0.32 if kind < 4 else 0.48
    for share in (0.19, 0.81):
        flat.append(np.stack((share * length + radius * np.cos(_ROUND), radius + radius * np.sin(_ROUND)), 1))
    inward = (0.9, 0.9, 1.0, 1.0, 1.0)
    return [np.column_stack((np.full(len(p), side * lean), p[:, 1], p[:, 0])) for p, lean in zip(flat, inward, strict=True)]


def _end(z: float, front: bool) -> list[NDArray[np.float64]]:
    """Boxes on the rear or the front, half width 1."""
    boxes = [(-1, 1, 0.28, 0.47), (-0.95, -0.65, 0.0, 0.32), (0.65, 0.95, 0.0, 0.32), (-0.97, -0.68, 0.68, 0.84), (0.68, 0.97, 0.68, 0.84)]
    boxes += [(-0.3, 0.3, 0.49, 0.61), (-0.55, 0.55, 0.64, 0.76) if front else (-0.1, 0.1, 0.86, 0.88)]
    return [np.array([[a, y0, z], [a, y1, z], [b, y1, z], [b, y0, z]], np.float64) for a, b, y0, y1 in boxes]


def _turned_to_camera(quads: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Of (F, 4, 2) quads listed clockwise on the screen as seen from outside: whether the outside shows."""
    a, b = (quads[:, 2] - quads[:, 0]).astype(np.int64), (quads[:, 3] - quads[:, 1]).astype(np.int64)
    return np.asarray(a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0] > 0)


def car(canvas: Canvas, thing: Thing) -> None:
    """One car. z is its end nearest to the camera, whichever way it heads; a car across the road has its middle there."""
    body, u, look = Body(canvas, thing), thing.u, canvas.look
    kind = _KINDS[int(u[0] * len(_KINDS))]
    if thing.variant == 1 and kind == 4:
        kind = 1  # nobody parks a bus here
    mesh = _mesh(kind)
    half, scale, distance = (0.84 + 0.1 * u[2]) * (1.0 if kind < 3 else 1.15), 0.93 + 0.12 * u[1], body.distance
    points = mesh.points * (half, 1.0, scale)
    if body.cos < -0.5:
        points[:, 2] -= mesh.points[: len(mesh.faces) + 1, 2].max() * scale
    elif body.cos < 0.5:
        points[:, 2] -= mesh.points[: len(mesh.faces) + 1, 2].max() * scale / 2
    fixed = (body(points) * 8).astype(np.int32)
    paint = mix(_PAINTS[int(u[3] * len(_PAINTS))], (u[4] * 255, u[5] * 255, u[6] * 255), 0.18)
    image, detailed = canvas.image, canvas.view.focal / max(distance, 1.0) > 8

    def fill(part: NDArray[np.int32], colour: Colour) -> None:
        cv2.fillConvexPoly(image, part, (*colour, CAR), cv2.LINE_8, 3)

    quads = fixed[mesh.faces]
    visible = _turned_to_camera(quads).tolist()
    order = range(len(visible))
    glass = canvas.shade((52, 48, 44), look.light(0, 0.5, -0.6), distance)
    for i in reversed(order) if body.cos > 0 else order:
        if visible[i]:
            light = look.light(*body.normal(0.0, *mesh.normals[i]))
            fill(quads[i], canvas.shade(paint, light, distance))
            if i in mesh.panes:
                fill(fixed[mesh.panes[i][0]], glass)
                fill(fixed[mesh.panes[i][1]], mix(glass, look.horizon, 0.12 + 0.25 * u[9]))
    right = bool(_turned_to_camera(fixed[mesh.sides[1][1]][None])[0])
    _draw_side(canvas, body, fixed, mesh.sides[right], paint, 1.0 if right else -1.0, detailed)
    if detailed and abs(body.cos) > 0.5:
        _draw_end(canvas, body, fixed, mesh.ends[body.cos < 0], u, paint)


def _draw_side(
    canvas: Canvas, body: Body, fixed: NDArray[np.int32], parts: tuple[slice, ...], paint: Colour, side: float, detailed: bool
) -> None:
    """The side that the camera sees: outline, window, pillar, sill, wheels."""
    light = canvas.look.light(*body.normal(side, 0.1, 0))
    outline, window, pillar, sill, *wheels = parts
    colour = canvas.shade(paint, light, body.distance)
    cv2.fillPoly(canvas.image, [fixed[outline]], (*colour, CAR), cv2.LINE_8, 3)
    black = canvas.shade((30, 30, 31), light, body.distance)
    glass = mix(canvas.shade((50, 46, 42), light, body.distance), canvas.look.horizon, 0.08)
    shown = [(fixed[window], glass)]
    if detailed:
        hub = canvas.shade((125, 125, 128), light, body.distance)
        shown += [(fixed[pillar], colour), (fixed[sill], mix(colour, black, 0.5))]
        for wheel in wheels:
            tyre = fixed[wheel]
            middle = tyre.mean(0)
            shown += [(tyre, black), ((middle + (tyre - middle) * 0.6).astype(np.int32), hub)]
    else:
        shown += [(fixed[wheel], black) for wheel in wheels]
    for part, tone in shown:
        cv2.fillConvexPoly(canvas.image, part, (*tone, CAR), cv2.LINE_8, 3)


def _draw_end(canvas: Canvas, body: Body, fixed: NDArray[np.int32], parts: tuple[slice, ...], u: tuple[float, ...], paint: Colour) -> None:
    """Bumper, tyres, lamps, number plate and grille of the end that faces the camera."""
    rear = body.cos > 0
    light = canvas.look.light(*body.normal(0, 0, -1 if rear else 1))
    red: Colour = (40, 35, 190) if rear else (225, 235, 240)
    bumper = mix(paint, (45, 45, 46), 0.25 + 0.7 * (u[7] > 0.5))
    plate: Colour = (70, 200, 220) if rear and u[8] < 0.4 else (225, 228, 230)
    black: Colour = (24, 24, 25)
    lamp = mix(canvas.shade(red, light, body.distance), red, 0.8 if u[7] < 0.3 else 0.1)
    for part, colour in zip(parts, (bumper, black, black, None, None, plate, black), strict=True):
        tone = canvas.shade(colour, light, body.distance) if colour else lamp
        cv2.fillConvexPoly(canvas.image, fixed[part], (*tone, CAR), cv2.LINE_8, 3)
