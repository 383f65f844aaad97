"""Cars of the procedural streets: bodies extruded from a side view, with glass, wheels and lamps."""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

from rdd_deploy.data.streets.canvas import CAR, Body, Canvas
from rdd_deploy.data.streets.layout import SceneObject
from rdd_deploy.data.streets.lighting import Colour, mix

# Side views in metres: (along, up), from the rear bumper over the roof to the front; then the edges that are windows.
_BODIES: tuple[tuple[tuple[tuple[float, float], ...], tuple[int, ...]], ...] = (
    # hatchback.
    (
        ((0, 0.3), (0, 0.62), (0.05, 0.95), (0.42, 1.42), (2.3, 1.46), (3.05, 0.98), (3.95, 0.8), (4.0, 0.3)),
        (2, 4),
    ),
    # saloon.
    (
        (
            (0, 0.3),
            (0, 0.6),
            (0.0, 0.92),
            (0.75, 0.98),
            (1.35, 1.4),
            (2.7, 1.43),
            (3.5, 0.98),
            (4.5, 0.78),
            (4.55, 0.3),
        ),
        (3, 5),
    ),
    # estate.
    (
        ((0, 0.35), (0, 0.7), (0.0, 1.05), (0.3, 1.62), (2.9, 1.7), (3.6, 1.12), (4.5, 0.98), (4.55, 0.35)),
        (2, 4),
    ),
    (((0, 0.4), (0, 1.2), (0.03, 1.3), (0.1, 2.05), (3.6, 2.1), (4.4, 1.2), (5.0, 1.05), (5.05, 0.4)), (2, 4)),  # van
    # Bus or lorry.
    (
        ((0, 0.45), (0, 0.9), (0, 1.3), (0.05, 2.9), (9.8, 2.95), (9.95, 1.1), (10, 0.9), (10, 0.45)),
        (2, 4),
    ),
)
_KINDS = (0, 0, 0, 0, 1, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 4)
_PAINTS: tuple[Colour, ...] = (
    (35, 35, 38), (60, 60, 62), (110, 110, 112), (165, 166, 168), (205, 207, 208), (232, 233, 235), (120, 60, 35), (150, 105, 70),
    (40, 35, 150), (50, 50, 95), (60, 90, 45), (120, 150, 175), (95, 115, 140), (70, 100, 160), (40, 140, 190), (120, 125, 95),
)  # fmt: skip
_ENDS = (
    (-1, 1, 0.28, 0.47),
    (-0.95, -0.65, 0.0, 0.32),
    (0.65, 0.95, 0.0, 0.32),
    (-0.97, -0.68, 0.68, 0.84),
    (0.68, 0.97, 0.68, 0.84),
)
"""Bumper, two tyres and two lamps of the rear and the front: left, right, low, high, of half width 1."""
_ROUND = np.linspace(0, 2 * np.pi, 12, endpoint=False)
Part = NDArray[np.intp]
Mesh = tuple[NDArray[np.float64], Part, list[tuple[float, float]], dict[int, Part], list[list[Part]], list[list[Part]]]


@cache
def _mesh(kind: int) -> Mesh:
    """A car of half width 1.

    Returns:
        Its points (right, up, forward), and as indices of them: the quads (F, 4) from rear to front with the normal
        (up, forward) of each and the panes in some; outline, window, pillar and two wheels of the left and right side;
        ``_ENDS`` of the rear and the front.
    """
    outline, glass = _BODIES[kind]
    profile, parts = np.array(outline), [np.empty((0, 3))]

    def add(points: object) -> Part:
        parts.append(np.asarray(points, np.float64))
        total = sum(map(len, parts))
        return np.arange(total - len(parts[-1]), total)

    belt = 0.57 * profile[:, 1].max() + 0.22
    lean = np.where(profile[:, 1] > belt + 0.12, 0.84 if kind < 3 else 0.96, 1.0)  # the cabin leans in
    rings = [add(np.column_stack((side * lean, profile[:, 1], profile[:, 0]))) for side in (-1, 1)]
    faces = np.stack((rings[0][:-1], rings[0][1:], rings[1][1:], rings[1][:-1]), 1)
    steps = np.diff(profile, axis=0)
    normals = [(float(a / np.hypot(a, b)), float(-b / np.hypot(a, b))) for a, b in steps]
    corners = {face: np.concatenate(parts)[faces[face]] for face in glass}
    panes = {face: add(quad.mean(0) + (quad - quad.mean(0)) * 0.84) for face, quad in corners.items()}
    sides = [[rings[i], *(add(part) for part in _side(profile, belt, (-1, 1)[i], kind))] for i in (0, 1)]
    boxes = [
        [[[a, y0, z], [a, y1, z], [b, y1, z], [b, y0, z]] for a, b, y0, y1 in _ENDS]
        for z in (-0.01, profile[-1, 0] + 0.01)
    ]
    ends = [[add(box) for box in end] for end in boxes]
    return np.concatenate(parts), faces, normals, panes, sides, ends


def _side(profile: NDArray[np.float64], belt: float, side: float, kind: int) -> list[NDArray[np.float64]]:
    """Window, pillar and wheels of one side."""
    top, length = profile[:, 1].max() - 0.1, profile[-1, 0]
    cabin, roof = profile[profile[:, 1] > belt - 0.12, 0], profile[profile[:, 1] > top - 0.05, 0]
    rear, front, roof_rear, roof_front = cabin[0] + 0.22, cabin[-1] - 0.08, roof[0] + 0.12, roof[-1] - 0.02
    if kind == 3:  # a van is blind behind the driver
        rear, roof_rear = roof[-1] - 0.9, roof[-1] - 0.9
    middle = (roof_rear + roof_front) / 2
    window = np.array([[rear, belt], [roof_rear, top], [roof_front, top], [front, belt]])
    pillar = np.array([[middle - 0.05, belt], [middle - 0.05, top], [middle + 0.05, top], [middle + 0.05, belt]])
    radius = 0.32 if kind < 4 else 0.48
    wheels = [
        np.stack((share * length + radius * np.cos(_ROUND), radius + radius * np.sin(_ROUND)), 1)
        for share in (0.19, 0.81)
    ]
    flat = ((window, 0.9), (pillar, 0.9), (wheels[0], 1.0), (wheels[1], 1.0))
    return [np.column_stack((np.full(len(part), side * lean), part[:, 1], part[:, 0])) for part, lean in flat]


def _turned_to_camera(quads: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Of (F, 4, 2) quads listed clockwise on the screen as seen from outside: whether the outside shows."""
    a, b = (quads[:, 2] - quads[:, 0]).astype(np.int64), (quads[:, 3] - quads[:, 1]).astype(np.int64)
    return np.asarray(a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0] > 0)


def car(canvas: Canvas, thing: SceneObject) -> None:
    """One car. z is its end nearest to the camera, whichever way it heads; a car across the road has its
    middle there.
    """
    body, u, lighting = Body(canvas.view, thing), thing.u, canvas.lighting
    kind = _KINDS[int(u[0] * len(_KINDS))]
    if thing.variant == 1 and kind == 4:
        kind = 1  # nobody parks a bus here
    mesh, faces, normals, panes, sides, ends = _mesh(kind)
    points = mesh * ((0.84 + 0.1 * u[2]) * (1.0 if kind < 3 else 1.15), 1.0, 0.93 + 0.12 * u[1])
    points[:, 2] -= (1.0 if body.cos < -0.5 else 0.5 if body.cos < 0.5 else 0.0) * points[faces[-1, 1], 2]
    fixed, distance = (body(points) * 8).astype(np.int32), body.distance
    detailed = canvas.view.focal / max(distance, 1.0) > 8
    paint = mix(_PAINTS[int(u[3] * len(_PAINTS))], (u[4] * 255, u[5] * 255, u[6] * 255), 0.18)

    def fill(part: NDArray[np.int32], colour: Colour) -> None:
        cv2.fillConvexPoly(canvas.image, part, (*colour, CAR), cv2.LINE_8, 3)

    glass = mix(
        canvas.shade((52, 48, 44), lighting.light(0, 0.5, -0.6), distance), lighting.horizon, 0.05 + 0.15 * u[9]
    )
    shell = [i for i, visible in enumerate(_turned_to_camera(fixed[faces]).tolist()) if visible]
    for i in reversed(shell) if body.cos > 0 else shell:
        fill(fixed[faces[i]], canvas.shade(paint, lighting.light(*body.normal(0.0, *normals[i])), distance))
        if i in panes:
            fill(fixed[panes[i]], glass)

    right = bool(_turned_to_camera(fixed[sides[1][1]][None])[0])
    outline, window, pillar, *wheels = (fixed[part] for part in sides[right])
    light = lighting.light(*body.normal(1.0 if right else -1.0, 0.1, 0))
    colour, black = canvas.shade(paint, light, distance), canvas.shade((30, 30, 31), light, distance)
    cv2.fillPoly(canvas.image, [outline], (*colour, CAR), cv2.LINE_8, 3)
    fill(window, mix(canvas.shade((50, 46, 42), light, distance), lighting.horizon, 0.08))
    for wheel in wheels:
        fill(wheel, black)
        if detailed:
            fill(
                (wheel.mean(0) + (wheel - wheel.mean(0)) * 0.6).astype(np.int32),
                canvas.shade((125, 125, 128), light, distance),
            )
    if detailed:
        fill(pillar, colour)
        if abs(body.cos) > 0.5:
            rear = body.cos > 0
            light = lighting.light(*body.normal(0, 0, -1 if rear else 1))
            lamp: Colour = (40, 35, 190) if rear else (225, 235, 240)
            lit = mix(canvas.shade(lamp, light, distance), lamp, 0.8 if u[7] < 0.3 else 0.1)
            bumper = canvas.shade(mix(paint, (45, 45, 46), 0.25 + 0.7 * (u[7] > 0.5)), light, distance)
            for part, tone in zip(ends[not rear], (bumper, black, black, lit, lit), strict=True):
                fill(fixed[part], tone)
