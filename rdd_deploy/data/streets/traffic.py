"""What moves in a procedural street: a stream is a row of slots that slides along the road, so any moment can be asked
for.
"""

from __future__ import annotations

from math import floor, pi, sin

from rdd_deploy.data.streets.layout import FAR, RandomPool, SceneObject, World

BLOCK = 32
"""Slots of a stream that share a generator."""


def moving(world: World, camera_z: float, seconds: float) -> list[SceneObject]:
    """Traffic, cyclists and walkers at this time."""
    street, own, lane = world.street, world.street.drive, world.street.lane
    streams: list[
        tuple[int, str, float, float, float, float]
    ] = []  # number, kind, x, speed in m/s, spacing in metres, chance of a slot
    for n in range(street.lanes):
        streams.append((10 + n, "car", -own * lane * (n + 0.5), -8.5 - n, 19.0, 0.75 * street.traffic))
        if n:
            streams.append((14 + n, "car", own * lane * (n + 0.5), 9.5, 23.0, 0.6 * street.traffic))
    for side, sign in ((0, -1), (1, 1)):
        kerb, front = street.kerb[side], street.front[side]
        edge = kerb - (2.1 if street.parking[side] else 0.0) - 0.45
        streams.append((20 + side, "cyclist", sign * edge, 4.8 * sign * own, 15.0, 0.45))
        for n, walk in enumerate((1.35, -1.2)):
            x = sign * (kerb + (front - kerb) * (0.35 + 0.35 * n))
            streams.append((30 + 2 * side + n, "person", x, walk, 8.0, 0.6 * street.crowd))
    found = _leaders(world, camera_z, seconds)
    for stream in streams:
        found += _stream(world, camera_z, seconds, *stream)
    return found


def _leaders(world: World, camera_z: float, seconds: float) -> list[SceneObject]:
    """Traffic in the camera's own lane: it draws near and away again but never within reach of the bonnet."""
    street, pool, found = world.street, RandomPool(world.rng(2)), []
    for n in range(4):
        u, start, tempo = pool.many(), pool.uniform(0, 2 * pi), pool.uniform(0.1, 0.25)
        if pool.random() < 0.75 * street.traffic:
            z = camera_z + 17.0 + 26.0 * n + 8.0 * sin(start + tempo * seconds)
            found.append(SceneObject("car", street.drive * street.lane / 2, z, u))
    return found


def _stream(
    world: World,
    camera_z: float,
    seconds: float,
    number: int,
    kind: str,
    x: float,
    speed: float,
    spacing: float,
    chance: float,
) -> list[SceneObject]:
    shift, reach = speed * seconds, FAR if kind == "car" else 70.0
    found = []
    first, last = floor((camera_z - shift) / spacing), floor((camera_z + reach - shift) / spacing)
    for block in range(first // BLOCK, last // BLOCK + 1):  # a generator for each slot would cost more than the drawing
        rows = world.rng(number, block).random((BLOCK, 12)).tolist()
        for slot in range(max(first, block * BLOCK), min(last, block * BLOCK + BLOCK - 1) + 1):
            u = rows[slot - block * BLOCK]
            if u[11] < chance:
                z = (slot + 0.6 * u[10]) * spacing + shift
                place = x + (0.15 if kind == "car" else 0.3) * (2 * u[6] - 1)
                height = (1.05 if u[8] < 0.08 else 1.5) + 0.38 * u[7]
                phase = 2 * pi * u[9] + seconds * abs(speed) / (0.22 if kind == "person" else 0.55)
                heading = 0.0 if speed > 0 else pi
                found.append(SceneObject(kind, place, z, (*u[:9], *u[:3]), height=height, heading=heading, phase=phase))
    return found
