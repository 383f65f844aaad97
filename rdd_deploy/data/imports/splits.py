"""Which image goes where: by the export's own splits, else by a share that is the same on every machine."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Sequence

import numpy as np

from rdd_deploy import console
from rdd_deploy.data.folder.shares import groups_of, share_out
from rdd_deploy.data.imports.export import Sample
from rdd_deploy.errors import DataError


def assign(
    samples: Sequence[Sample], share: float | None, seed: int, voids: Collection[int] = ()
) -> tuple[list[str], list[str]]:
    """A split for each sample; those without one are trained on.

    Args:
        share: of the train images that val gets, where the export has no val: whole sequences, each label's images in
            about that share.
        voids: values of masks that are no class.

    Returns:
        The splits, and sentences about sequences that are too long to be kept together.

    Raises:
        DataError: the export has its own val, or there are too few images to divide.
    """
    splits = [sample.split or "train" for sample in samples]
    if share is None:
        return splits, []
    if "val" in splits:
        counts = Counter(splits)
        raise DataError(
            f"--val {share:g}, but the export has its own val split ({counts['val']} of {len(splits)} images); leave"
            " --val out, or set that aside with --ignore-splits"
        )
    if "train" not in splits:
        raise DataError(
            f"--val {share:g} divides the train images, and the export has only {', '.join(sorted(set(splits)))}; leave"
            " it out"
        )
    train = [number for number, split in enumerate(splits) if split == "train"]
    groups, notes = groups_of([os.path.splitext(samples[number].name)[0] for number in train], "sequence")
    if len(set(groups)) < 2:
        raise DataError(
            f"--val {share:g} of {len(train)} images leaves none for one of the splits; leave it out, or annotate more"
            " images"
        )
    held = []
    with console.progress("which classes are where", len(train)) as bar:
        for number in train:
            held.append(_held(samples[number], voids))
            bar.advance()
    places = {label: place for place, label in enumerate(sorted(set().union(*held)))}
    classes = [sorted(places[label] for label in labels) for labels in held]
    for number, split in zip(train, share_out(groups, classes, {"train": 1 - share, "val": share}, seed), strict=True):
        splits[number] = split
    return splits, notes


def _held(sample: Sample, voids: Collection[int]) -> set[str]:
    """What a sample shows: labels of its regions, else values of its mask."""
    if sample.mask is None:
        return {region.label for region in sample.regions}
    return {f"{value:05}" for value in np.unique(sample.mask()).tolist() if value not in voids}
