"""Procedural streets with CamVid's classes, as a data set and as an endless video: no files, no download, no torch.

A street is a seeded plan (layout, traffic) seen under a seeded light (lighting) and painted back to front (canvas,
ground, objects, cars, people) with textures that are made once per process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import pi, sin

import cv2
import numpy as np

from rdd_deploy.data.base import Frame, Labels, Split
from rdd_deploy.data.camvid import CAMVID
from rdd_deploy.data.streets.canvas import NEAR, VOID, Canvas, View
from rdd_deploy.data.streets.cars import car
from rdd_deploy.data.streets.ground import cast_shadow, paint_ground, paint_sky, paint_skyline
from rdd_deploy.data.streets.layout import FAR, SceneObject, World
from rdd_deploy.data.streets.lighting import Lighting, draw_lighting, sense
from rdd_deploy.data.streets.objects import bollard, building, clutter, fence, hedge, lamp, light, sign, tree
from rdd_deploy.data.streets.people import bike, cyclist, person
from rdd_deploy.data.streets.traffic import moving
from rdd_deploy.errors import DataError

_PAINTERS: dict[str, tuple[Callable[[Canvas, SceneObject], None], float]] = {
    "building": (building, FAR),
    "tree": (tree, 130.0),
    "fence": (fence, 110.0),
    "hedge": (hedge, 110.0),
    "lamp": (lamp, 90.0),
    "bollard": (bollard, 40.0),
    "sign": (sign, 65.0),
    "light": (light, 90.0),
    "clutter": (clutter, 60.0),
    "car": (car, 130.0),
    "person": (person, 70.0),
    "cyclist": (cyclist, 70.0),
    "bike": (bike, 40.0),
}
_COUNTS = {"train": 400, "val": 80, "test": 80}


def open_streets(split: str, *, height: int = 240, width: int = 320, count: int | None = None, seed: int = 0) -> Split:
    """Open one split of the procedural streets; no two splits or seeds share a scene.

    Args:
        split: ``train`` (400 scenes unless ``count`` says otherwise), ``val`` (80) or ``test`` (80).
        height, width: of the frames in pixels, at least 32.
        count: number of scenes.
        seed: another seed is another data set.

    Raises:
        DataError: unknown split, size below 32 or negative numbers.
    """
    if split not in _COUNTS:
        raise DataError(f"got the split '{split}' of streets, expected one of {', '.join(_COUNTS)}; pick one of these")
    if count is not None and count < 1:
        raise DataError(
            f"got count={count} for streets, expected at least 1; leave it out for the default ({_COUNTS[split]})"
        )
    _check(height, width, seed)
    return StreetSplit(split, height, width, _COUNTS[split] if count is None else count, seed)


class StreetSplit(Split):
    """Still frames of streets, each from a world of its own. The last render is kept: frame(i) and
    labels(i) cost one.
    """

    label_space = CAMVID

    def __init__(self, split: str, height: int, width: int, count: int, seed: int) -> None:
        self.names = [f"{split}_{i:05d}" for i in range(count)]
        self._size, self._entropy = (height, width), (seed, list(_COUNTS).index(split))
        self._last: tuple[int, Frame, Labels] | None = None

    def frame(self, index: int) -> Frame:
        return np.array(self._render(index)[0])

    def labels(self, index: int) -> Labels:
        return np.array(self._render(index)[1])

    def _render(self, index: int) -> tuple[Frame, Labels]:
        if not 0 <= index < len(self):
            raise IndexError(f"got index {index} of {len(self)} streets")
        last = self._last
        if last is None or last[0] != index:
            bgr, labels = _still((*self._entropy, index), *self._size)
            last = self._last = (index, np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8), labels)
        return last[1], last[2]


class StreetVideo:
    """An endless drive down a street. Iterating gives (frame BGR uint8 (H, W, 3), labels uint8 (H, W)).

    Args:
        height, width: in pixels.
        seed: the street, its light and its traffic.
        fps: frames per second of the world's time; rendering itself is as fast as it is asked for.
    """

    label_space = CAMVID

    def __init__(self, height: int = 480, width: int = 640, seed: int = 0, fps: float = 30.0) -> None:
        _check(height, width, seed)
        if not fps > 0:
            raise DataError(f"got fps={fps} for the street video, expected more than 0; 30 is the default")
        self.height, self.width, self.fps = height, width, fps
        self._world = World((seed, len(_COUNTS)))
        self._lighting = draw_lighting(self._world.rng(5))

    def __iter__(self) -> Iterator[tuple[Frame, Labels]]:
        t = 0
        while True:
            yield self.render(t)
            t += 1

    def render(self, t: int) -> tuple[Frame, Labels]:
        """Frame number t and its labels; any order gives the same."""
        world, seconds = self._world, t / self.fps
        street = world.street
        x = street.drive * street.lane / 2 + 0.25 * sin(0.31 * seconds)
        z = 8.0 * seconds + 6.0 * sin(0.2 * seconds)  # 6.8 to 9.2 m/s
        horizon = 0.46 + 0.004 * sin(2.3 * seconds) + 0.003 * sin(5.1 * seconds)
        view = _view(world, self.height, self.width, 0.95, 0.5 + 0.02 * sin(0.23 * seconds), horizon, x, 1.45, z)
        return _paint(view, self._lighting, seconds, world.rng(6, t))


def _check(height: int, width: int, seed: int) -> None:
    if min(height, width) < 32:
        raise DataError(f"got streets of {height}x{width} pixels, expected at least 32x32; ask for a larger size")
    if seed < 0:
        raise DataError(f"got seed={seed} for streets, expected 0 or more; pick another seed")


def _still(entropy: tuple[int, ...], height: int, width: int) -> tuple[Frame, Labels]:
    """One scene: a world, a moment in it and a camera somewhere on its own side of the road."""
    world = World(entropy)
    rng = world.rng(7)
    street = world.street
    x = street.drive * street.lane / 2 + rng.normal(0, 0.4)
    focal, centre, horizon = rng.uniform(0.8, 1.15), 0.5 + rng.normal(0, 0.06), rng.uniform(0.42, 0.6)
    z, seconds = rng.uniform(0, 5000), rng.uniform(0, 600)
    view = _view(world, height, width, focal, centre, horizon, x, rng.uniform(1.25, 1.9), z)
    return _paint(view, draw_lighting(world.rng(5)), seconds, world.rng(6))


def _view(
    world: World, height: int, width: int, focal: float, centre: float, horizon: float, x: float, y: float, z: float
) -> View:
    """focal, centre and horizon as shares of the frame's size."""
    size = 1.15 * (height * width) ** 0.5
    return View(height, width, focal * size, centre * width, horizon * height, x, y, z, world)


def _paint(view: View, lighting: Lighting, seconds: float, rng: np.random.Generator) -> tuple[Frame, Labels]:
    """Sky, skyline, shadows, ground, then all objects from far to near, the bonnet, and the sensor."""
    world, canvas = view.world, Canvas(view, lighting)
    paint_sky(canvas, world.rng(8), seconds)
    paint_skyline(canvas, world.rng(9))
    cells = world.cells(view.z)
    things = [thing for cell in cells for thing in cell.objects] + moving(world, view.z, seconds)
    things = sorted((thing for thing in things if _in_sight(thing, view)), key=lambda thing: -(thing.z + thing.length))
    for thing in things:
        cast_shadow(canvas, thing)
    paint_ground(canvas, cells, world.rng(10))
    for thing in things:
        _PAINTERS[thing.kind][0](canvas, thing)
    if lighting.bonnet:
        _bonnet(canvas, world.rng(11))
    frame = sense(cv2.cvtColor(canvas.image, cv2.COLOR_BGRA2BGR), lighting, rng)
    return frame, np.ascontiguousarray(canvas.image[..., 3])


def _in_sight(thing: SceneObject, view: View) -> bool:
    """Whether a thing is worth the painters' time: not too far for its kind, not behind the camera, not beside the
    frame.
    """
    near = thing.z - view.z
    # In a small frame far things are but a pixel or two.
    reach = _PAINTERS[thing.kind][1] * min(1.0, 0.5 + view.focal / 1200)
    if near > (FAR if thing.kind == "building" else reach):
        return False
    if thing.length:
        return near + thing.length > NEAR + 0.6
    x = thing.x + view.shift(near)
    if thing.kind == "car" and abs(x) > 1.8:
        # It passes by, its far end in sight for longer than its near end; what is nearer than NEAR must be beside the
        # frame, for it cannot be projected truly.
        beside = (abs(x) - 1.0) * view.focal / NEAR > view.width / 2 + abs(view.centre - view.width / 2)
        return near > NEAR or (near > -3.0 and beside)
    if near < (4.5 if thing.kind == "car" else NEAR + 0.6):
        return False
    aside = abs(view.centre + x * view.focal / near - view.width / 2)
    return aside < view.width / 2 + (6.0 + 0.5 * thing.height) * view.focal / near  # wide enough for its shadow, too


def _bonnet(canvas: Canvas, rng: np.random.Generator) -> None:
    """The camera car's own bonnet along the bottom, unlabelled as in CamVid."""
    view, value, angle = canvas.view, rng.uniform(20, 200), np.linspace(pi, 2 * pi, 24)
    rise = canvas.lighting.bonnet * view.height
    points = np.stack((view.width * (0.5 + 0.7 * np.cos(angle)), view.height + rise * np.sin(angle)), 1)
    canvas.polygon(points, canvas.shade((value, value, value), canvas.lighting.light(0, 0.9, -0.3), 0), VOID)
