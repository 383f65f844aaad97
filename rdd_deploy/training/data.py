"""Data for training: both splits, opened, checked, cached in memory."""

from __future__ import annotations

from typing import Any

import numpy as np

from rdd_deploy import console
from rdd_deploy.console import process_rank
from rdd_deploy.data.base import FileSplit, Split
from rdd_deploy.data.check import SplitFacts, check_apart, check_split
from rdd_deploy.data.loader import FrameCache, Room, room_for_frames
from rdd_deploy.data.open import open_data
from rdd_deploy.recipe import Recipe


class TrainingData:
    """Checked data of a run.

    Attributes: ``frames`` (train, decoded once), ``validation`` (split), ``train_facts``, ``digest`` of the training frames.
    """

    def __init__(self, recipe: Recipe) -> None:
        data = recipe.data
        train = open_data(data, "train")
        room = room_for_frames() if data.in_memory else None
        self.frames = FrameCache(train, room)
        validation = open_data(data, recipe.evaluation.split)
        self.validation = CachedSplit(validation, room)
        with console.progress("data check", len(train) + len(self.validation)) as bar:
            self.train_facts = check_split(train, bar.advance, pair=self._pair)
            self.val_facts = check_split(self.validation, bar.advance)
        check_apart(self.train_facts, self.val_facts, recipe.evaluation.split)
        if isinstance(train, FileSplit) and isinstance(validation, FileSplit):
            train.ids.check_palettes(validation.ids)
        self.digest = self.train_facts.digest
        self._tell(recipe)

    def _pair(self, index: int) -> tuple[Any, Any]:
        image, labels = self.frames[index]
        return image.permute(1, 2, 0).numpy(), labels.numpy()

    def _tell(self, recipe: Recipe) -> None:
        label_space = self.validation.label_space
        place = f" in {recipe.data.root}" if recipe.data.in_folder else ""
        console.info(
            f"data: {recipe.data.name}{place}, {self.train_facts.count} train and {self.val_facts.count} {recipe.evaluation.split} frames, "
            f"{len(label_space)} classes, {100 * self.train_facts.void_share:.1f} % void"
        )
        for name, metadata in (("train", self.train_facts), (recipe.evaluation.split, self.val_facts)):
            _warn_absent(name, metadata, label_space.classes)


def _warn_absent(name: str, metadata: SplitFacts, classes: tuple[str, ...]) -> None:
    if process_rank() == 0 and (absent := metadata.absent(classes)):
        console.warn(
            f"no pixel of {', '.join(absent)} in {name}; {'it' if len(absent) == 1 else 'they'} can't be learned or measured there"
        )


class CachedSplit(Split):
    """A split whose decoded frames stay in memory, where there is room: validation reads them again and again."""

    def __init__(self, split: Split, room: Room | None) -> None:
        self.inner, self.label_space, self.names = split, split.label_space, split.names
        self._frames = FrameCache(split, room)

    @property
    def pairs(self) -> Any:
        return getattr(self.inner, "pairs", None)

    def frame(self, index: int) -> np.ndarray:  # type: ignore[type-arg]
        return np.ascontiguousarray(self._frames[index][0].permute(1, 2, 0).numpy())

    def labels(self, index: int) -> np.ndarray:  # type: ignore[type-arg]
        return self._frames[index][1].numpy()
