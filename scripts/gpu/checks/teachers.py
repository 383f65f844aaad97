"""The frames and teachers that the rates are measured with: random ones, of CamVid's sizes."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import DEVICE, SMOKE, WORK

from rdd_deploy.data.base import Split
from rdd_deploy.data.camvid import CAMVID
from rdd_deploy.losses.rdd import RelativeDifficultyLoss
from rdd_deploy.models.config import Network
from rdd_deploy.models.predict import autocast_dtype
from rdd_deploy.models.segmenter import Segmenter
from rdd_deploy.training.compact import Halves
from rdd_deploy.training.fabric import resolve_precision
from rdd_deploy.training.objective import DistillationObjective
from rdd_deploy.training.teacher import LiveTeacher
from rdd_deploy.training.teacher_cache import CachedTeacher
from rdd_deploy.training.teacher_stores import Store

SIZE = (96, 128) if SMOKE else (360, 480)
CROP = (64, 64) if SMOKE else (360, 360)
COUNT = 24 if SMOKE else 367
CLASSES = len(CAMVID)
TEACHER = Network(
    encoder="resnet18" if SMOKE else "resnet101", head="deeplabv3", weights="none", output_stride=8, channels=32 if SMOKE else 256,
    auxiliary=True,
)  # fmt: skip


class Noise(Split):
    """Random frames with blocks of classes, made once: what is measured is moving and cropping them, not what they
    show.
    """

    label_space = CAMVID

    def __init__(self) -> None:
        self.names = [str(i) for i in range(COUNT)]
        rng = np.random.default_rng(0)
        self._frames = [rng.integers(0, 256, (*SIZE, 3), np.uint8) for _ in range(8)]
        self._labels = []
        for _ in range(8):
            blocks = rng.integers(0, CLASSES, (SIZE[0] // 24 + 1, SIZE[1] // 24 + 1))
            labels = np.kron(blocks, np.ones((24, 24)))[: SIZE[0], : SIZE[1]].astype(np.uint8)
            labels[:8] = 255
            self._labels.append(labels)

    def frame(self, index: int) -> np.ndarray:
        return self._frames[index % 8].copy()

    def labels(self, index: int) -> np.ndarray:
        return self._labels[index % 8].copy()


class Teachers:
    """Objectives by the three ways in which a teacher's logits reach a step; each teacher is made when it is first
    asked for.
    """

    def __init__(self) -> None:
        self._made: dict[str, Any] = {}
        self._place = tempfile.TemporaryDirectory(dir=WORK)

    def live(self, method: str = "rdd") -> DistillationObjective:
        """The network itself, run on every crop."""
        return _objective(self._once("live", self._live), method)

    def cached(self) -> DistillationObjective:
        """Memory-mapped files, as distillation reads them; as large as CamVid's at 360x480 with a view of 1.5."""
        return _objective(self._once("cached", self._cached))

    def on_device(self) -> DistillationObjective:
        """The same cache, held in the GPU's memory, as distillation does where it fits."""
        return _objective(self._once("on device", self._on_device))

    def _live(self) -> LiveTeacher:
        segmenter = Segmenter(TEACHER, CLASSES).to(DEVICE, memory_format=torch.channels_last)
        return LiveTeacher(segmenter, autocast_dtype(resolve_precision("auto", DEVICE.type)))

    def _cached(self) -> CachedTeacher:
        place = Path(self._place.name)
        rng = np.random.default_rng(0)
        shape = (COUNT, CLASSES, SIZE[0] // 2, SIZE[1] // 2)
        some = rng.standard_normal((4, *shape[1:]), np.float32).astype(np.float16)
        stores = {}
        for name in ("primary", "auxiliary"):
            file = np.lib.format.open_memmap(place / f"{name}.npy", mode="w+", dtype=np.float16, shape=shape)
            for i in range(COUNT):
                file[i] = some[i % 4]
            file.flush()
            del file
            stores[name] = Store([(place / f"{name}.npy", COUNT)], Halves())
        return CachedTeacher(stores, np.tile(np.array(SIZE), (COUNT, 1)))

    def _on_device(self) -> Any:
        cache = self._once("cached", self._cached)
        return CachedTeacher(
            {name: Store(store.pieces, store.form) for name, store in cache.stores.items()}, cache.sizes
        ).to(DEVICE)

    def _once(self, name: str, make: Callable[[], Any]) -> Any:
        if name not in self._made:
            self._made[name] = make()
        return self._made[name]


def _objective(teacher: Any, method: str = "rdd") -> DistillationObjective:
    return DistillationObjective(RelativeDifficultyLoss(weighted=method == "rdd"), teacher, [], 0.4)
