"""How long the loader takes for a crop and what share of a step waits for data, on this machine.

    python scripts/rates.py                                           # recipes/camvid_effnet_lite0_half.yaml's student
    python scripts/rates.py recipes/camvid_mbv3.yaml train.batch=8    # random frames in place of the recipe's own

On a GPU: ``bash scripts/gpu/check.sh rates`` measures much more. Bars on a CPU: a crop of 360x360 in 5 ms of a core,
loading 5 % of a step. A busy machine misses them.
"""

from __future__ import annotations

import statistics
import sys
import time

import numpy as np
import torch

from rdd_deploy.data.base import LabelSpace, Split
from rdd_deploy.data.loader import CropDataset, FrameCache, room_for_frames, training_loader
from rdd_deploy.data.sampler import ResumableBatchSampler
from rdd_deploy.data.transforms import RandomScaleCrop
from rdd_deploy.models.segmenter import Segmenter
from rdd_deploy.recipe import load_recipe
from rdd_deploy.training.fabric import make_fabric
from rdd_deploy.training.state import TrainState
from rdd_deploy.training.supervised import SupervisedObjective

CLASSES, FRAMES, CROPS, STEPS = 11, 32, 60, 4


CROP_MS, WAIT_PCT = 5, 5
"""The bars, on a CPU."""


class Noise(Split):
    """Random frames of a recipe's size: what is measured is cropping them, not what they show."""

    label_space = LabelSpace(tuple(map(str, range(CLASSES))), ((0, 0, 0),) * CLASSES)

    def __init__(self, size: tuple[int, int]) -> None:
        self.size, self.names = size, [str(i) for i in range(FRAMES)]

    def frame(self, index: int) -> np.ndarray:
        return np.random.default_rng(index).integers(0, 256, (*self.size, 3), np.uint8)

    def labels(self, index: int) -> np.ndarray:
        return np.random.default_rng(index).integers(0, CLASSES, self.size, np.uint8)


def main(recipe_file: str = "recipes/camvid_effnet_lite0_half.yaml", *overrides: str) -> None:
    recipe = load_recipe(recipe_file, overrides)
    frames = FrameCache(Noise(recipe.data.size), room_for_frames())
    crops = CropDataset(frames, RandomScaleCrop(recipe.augment, recipe.data.size), 0)
    times = []
    for index in range(FRAMES + CROPS):  # the first round decodes
        since = time.thread_time()
        crops[0, index % FRAMES]
        times.append(1000 * (time.thread_time() - since))
    height, width = recipe.augment.crop
    print(
        f"a crop of {height}x{width}: {statistics.median(times[FRAMES:]):.2f} ms of a core (bar for 360x360: {CROP_MS})"
    )
    fabric = make_fabric(recipe.train)
    train_state = TrainState(
        Segmenter(recipe.trained, CLASSES).train(),
        SupervisedObjective(recipe.train, torch.ones(CLASSES)),
        recipe.train,
        fabric,
    )
    sampler = ResumableBatchSampler(FRAMES, min(FRAMES, recipe.train.batch), 1000, 0)
    loader = iter(
        fabric.setup_dataloaders(
            training_loader(crops, sampler, recipe.data.workers, False), use_distributed_sampler=False
        )
    )
    waits, steps = [], []
    for _ in range(STEPS + 1):
        since = time.perf_counter()
        batch = next(loader)
        loaded = time.perf_counter()
        signs, _ = train_state.update(batch, 0.5)
        signs.tolist()
        waits.append(loaded - since)
        steps.append(time.perf_counter() - since)
    share = 100 * sum(waits[1:]) / sum(steps[1:])
    print(
        f"a step of {sampler.batch}: {1000 * statistics.median(steps[1:]):.0f} ms, {share:.1f} % of it waits for data (bar: {WAIT_PCT})"
    )


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
