"""The batches of crops that a training learns from, cut by the loader or where its frames lie on a device."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from lightning_fabric import Fabric

from rdd_deploy import console
from rdd_deploy.data.loader import CropDataset, DrawDataset, FrameCache, batches, training_loader
from rdd_deploy.data.rare_crops import RarePlaces
from rdd_deploy.data.resident import resident_frames
from rdd_deploy.data.sampler import ResumableBatchSampler, SizedBatchSampler
from rdd_deploy.data.transforms import RandomScaleCrop
from rdd_deploy.recipe import Recipe
from rdd_deploy.recipe_train import crop_sizes
from rdd_deploy.training.copy_paste import copy_pasted
from rdd_deploy.training.state import Method


class TrainingCrops:
    """Crops of a run's frames, in any order.

    Raises:
        DeviceError: ``data.device`` asks for what isn't there.
    """

    def __init__(self, recipe: Recipe, frames: FrameCache, method: Method, fabric: Fabric) -> None:
        self.recipe, self.frames, self.fabric, self._beside = recipe, frames, fabric, method.beside
        self.transform = RandomScaleCrop(recipe.augment, recipe.data.size, _rare_places(recipe, frames))
        self.resident = resident_frames(frames, self.transform, fabric.device, recipe.data.device)

    def batches(self, sampler: ResumableBatchSampler, size: tuple[int, int] | None = None) -> Iterator[Any]:
        """``Batch`` or ``BatchBeside`` on the training's device, in a sampler's order.

        Args:
            size: (height, width) of all crops; default: what the recipe says for each of the sampler's steps.

        Raises:
            LoadingError: a file can't be read.
        """
        sizes = [(0.0, size)] if size else crop_sizes(self.recipe.train, self.recipe.augment.crop)
        seed, resident, sized = self.recipe.train.seed, self.resident, SizedBatchSampler(sampler, sizes)
        if sized.unused and self.fabric.is_global_zero:
            shares = ", ".join(f"{share:g}" for share in sized.unused)
            console.warn(
                f"train.progressive: of {sized.steps} steps none has the size that begins at {shares}; choose other"
                " shares, or train longer"
            )
        crops = (
            DrawDataset(resident.sizes, self.transform, seed)
            if resident
            else CropDataset(self.frames, self.transform, seed)
        )
        loader = self.fabric.setup_dataloaders(
            training_loader(
                crops,
                sized,
                self.recipe.data.workers,
                self.fabric.device.type == "cuda",
                self._beside,
                self.recipe.train.devices,
            ),
            use_distributed_sampler=False,
        )
        loading: Iterator[Any] = batches(loader)
        loading = resident.batches(loading) if resident else loading
        return self._pasted(loading, sampler) if self.recipe.augment.copy_paste else loading

    def _pasted(self, loading: Iterator[Any], sampler: ResumableBatchSampler) -> Iterator[Any]:
        """The batches with ``augment.copy_paste`` done: the same crops for any number of processes."""
        share, classes = self.recipe.augment.copy_paste, len(self.frames.split.label_space)
        for number, batch in enumerate(loading, sampler.start):
            seed = [self.recipe.train.seed, number, 0, 3]
            yield copy_pasted(batch, share, classes, self.frames.labelled, seed, sampler.lengths)


def _rare_places(recipe: Recipe, frames: FrameCache) -> RarePlaces | None:
    """Where the frames hold their classes, where ``augment.rare_crops`` needs it."""
    if not recipe.augment.rare_crops:
        return None
    names = frames.split.label_space.classes
    with console.progress("places of classes", frames.labelled) as bar:
        places = RarePlaces(frames.labelled, frames.labels, len(names), bar.advance)
    console.info(
        f"augment.rare_crops: {100 * recipe.augment.rare_crops:.0f} % of the crops show a class drawn by rarity, most"
        f" often {places.told(names)}"
    )
    return places
