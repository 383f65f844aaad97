"""Several processes measure one network together: the first one's, and exactly what one process measures."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from gloo import together

from rdd_deploy.data.base import LabelSpace, Split
from rdd_deploy.models.config import Network
from rdd_deploy.models.segmenter import Segmenter
from rdd_deploy.training.loop import _measure


class Frames(Split):
    label_space, names = LabelSpace(("a", "b", "c"), ((0, 0, 0),) * 3), [str(i) for i in range(5)]

    def frame(self, index: int) -> np.ndarray:
        return np.random.default_rng(index).integers(0, 256, (64, 64, 3), np.uint8)

    def labels(self, index: int) -> np.ndarray:
        return np.random.default_rng(index).integers(0, 3, (64, 64), np.uint8)


def measured(rank: int, ranks: int = 2) -> dict[str, Any]:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    segmenter = Segmenter(Network(encoder="mobilenetv3_small_050", weights="none", channels=16), 3)
    for name, buffer in segmenter.named_buffers():
        if name.endswith("running_mean"):
            buffer += rank  # BatchNorm's statistics are each process's own on a CPU
    fabric = SimpleNamespace(
        world_size=ranks, global_rank=rank, device=torch.device("cpu"), _precision=SimpleNamespace(precision="32-true")
    )
    recipe = SimpleNamespace(data=SimpleNamespace(size=(64, 64)), evaluation=SimpleNamespace(batch=2))
    return _measure(recipe, SimpleNamespace(evaluated=segmenter, fabric=fabric, best_weights_note=""), Frames())  # type: ignore[arg-type]


def test_two_processes_measure_what_one_does() -> None:
    alone = measured(0, 1)
    assert together(measured, [0, 1]) == [alone, alone]
