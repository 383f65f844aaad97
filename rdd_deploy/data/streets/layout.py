"""Where things stand in a procedural street. No pixels here.

The world is endless along the road (z, metres) and cut into cells of CELL metres, each laid out from its own seed, so
that any stretch can be built in any order.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from math import cos, floor, pi, sin
from typing import Any

import numpy as np

Patch = tuple[float, float, float, float, float]
CELL = 28.0
FAR = 140.0
"""Nothing is drawn beyond this many metres but the skyline."""


class RandomPool:
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
        """The 12 numbers of a SceneObject."""
        if len(self._pool) < 12:
            self._pool = self._rng.random(256).tolist()
        drawn = tuple(self._pool[-12:])
        del self._pool[-12:]
        return drawn


@dataclass(frozen=True)
class SceneObject:
    """One object of the scene.

    Attributes:
        kind: a key of ``dataset._PAINTERS``.
        x: metres right of the road's middle.
        z: metres along the road, of the nearest end of long things.
        u: 12 numbers in [0, 1), the source of colours and shapes.
        length, width, height: metres.
        heading: radians, 0 is along the road away from the camera.
        phase: of the walk or of the pedals, radians.
        variant: what the painter of this kind says.
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
class Street:
    """The road's plan, in metres. Index 0 is the left side, 1 the right; ``kerb`` and ``front`` are distances from the
    middle.
    """

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

    def cells(self, camera_z: float) -> list[Cell]:
        """The cells in sight, near to far."""
        first, last = floor(camera_z / CELL), floor((camera_z + FAR) / CELL)
        seen = range(first, last + 1)
        self._cells = {k: self._cells.get(k) or Cell(self.street, k, RandomPool(self.rng(1, k))) for k in seen}
        return list(self._cells.values())


class Cell:
    """One stretch of the street, laid out: a crossing every fifth, else lots, furniture and parked cars on both sides.

    Attributes:
        start: its z in metres.
        objects: what stands here.
        crossing: the z range of a crossing road, None without.
        grass: per side, whether the ground behind the pavement is grass.
        patches: (N, 5) rectangles on the road: left, right, near, far (metres, z of the world) and a tone: a factor on
            the road's own colour, or PAINT.
    """

    PAINT = 2.0

    def __init__(self, street: Street, k: int, pool: RandomPool) -> None:
        self.start = k * CELL
        self.objects: list[SceneObject] = []
        self.crossing: tuple[float, float] | None = None
        self.grass = [False, False]
        self._street, self._k, self._pool = street, k, pool
        if k % 5 == 3:
            self.crossing = (self.start + 9.0, self.start + 9.0 + pool.uniform(6, 9))
            self._cross(*self.crossing)
            zebra = self.crossing[0] - 3.5 if pool.random() < 0.7 else None
        else:
            for side in (0, 1):
                self.grass[side] = self._lot(side)
                self._furniture(side)
                if street.parking[side]:
                    self._park(side)
            zebra = self.start + 12.0 if pool.random() < 0.15 else None
        self.patches = np.array([*self._repairs(), *(() if self.crossing else self._lines()), *self._zebra(zebra)])

    def _put(self, kind: str, x: float, z: float, **more: Any) -> None:
        self.objects.append(SceneObject(kind, x, z, self._pool.many(), **more))

    def _building(self, x: float, z: float, length: float, height: float, gable: bool = True) -> None:
        self._put("building", x, z, length=length, width=self._pool.uniform(7, 12), height=height, variant=int(gable))

    def _repairs(self) -> list[Patch]:
        (left, right), pool, patches = (-self._street.kerb[0], self._street.kerb[1]), self._pool, []
        for _ in range(pool.integers(2, 5)):
            x, z = pool.uniform(left, right - 1.2), self.start + pool.uniform(0, CELL)
            patches.append(
                (x, min(x + pool.uniform(0.5, 2.2), right), z, z + pool.uniform(0.6, 6), pool.uniform(0.72, 1.18))
            )
        return patches

    def _lines(self) -> list[Patch]:
        street, z0 = self._street, self.start
        dividers = [street.lane * n for n in range(1 - street.lanes, street.lanes)]
        edges = [
            sign * (street.kerb[side] - (2.1 if street.parking[side] else 0.35)) for side, sign in ((0, -1), (1, 1))
        ]
        dashes = [(x - 0.07, x + 0.07, z0 + 7 * n, z0 + 7 * n + 3.5, self.PAINT) for x in dividers for n in range(4)]
        return dashes + [(x - 0.06, x + 0.06, z0, z0 + CELL, self.PAINT) for x in edges]

    def _zebra(self, z: float | None) -> list[Patch]:
        street = self._street
        if z is None:
            return []
        stripes = np.arange(0.4 - street.kerb[0], street.kerb[1] - 0.5, 1.1).tolist()
        own = sorted((0.1 * street.drive, street.drive * street.kerb[street.drive > 0]))
        return [(x, x + 0.55, z, z + 2.6, self.PAINT) for x in stripes] + [
            (own[0], own[1], z - 1.6, z - 1.2, self.PAINT)
        ]

    def _lot(self, side: int) -> bool:
        """What lies behind one pavement: a row of houses, a house in its garden, or a park. Whether the ground there is
        grass.
        """
        street, pool, z0 = self._street, self._pool, self.start
        sign, front, style = (-1, 1)[side], street.front[side], pool.random()
        if style < 0.35 + 0.45 * street.urban:
            self._row(sign, front)
            return False
        park = style > 0.93 - 0.1 * street.leafy
        if not park:
            length = pool.uniform(10, 18)
            self._building(
                sign * (front + pool.uniform(2.5, 7)),
                z0 + pool.uniform(2, CELL - length - 1),
                length,
                pool.uniform(3.2, 8.5),
            )
        for _ in range(5 if park else 2):
            if pool.random() < 0.75:
                offset = pool.uniform(2, 14) if park else pool.uniform(1.2, 3.0)
                self._put("tree", sign * (front + offset), z0 + pool.uniform(0, CELL), height=pool.uniform(5, 12))
        kind = pool.random()
        if kind < 0.72:
            self._fence(sign * (front + 0.2), z0, 4, pool.uniform(0.8, 1.9), pool.integers(0, 6))
        elif kind < 0.9:
            self._put("hedge", sign * (front + 0.4), z0, length=CELL, height=pool.uniform(0.9, 2.4))
        return pool.random() < 0.8

    def _row(self, sign: int, front: float) -> None:
        """Two or three fronts without a gap."""
        pool, before = self._pool, 0.0
        cuts = [0.0, *sorted(pool.uniform(0.25, 0.75) for _ in range(pool.integers(1, 3))), 1.0]
        for start, end in pairwise(CELL * cut for cut in cuts):
            if end - start > 3:
                height = pool.uniform(6, 14) if pool.random() < 0.85 else pool.uniform(14, 22)
                gable = height > before - 2  # it shows only above the roof of the house before it
                self._building(sign * (front + pool.uniform(0, 0.6)), self.start + start, end - start, height, gable)
                before = height

    def _fence(self, x: float, z: float, pieces: int, height: float, variant: int) -> None:
        u = self._pool.many()
        for i in range(pieces):
            self.objects.append(SceneObject("fence", x, z + 7.0 * i, u, length=7.0, height=height, variant=variant))

    def _furniture(self, side: int) -> None:
        """Lamps, trees, signs, bollards and litter bins along the kerb, and people who stand about."""
        street, pool, z0 = self._street, self._pool, self.start
        sign, kerb, front = (-1, 1)[side], street.kerb[side], street.front[side]
        if self._k % 2 == side or pool.random() < 0.35:
            bare = pool.random() < 0.2
            self._put(
                "lamp", sign * (kerb + 0.5), z0 + 5 + pool.uniform(0, 3), height=pool.uniform(5, 9), variant=int(bare)
            )
        if pool.random() < 0.15 + 0.5 * street.leafy:
            for i in range(2 + self._k % 2):
                z = z0 + 3 + 10 * i + pool.uniform(0, 3)
                self._put("tree", sign * (kerb + 0.9), z, variant=1, height=pool.uniform(4.5, 10))
        for _ in range(2):
            if pool.random() < 0.55:
                self._put(
                    "sign",
                    sign * (kerb + pool.uniform(0.3, 0.8)),
                    z0 + pool.uniform(0, CELL),
                    height=pool.uniform(2.3, 3.2),
                )
        if pool.random() < 0.2:
            start = z0 + pool.uniform(0, 12)
            for i in range(6):
                self._put("bollard", sign * (kerb + 0.35), start + 1.8 * i, height=0.95)
        if pool.random() < 0.7:
            x = sign * pool.uniform(front - 0.9, front - 0.4)
            self._put("clutter", x, z0 + pool.uniform(0, CELL), height=pool.uniform(0.8, 1.9))
        if pool.random() < 0.2:  # a guard rail between pavement and road
            self._fence(sign * (kerb + 0.2), z0 + pool.uniform(0, 8), 2, 1.0, (0, 1, 5)[pool.integers(0, 3)])
        for _ in range(3):
            if pool.random() < 0.25 * street.crowd:
                x, z = sign * pool.uniform(kerb + 0.5, front - 0.4), z0 + pool.uniform(0, CELL)
                self._put("person", x, z, height=pool.uniform(1.5, 1.9), heading=pool.uniform(-pi, pi), phase=pi / 2)
        if pool.random() < 0.12:
            self._put(
                "bike", sign * (kerb + 0.8), z0 + pool.uniform(2, CELL), height=1.0, heading=pool.uniform(-0.3, 0.3)
            )

    def _park(self, side: int) -> None:
        street, pool, sign = self._street, self._pool, (-1, 1)[side]
        heading = 0.0 if sign == street.drive else pi
        for i in range(4):
            if pool.random() < 0.2 + 0.28 * street.traffic:
                z = self.start + 7.0 * i + pool.uniform(1.8, 2.4)
                self._put(
                    "car", sign * (street.kerb[side] - 1.05), z, heading=heading + pool.uniform(-0.04, 0.04), variant=1
                )

    def _cross(self, near: float, far: float) -> None:
        """Traffic lights, signs, a waiting car and the corner houses across a side road."""
        street, pool = self._street, self._pool
        lights = pool.random() < 0.6
        for side in (0, 1):
            sign, kerb, front = (-1, 1)[side], street.kerb[side], street.front[side]
            for z in (near - 1.0, far + 1.0) if lights else (near - 1.0,):
                self._put("light" if lights else "sign", sign * (kerb + 0.5), z, height=pool.uniform(2.6, 3.4))
            if pool.random() < 0.6:
                z = (near + far) / 2 + sign * street.drive * 1.6
                self._put("car", sign * (kerb + pool.uniform(4.5, 14)), z, heading=-sign * pi / 2)
            for z, length in ((near - 9, 7.0), (far + 2.0, near + 17 - far)):
                if pool.random() < 0.5 + 0.4 * street.urban:
                    self._building(sign * (front + pool.uniform(0.0, 1.0)), z, length, pool.uniform(5, 14))
                else:
                    self._put("tree", sign * (front + 2), z + 2, height=pool.uniform(5, 10))
            self._building(sign * (front + 22), far + 1.0, 9.0, pool.uniform(5, 10))
