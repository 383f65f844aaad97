"""Data for training: both splits, opened, checked, cached in memory, and the frames that nobody labelled."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from rdd_deploy import console
from rdd_deploy.console import process_rank
from rdd_deploy.data.base import FileSplit, Split, Subset
from rdd_deploy.data.check import SplitFacts, check_apart, check_split
from rdd_deploy.data.loader import FrameCache, JoinedFrames, Room, room_for_frames
from rdd_deploy.data.open import open_data
from rdd_deploy.data.sampler import others_in
from rdd_deploy.data.unlabelled import LeftOut, Unlabelled, look_at_unlabelled, open_unlabelled
from rdd_deploy.errors import DataError
from rdd_deploy.recipe import Recipe, StudentRecipe


class TrainingData:
    """Checked data of a run.

    Attributes: ``frames`` (train, decoded once; behind them those without labels), ``validation`` (split),
    ``train_facts``, ``digest`` of the training frames with labels, ``unlabelled`` (split) of those without, None where
    there are none, ``left_out`` of them.

    Args:
        unlabelled: ``join`` opens the frames without labels of a distillation; ``look`` only looks whether they are
            there; ``leave`` them out.
        fetch: download what is missing, where that is possible.
    """

    def __init__(
        self, recipe: Recipe, unlabelled: Literal["join", "look", "leave"] = "join", fetch: bool = True
    ) -> None:
        data = recipe.data
        train = open_data(data, "train", fetch=fetch)
        room = room_for_frames(recipe.train.devices) if data.in_memory else None
        self.frames = FrameCache(train, room)
        self.unlabelled: Unlabelled | None = None
        self.left_out: LeftOut | None = None
        validation = open_data(data, recipe.evaluation.split, fetch=fetch)
        self.validation = CachedSplit(validation, room)
        with console.progress("data check", len(train) + len(self.validation)) as bar:
            self.train_facts = check_split(train, bar.advance, pair=self._pair)
            self.val_facts = check_split(self.validation, bar.advance)
        check_apart(self.train_facts, self.val_facts, recipe.evaluation.split)
        whole = train.inner if isinstance(train, Subset) else train
        if isinstance(whole, FileSplit) and isinstance(validation, FileSplit):
            whole.ids.check_palettes(validation.ids)
        self.digest = self.train_facts.digest
        self._tell(recipe)
        if share_without_labels(recipe) and unlabelled != "leave":
            self._join(recipe, room, unlabelled == "look")
        with_labels, without = parts_of_batch(recipe, self.frames.labelled)
        if (processes := recipe.train.devices * recipe.train.nodes) > with_labels + without:
            raise DataError(
                f"{self.frames.labelled} train frames make batches of {with_labels + without}, of which {processes}"
                " processes can't have a frame each; set train.devices and train.nodes to fewer"
            )

    def _join(self, recipe: Recipe, room: Room | None, only_look: bool) -> None:
        """Open the frames without labels, and tell how many there are."""
        names = ", ".join(recipe.data.unlabelled)
        if only_look:
            console.info(
                f"unlabelled: {look_at_unlabelled(recipe.data)} images or videos in {names}, before they are"
                " thinned out"
            )
            return
        self.unlabelled, self.left_out = open_unlabelled(recipe.data, self.validation.label_space)
        self.frames = JoinedFrames(self.frames, FrameCache(self.unlabelled, room))
        told = self.left_out.told()
        with_labels, without = parts_of_batch(recipe, self.frames.labelled)
        console.info(
            f"unlabelled: {len(self.unlabelled)} frames of {names} beside {self.frames.labelled} with labels"
            f"{f'; left out: {told}' if told else ''}; {without} of the {with_labels + without} frames of each batch"
        )

    def _pair(self, index: int) -> tuple[Any, Any]:
        image, labels = self.frames[index]
        return image.permute(1, 2, 0).numpy(), labels.numpy()

    def _tell(self, recipe: Recipe) -> None:
        label_space = self.validation.label_space
        place = f" in {recipe.data.root}" if recipe.data.in_folder else ""
        console.info(
            f"data: {recipe.data.name}{place}, {self.train_facts.count} train and {self.val_facts.count}"
            f" {recipe.evaluation.split} frames, {len(label_space)} classes, {100 * self.train_facts.void_share:.1f} %"
            " void"
        )
        for name, metadata in (("train", self.train_facts), (recipe.evaluation.split, self.val_facts)):
            _warn_absent(name, metadata, label_space.classes)


def share_without_labels(recipe: Recipe) -> float:
    """The share of each batch that frames without labels have; 0 where none join."""
    if not isinstance(recipe, StudentRecipe) or recipe.teacher is None or not recipe.data.unlabelled:
        return 0.0
    return recipe.distillation.unlabelled.share


def parts_of_batch(recipe: Recipe, labelled: int) -> tuple[int, int]:
    """Frames of a batch with labels, and those without.

    Args:
        labelled: number of training frames with labels, which may be fewer than a batch's.
    """
    without = others_in(recipe.train.batch, share_without_labels(recipe))
    return min(recipe.train.batch - without, labelled), without


def _warn_absent(name: str, metadata: SplitFacts, classes: tuple[str, ...]) -> None:
    if process_rank() == 0 and (absent := metadata.absent(classes)):
        console.warn(
            f"no pixel of {', '.join(absent)} in {name}; {'it' if len(absent) == 1 else 'they'} can't be learned or"
            " measured there"
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
