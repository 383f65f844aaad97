"""What moves in a procedural street: a stream is a row of slots that slides along the road, so any moment can be asked for."""

from __future__ import annotations

from math import floor, pi, sin

from rdd_deploy.data.streets.layout import FAR, Dice, Thing, World

BLOCK = 32
"""Slots of a stream that share a generator."""


def moving(world: World, camera_z: float, seconds: float) -> list[Thing]:
    """Traffic, cyclists and walkers at this time."""
    street, things = world.street, []
    own, lane = street.drive, street.lane
    for n in range(street.lanes):
        x = lane * (n + 0.5)
        things += _stream(world, 10 + n, "car", -own * x, pi, -8.5 - n, 19.0, 0.75 * street.traffic, camera_z, seconds, FAR)
        if n:
            things += _stream(world, 14 + n, "car", own * x, 0.0, 9.5, 23.0, 0.6 * street.traffic, camera_z, seconds, FAR)
    things += _leaders(world, camera_z, seconds)
    for side in (0, 1):
        sign, kerb, front = (-1, 1)[side], street.kerb[side], street.front[side]
        edge = kerb - (2.1 if street.parking[side] else 0.0) - 0.45
        riding = 1 if sign == own else -1
        heading = 0.0 if riding > 0 else pi
        things += _stream(world, 20 + side, "cyclist", sign * edge, heading, riding * 4.8, 15.0, 0.45, camera_z, seconds, 70)
        for n, walk in enumerate((1.35, -1.2)):
            x = sign * (kerb + (front - kerb) * (0.35 + 0.35 * n))
            heading = 0.0 if walk > 0 else pi
            chance = 0.6 * street.crowd
            things += _stream(world, 30 + 2 * side + n, "person", x, heading, walk, 8.0, chance, camera_z, seconds, 70)
    return things


def _leaders(world: World, camera_z: float, seconds: float) -> list[Thing]:
    """Traffic in the camera's own lane: it draws near and away again but never within reach of the bonnet."""
    street = world.street
    things = []
    dice = Dice(world.rng(2))
    for n in range(4):
        u, start, tempo = dice.many(), dice.uniform(0, 2 * pi), dice.uniform(0.1, 0.25)
        if dice.random() < 0.75 * street.traffic:
            gap = 17.0 + 26.0 * n + 8.0 * sin(start + tempo * seconds)
            z = camera_z + gap
            things.append(Thing("car", street.drive * street.lane / 2, z, u, phase=z / 0.33))
    return things


def _stream(
    world: World,
    number: int,
    kind: str,
    x: float,
    heading: float,
    speed: float,
    spacing: float,
    chance: float,
    camera_z: float,
    seconds: float,
    reach: float,
) -> list[Thing]:
    """A row of slots ``spacing`` metres apart that slides at ``speed`` m/s, each taken with probability ``chance``."""
    shift = speed * seconds
    things = []
    first, last = floor((camera_z - shift) / spacing), floor((camera_z + reach - shift) / spacing)
    for block in range(first // BLOCK, last // BLOCK + 1):  # a generator for each slot would cost more than the drawing
        rows = world.rng(number, block).random((BLOCK, 12)).tolist()
        for slot in range(max(first, block * BLOCK), min(last, block * BLOCK + BLOCK - 1) + 1):
            u = rows[slot - block * BLOCK]
            if u[11] >= chance:
                continue
            z = (slot + 0.6 * u[10]) * spacing + shift
            spread = 0.15 if kind == "car" else 0.3
            phase = 2 * pi * u[9] + seconds * (abs(speed) / 0.22 if kind == "person" else abs(speed) / 0.55)
            height = (1.05 if u[8] < 0.08 else 1.5) + 0.38 * u[7]
            x_here = x + spread * (2 * u[6] - 1)
            things.append(Thing(kind, x_here, z, (*u[:9], *u[:3]), height=height, heading=heading, phase=phase))
    return things
