"""Where things stand and how they move in a procedural street. No pixels here.

The world is endless along the road (z, metres) and cut into cells of CELL metres, each laid out from its own seed, so that any
stretch can be built in any order. Whatever moves belongs to a stream: a row of slots that slides along the road.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, floor, pi, sin

import numpy as np

CELL = 28.0
FAR = 170.0
"""Nothing is drawn beyond this many metres but the skyline."""


@dataclass(frozen=True)
class Thing:
    """One object. x: metres right of the road's middle; z: metres along the road (the nearest end of long things).

    heading: radians, 0 is along the road away from the camera. u: 12 numbers in [0, 1), the source of colours and shapes.
    phase: of the walk or of the wheels, radians. variant: what the painter of this kind says.
    """

    kind: str
    x: float
    z: float
    u: tuple[float, ...]
    length: float = 0.0
    width: float = 0.0
    height: float = 0.0
    heading: float = 0.0
    phase: float = 0.0
    variant: int = 0


@dataclass(frozen=True)
class Cell:
    """A stretch of the street: its things, the z range of a crossing road (None without), grass per side, zebra z (None without)."""

    things: tuple[Thing, ...]
    crossing: tuple[float, float] | None
    grass: tuple[bool, bool]
    zebra: float | None


@dataclass(frozen=True)
class Street:
    """The road's plan, in metres. Index 0 is the left side, 1 the right; ``kerb`` and ``front`` are distances from the middle."""

    drive: int  # +1: traffic keeps to the right
    lane: float
    lanes: int
    parking: tuple[bool, bool]
    kerb: tuple[float, float]
    front: tuple[float, float]
    bend: float
    bend_length: float
    urban: float
    crowd: float
    traffic: float
    leafy: float


def draw_street(rng: np.random.Generator) -> Street:
    lane, lanes = rng.uniform(2.9, 3.6), 2 if rng.random() < 0.2 else 1
    parking = (bool(rng.random() < 0.55), bool(rng.random() < 0.55))
    kerb = (lane * lanes + 2.1 * parking[0], lane * lanes + 2.1 * parking[1])
    return Street(
        drive=1 if rng.random() < 0.6 else -1,
        lane=lane,
        lanes=lanes,
        parking=parking,
        kerb=kerb,
        front=(kerb[0] + rng.uniform(2.0, 5.0), kerb[1] + rng.uniform(2.0, 5.0)),
        bend=rng.normal(0, 9),
        bend_length=rng.uniform(45, 90),
        urban=rng.random(),
        crowd=rng.uniform(0.4, 1.0),
        traffic=rng.uniform(0.3, 1.0),
        leafy=rng.random(),
    )


class World:
    """An endless street. Everything in it follows from ``entropy`` and the time asked for."""

    def __init__(self, entropy: tuple[int, ...]) -> None:
        self.entropy = entropy
        self.street = draw_street(self.rng(0))
        self._cells: dict[int, Cell] = {}

    def rng(self, *key: int) -> np.random.Generator:
        """The generator of one part of this world; keys may be negative."""
        return np.random.default_rng(np.random.SeedSequence([*self.entropy, *(k + 2**31 for k in key)]))

    def middle(self, z: float) -> float:
        """Where the road's middle lies across, in metres, at z."""
        return self.street.bend * sin(z / self.street.bend_length)

    def slope(self, z: float) -> float:
        return self.street.bend / self.street.bend_length * cos(z / self.street.bend_length)

    def cells(self, camera_z: float) -> list[tuple[int, Cell]]:
        """The cells in sight, near to far."""
        first, last = floor(camera_z / CELL), floor((camera_z + FAR) / CELL)
        for gone in [k for k in self._cells if not first - 2 <= k <= last + 2]:
            del self._cells[gone]
        for k in range(first, last + 1):
            if k not in self._cells:
                self._cells[k] = lay_out(self.street, k, self.rng(1, k))
        return [(k, self._cells[k]) for k in range(first, last + 1)]

    def things(self, camera_z: float, seconds: float) -> list[Thing]:
        """All things in sight at this time, standing and moving, in no order."""
        standing = [thing for _, cell in self.cells(camera_z) for thing in cell.things]
        return standing + moving(self, camera_z, seconds)


def _u(rng: np.random.Generator) -> tuple[float, ...]:
    return tuple(rng.random(12).tolist())


def _has_crossing(k: int) -> bool:
    return k % 5 == 3


def lay_out(street: Street, k: int, rng: np.random.Generator) -> Cell:
    """Cell number k: a crossing every fifth, else lots, furniture and parked cars on both sides."""
    z0 = k * CELL
    things: list[Thing] = []
    if _has_crossing(k):
        crossing = (z0 + 9.0, z0 + 9.0 + rng.uniform(6, 9))
        _crossing(street, crossing, rng, things)
        return Cell(tuple(things), crossing, (False, False), crossing[0] - 3.5 if rng.random() < 0.7 else None)
    grass = []
    for side in (0, 1):
        grass.append(_lot(street, z0, side, rng, things))
        _furniture(street, z0, side, rng, things)
        if street.parking[side]:
            _parked(street, z0, side, rng, things)
    return Cell(tuple(things), None, (grass[0], grass[1]), z0 + 12.0 if rng.random() < 0.15 else None)


def _lot(street: Street, z0: float, side: int, rng: np.random.Generator, things: list[Thing]) -> bool:
    """What lies behind one pavement; returns whether the ground there is grass."""
    sign, front = (-1, 1)[side], street.front[side]
    style = rng.random()
    if style < 0.35 + 0.45 * street.urban:
        _row(sign, front, z0, rng, things)
        return False
    park = style > 0.93 - 0.1 * street.leafy
    if not park:
        length, setback = rng.uniform(10, 18), rng.uniform(2.5, 7)
        start = z0 + rng.uniform(2, CELL - length - 1)
        things.append(_building(rng, sign * (front + setback), start, length, rng.uniform(3.2, 8.5), gable=True))
    for _ in range(5 if park else 2):
        offset = rng.uniform(2, 14) if park else rng.uniform(1.2, 3.0)
        if rng.random() < 0.75:
            things.append(Thing("tree", sign * (front + offset), z0 + rng.uniform(0, CELL), _u(rng), height=rng.uniform(5, 12)))
    kind = rng.random()
    if kind < 0.72:
        height, variant = rng.uniform(0.8, 1.9), int(rng.integers(0, 6))
        u = _u(rng)
        things.extend(Thing("fence", sign * (front + 0.2), z0 + i * 7.0, u, length=7.0, height=height, variant=variant) for i in range(4))
    elif kind < 0.9:
        things.append(Thing("hedge", sign * (front + 0.4), z0, _u(rng), length=CELL, height=rng.uniform(0.9, 2.4)))
    return bool(rng.random() < 0.8)


def _building(rng: np.random.Generator, x: float, z: float, length: float, height: float, gable: bool) -> Thing:
    return Thing("building", x, z, _u(rng), length=length, width=rng.uniform(7, 12), height=height, variant=int(gable))


def _row(sign: int, front: float, z0: float, rng: np.random.Generator, things: list[Thing]) -> None:
    """Two or three fronts without a gap."""
    cuts = np.array([0.0, *np.sort(rng.uniform(0.25, 0.75, int(rng.integers(1, 3)))), 1.0]) * CELL
    for start, end in zip(cuts[:-1], cuts[1:], strict=True):
        if end - start > 3:
            height = rng.uniform(6, 14) if rng.random() < 0.85 else rng.uniform(14, 22)
            things.append(_building(rng, sign * (front + rng.uniform(0, 0.6)), z0 + start, end - start, height, gable=True))


def _furniture(street: Street, z0: float, side: int, rng: np.random.Generator, things: list[Thing]) -> None:
    """Lamps, trees, signs, bollards and litter bins along the kerb, and people who stand about."""
    sign, kerb, front = (-1, 1)[side], street.kerb[side], street.front[side]
    if (k := round(z0 / CELL)) % 2 == side or rng.random() < 0.35:
        variant = int(rng.integers(0, 3)) if rng.random() < 0.3 else 0
        things.append(Thing("lamp", sign * (kerb + 0.5), z0 + 5 + rng.uniform(0, 3), _u(rng), height=rng.uniform(5, 9), variant=variant))
    if rng.random() < 0.15 + 0.5 * street.leafy:
        for i in range(2 + k % 2):
            things.append(Thing("tree", sign * (kerb + 0.9), z0 + 3 + 10 * i + rng.uniform(0, 3), _u(rng), height=rng.uniform(4.5, 10)))
    for _ in range(2):
        if rng.random() < 0.55:
            u, height = _u(rng), rng.uniform(2.3, 3.2)
            things.append(Thing("sign", sign * (kerb + rng.uniform(0.3, 0.8)), z0 + rng.uniform(0, CELL), u, height=height))
    if rng.random() < 0.2:
        start = z0 + rng.uniform(0, 12)
        things.extend(Thing("bollard", sign * (kerb + 0.35), start + 1.8 * i, _u(rng), height=0.95) for i in range(6))
    if rng.random() < 0.7:
        u, z = _u(rng), z0 + rng.uniform(0, CELL)
        things.append(Thing("clutter", sign * rng.uniform(front - 0.9, front - 0.4), z, u, height=rng.uniform(0.8, 1.9)))
    for _ in range(3):
        if rng.random() < 0.25 * street.crowd:
            x, z = sign * rng.uniform(kerb + 0.5, front - 0.4), z0 + rng.uniform(0, CELL)
            things.append(Thing("person", x, z, _u(rng), height=rng.uniform(1.5, 1.9), heading=rng.uniform(-pi, pi), phase=pi / 2))
    if rng.random() < 0.12:
        z = z0 + rng.uniform(2, CELL)
        things.append(Thing("bike", sign * (kerb + 0.8), z, _u(rng), height=1.0, heading=rng.uniform(-0.3, 0.3)))


def _parked(street: Street, z0: float, side: int, rng: np.random.Generator, things: list[Thing]) -> None:
    sign = (-1, 1)[side]
    heading = 0.0 if sign == street.drive else pi
    for i in range(4):
        if rng.random() < 0.3 + 0.35 * street.traffic:
            z = z0 + 7.0 * i + rng.uniform(1.8, 2.4)
            things.append(Thing("car", sign * (street.kerb[side] - 1.05), z, _u(rng), heading=heading + rng.normal(0, 0.02), variant=1))


def _crossing(street: Street, crossing: tuple[float, float], rng: np.random.Generator, things: list[Thing]) -> None:
    """Traffic lights, signs, a waiting car and the corner houses across a side road."""
    near, far = crossing
    lights = rng.random() < 0.6
    for side in (0, 1):
        sign, kerb, front = (-1, 1)[side], street.kerb[side], street.front[side]
        if lights:
            u = _u(rng)
            things.append(Thing("light", sign * (kerb + 0.5), near - 1.0, u, height=rng.uniform(2.9, 3.6)))
            things.append(Thing("light", sign * (kerb + 0.5), far + 1.0, u, height=rng.uniform(2.9, 3.6)))
        else:
            things.append(Thing("sign", sign * (kerb + 0.5), near - 1.0, _u(rng), height=rng.uniform(2.3, 3.0)))
        if rng.random() < 0.6:
            heading = -pi / 2 if sign > 0 else pi / 2
            z = (near + far) / 2 + sign * street.drive * 1.6
            things.append(Thing("car", sign * (kerb + rng.uniform(4.5, 14)), z, _u(rng), heading=heading))
        for z, length in ((near - 9, 7.0), (far + 2.0, near + 19 - far - 2.0)):
            x = sign * (front + rng.uniform(0.0, 1.0))
            if rng.random() < 0.5 + 0.4 * street.urban:
                things.append(_building(rng, x, z, length, rng.uniform(5, 14), gable=True))
            else:
                things.append(Thing("tree", sign * (front + 2), z + 2, _u(rng), height=rng.uniform(5, 10)))
        x = sign * (front + 16)
        things.append(_building(rng, x + sign * 6, far + 1.0, 9.0, rng.uniform(5, 10), gable=True))


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
            things += _stream(world, 30 + 2 * side + n, "person", x, heading, walk, 8.0, chance, camera_z, seconds, 80)
    return things


def _leaders(world: World, camera_z: float, seconds: float) -> list[Thing]:
    """Traffic in the camera's own lane: it draws near and away again but never within reach of the bonnet."""
    street = world.street
    things = []
    for n in range(4):
        rng = world.rng(2, n)
        u, start, tempo = _u(rng), rng.uniform(0, 2 * pi), rng.uniform(0.1, 0.25)
        if rng.random() < 0.75 * street.traffic:
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
    for slot in range(floor((camera_z - shift) / spacing), floor((camera_z + reach - shift) / spacing) + 1):
        rng = world.rng(number, slot)
        u = _u(rng)
        if u[11] >= chance:
            continue
        z = (slot + 0.6 * u[10]) * spacing + shift
        spread = 0.15 if kind == "car" else 0.3
        phase = 2 * pi * u[9] + seconds * (abs(speed) / 0.22 if kind == "person" else abs(speed) / 0.55)
        height = (1.05 if u[8] < 0.08 else 1.5) + 0.38 * u[7]
        things.append(Thing(kind, x + spread * (2 * u[6] - 1), z, u[:9] + u[:3], height=height, heading=heading, phase=phase))
    return things
