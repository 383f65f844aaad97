"""Where things stand in a procedural street. No pixels here.

The world is endless along the road (z, metres) and cut into cells of CELL metres, each laid out from its own seed, so that any
stretch can be built in any order.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from math import cos, floor, pi, sin

import numpy as np
from numpy.typing import NDArray

CELL = 28.0
FAR = 140.0
"""Nothing is drawn beyond this many metres but the skyline."""


class Dice:
    """Uniform numbers drawn from a Generator in bulk: one at a time they would cost more than what they decide."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._pool: list[float] = []

    def random(self) -> float:
        if not self._pool:
            self._pool = self._rng.random(256).tolist()
        return self._pool.pop()

    def uniform(self, low: float, high: float) -> float:
        return low + (high - low) * self.random()

    def integers(self, low: int, high: int) -> int:
        """low to high - 1."""
        return low + int((high - low) * self.random())

    def many(self) -> tuple[float, ...]:
        """The 12 numbers of a Thing."""
        if len(self._pool) < 12:
            self._pool = self._rng.random(256).tolist()
        drawn = tuple(self._pool[-12:])
        del self._pool[-12:]
        return drawn


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
    """A stretch of the street: its things, the z range of a crossing road (None without), grass per side, what is on the road.

    patches are rectangles on the road: left, right, near, far (metres, z of the world) and a tone: below 2 a factor on the road's
    own colour, 2 for paint, 3 for a puddle. cracks are polylines (N, 2) of x and z.
    """

    things: tuple[Thing, ...]
    crossing: tuple[float, float] | None
    grass: tuple[bool, bool]
    patches: NDArray[np.float64]
    cracks: tuple[NDArray[np.float64], ...]


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
        front=(kerb[0] + rng.uniform(2.2, 5.5), kerb[1] + rng.uniform(2.2, 5.5)),
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
                self._cells[k] = lay_out(self.street, k, Dice(self.rng(1, k)))
        return [(k, self._cells[k]) for k in range(first, last + 1)]

    def standing(self, camera_z: float) -> list[Thing]:
        """The things in sight that do not move, in no order."""
        return [thing for _, cell in self.cells(camera_z) for thing in cell.things]


def _has_crossing(k: int) -> bool:
    return k % 5 == 3


def lay_out(street: Street, k: int, dice: Dice) -> Cell:
    """Cell number k: a crossing every fifth, else lots, furniture and parked cars on both sides."""
    z0 = k * CELL
    things: list[Thing] = []
    if _has_crossing(k):
        crossing = (z0 + 9.0, z0 + 9.0 + dice.uniform(6, 9))
        _crossing(street, crossing, dice, things)
        zebra = crossing[0] - 3.5 if dice.random() < 0.7 else None
        return Cell(tuple(things), crossing, (False, False), *_marks(street, z0, dice, zebra, lines=False))
    grass = []
    for side in (0, 1):
        grass.append(_lot(street, z0, side, dice, things))
        _furniture(street, z0, side, dice, things)
        if street.parking[side]:
            _parked(street, z0, side, dice, things)
    zebra = z0 + 12.0 if dice.random() < 0.15 else None
    return Cell(tuple(things), None, (grass[0], grass[1]), *_marks(street, z0, dice, zebra, lines=True))


def _marks(
    street: Street, z0: float, dice: Dice, zebra: float | None, lines: bool
) -> tuple[NDArray[np.float64], tuple[NDArray[np.float64], ...]]:
    """Repairs, puddles, paint and cracks of one cell's road."""
    left, right = -street.kerb[0], street.kerb[1]
    patches = []
    for n in range(dice.integers(2, 7)):
        x, z = dice.uniform(left, right - 1.2), z0 + dice.uniform(0, CELL)
        tone = 3.0 if n % 2 else dice.uniform(0.72, 1.18)
        patches.append((x, min(x + dice.uniform(0.5, 2.2), right), z, z + dice.uniform(0.6, 6), tone))
    if lines:
        dividers = [street.lane * n for n in range(1 - street.lanes, street.lanes)]
        patches += [(x - 0.07, x + 0.07, z0 + 7 * n, z0 + 7 * n + 3.5, 2.0) for x in dividers for n in range(4)]
        for side, sign in ((0, -1), (1, 1)):
            x = sign * (street.kerb[side] - (2.1 if street.parking[side] else 0.35))
            patches.append((x - 0.06, x + 0.06, z0, z0 + CELL, 2.0))
    if zebra is not None:
        patches += [(x, x + 0.55, zebra, zebra + 2.6, 2.0) for x in np.arange(left + 0.4, right - 0.5, 1.1).tolist()]
        own = sorted((0.1 * street.drive, street.drive * street.kerb[street.drive > 0]))
        patches.append((own[0], own[1], zebra - 1.6, zebra - 1.2, 2.0))
    cracks = []
    for _ in range(3):
        x, z, points = dice.uniform(left + 0.5, right - 0.5), z0 + dice.uniform(0, CELL), []
        for _ in range(6):
            x, z = x + dice.uniform(-0.25, 0.25), z + dice.uniform(0.1, 0.9)
            points.append((min(max(x, left), right), z))
        cracks.append(np.array(points))
    return np.array(patches), tuple(cracks)


def _lot(street: Street, z0: float, side: int, dice: Dice, things: list[Thing]) -> bool:
    """What lies behind one pavement; returns whether the ground there is grass."""
    sign, front = (-1, 1)[side], street.front[side]
    style = dice.random()
    if style < 0.35 + 0.45 * street.urban:
        _row(sign, front, z0, dice, things)
        return False
    park = style > 0.93 - 0.1 * street.leafy
    if not park:
        length, setback = dice.uniform(10, 18), dice.uniform(2.5, 7)
        start = z0 + dice.uniform(2, CELL - length - 1)
        things.append(_building(dice, sign * (front + setback), start, length, dice.uniform(3.2, 8.5), gable=True))
    for _ in range(5 if park else 2):
        offset = dice.uniform(2, 14) if park else dice.uniform(1.2, 3.0)
        if dice.random() < 0.75:
            things.append(Thing("tree", sign * (front + offset), z0 + dice.uniform(0, CELL), dice.many(), height=dice.uniform(5, 12)))
    kind = dice.random()
    if kind < 0.72:
        height, variant = dice.uniform(0.8, 1.9), dice.integers(0, 6)
        u = dice.many()
        things.extend(Thing("fence", sign * (front + 0.2), z0 + i * 7.0, u, length=7.0, height=height, variant=variant) for i in range(4))
    elif kind < 0.9:
        things.append(Thing("hedge", sign * (front + 0.4), z0, dice.many(), length=CELL, height=dice.uniform(0.9, 2.4)))
    return dice.random() < 0.8


def _building(dice: Dice, x: float, z: float, length: float, height: float, gable: bool) -> Thing:
    return Thing("building", x, z, dice.many(), length=length, width=dice.uniform(7, 12), height=height, variant=int(gable))


def _row(sign: int, front: float, z0: float, dice: Dice, things: list[Thing]) -> None:
    """Two or three fronts without a gap."""
    cuts = [0.0, *sorted(dice.uniform(0.25, 0.75) for _ in range(dice.integers(1, 3))), 1.0]
    hidden_below = 0.0  # a gable shows only above the roof of the house before it
    for start, end in pairwise(CELL * cut for cut in cuts):
        if end - start > 3:
            height = dice.uniform(6, 14) if dice.random() < 0.85 else dice.uniform(14, 22)
            x = sign * (front + dice.uniform(0, 0.6))
            things.append(_building(dice, x, z0 + start, end - start, height, gable=height > hidden_below - 2))
            hidden_below = height


def _furniture(street: Street, z0: float, side: int, dice: Dice, things: list[Thing]) -> None:
    """Lamps, trees, signs, bollards and litter bins along the kerb, and people who stand about."""
    sign, kerb, front = (-1, 1)[side], street.kerb[side], street.front[side]
    if (k := round(z0 / CELL)) % 2 == side or dice.random() < 0.35:
        variant = dice.integers(0, 3) if dice.random() < 0.3 else 0
        things.append(
            Thing("lamp", sign * (kerb + 0.5), z0 + 5 + dice.uniform(0, 3), dice.many(), height=dice.uniform(5, 9), variant=variant)
        )
    if dice.random() < 0.15 + 0.5 * street.leafy:
        for i in range(2 + k % 2):
            things.append(
                Thing(
                    "tree", sign * (kerb + 0.9), z0 + 3 + 10 * i + dice.uniform(0, 3), dice.many(), variant=1, height=dice.uniform(4.5, 10)
                )
            )
    for _ in range(2):
        if dice.random() < 0.55:
            u, height = dice.many(), dice.uniform(2.3, 3.2)
            things.append(Thing("sign", sign * (kerb + dice.uniform(0.3, 0.8)), z0 + dice.uniform(0, CELL), u, height=height))
    if dice.random() < 0.2:
        start = z0 + dice.uniform(0, 12)
        things.extend(Thing("bollard", sign * (kerb + 0.35), start + 1.8 * i, dice.many(), height=0.95) for i in range(6))
    if dice.random() < 0.7:
        u, z = dice.many(), z0 + dice.uniform(0, CELL)
        things.append(Thing("clutter", sign * dice.uniform(front - 0.9, front - 0.4), z, u, height=dice.uniform(0.8, 1.9)))
    if dice.random() < 0.2:  # a guard rail between pavement and road
        start, u, kind = z0 + dice.uniform(0, 8), dice.many(), (0, 1, 5)[dice.integers(0, 3)]
        rails = (Thing("fence", sign * (kerb + 0.2), start + 7.0 * i, u, length=7.0, height=1.0, variant=kind) for i in range(2))
        things.extend(rails)
    for _ in range(3):
        if dice.random() < 0.25 * street.crowd:
            x, z = sign * dice.uniform(kerb + 0.5, front - 0.4), z0 + dice.uniform(0, CELL)
            things.append(Thing("person", x, z, dice.many(), height=dice.uniform(1.5, 1.9), heading=dice.uniform(-pi, pi), phase=pi / 2))
    if dice.random() < 0.12:
        z = z0 + dice.uniform(2, CELL)
        things.append(Thing("bike", sign * (kerb + 0.8), z, dice.many(), height=1.0, heading=dice.uniform(-0.3, 0.3)))


def _parked(street: Street, z0: float, side: int, dice: Dice, things: list[Thing]) -> None:
    sign = (-1, 1)[side]
    heading = 0.0 if sign == street.drive else pi
    for i in range(4):
        if dice.random() < 0.2 + 0.28 * street.traffic:
            z = z0 + 7.0 * i + dice.uniform(1.8, 2.4)
            things.append(
                Thing("car", sign * (street.kerb[side] - 1.05), z, dice.many(), heading=heading + dice.uniform(-0.04, 0.04), variant=1)
            )


def _crossing(street: Street, crossing: tuple[float, float], dice: Dice, things: list[Thing]) -> None:
    """Traffic lights, signs, a waiting car and the corner houses across a side road."""
    near, far = crossing
    lights = dice.random() < 0.6
    for side in (0, 1):
        sign, kerb, front = (-1, 1)[side], street.kerb[side], street.front[side]
        if lights:
            u = dice.many()
            things.append(Thing("light", sign * (kerb + 0.5), near - 1.0, u, height=dice.uniform(2.9, 3.6)))
            things.append(Thing("light", sign * (kerb + 0.5), far + 1.0, u, height=dice.uniform(2.9, 3.6)))
        else:
            things.append(Thing("sign", sign * (kerb + 0.5), near - 1.0, dice.many(), height=dice.uniform(2.3, 3.0)))
        if dice.random() < 0.6:
            heading = -pi / 2 if sign > 0 else pi / 2
            z = (near + far) / 2 + sign * street.drive * 1.6
            things.append(Thing("car", sign * (kerb + dice.uniform(4.5, 14)), z, dice.many(), heading=heading))
        for z, length in ((near - 9, 7.0), (far + 2.0, near + 19 - far - 2.0)):
            x = sign * (front + dice.uniform(0.0, 1.0))
            if dice.random() < 0.5 + 0.4 * street.urban:
                things.append(_building(dice, x, z, length, dice.uniform(5, 14), gable=True))
            else:
                things.append(Thing("tree", sign * (front + 2), z + 2, dice.many(), height=dice.uniform(5, 10)))
        x = sign * (front + 16)
        things.append(_building(dice, x + sign * 6, far + 1.0, 9.0, dice.uniform(5, 10), gable=True))
