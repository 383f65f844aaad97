"""Which image goes where: by the export's own splits, else by a share that is the same on every machine."""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Sequence

from rdd_deploy.data.imports.export import Sample
from rdd_deploy.errors import DataError


def assign(samples: Sequence[Sample], share: float | None, seed: int) -> list[str]:
    """A split for each sample; those without one are trained on.

    Args:
        share: of the train images that val gets, where the export has no val.

    Raises:
        DataError: the export has its own val, or there are too few images to divide.
    """
    splits = [sample.split or "train" for sample in samples]
    if share is None:
        return splits
    if "val" in splits:
        counts = Counter(splits)
        raise DataError(f"--val {share:g}, but the export has its own val split ({counts['val']} of {len(splits)} images); leave --val out")
    if "train" not in splits:
        raise DataError(f"--val {share:g} divides the train images, and the export has only {', '.join(sorted(set(splits)))}; leave it out")
    train = [number for number, split in enumerate(splits) if split == "train"]
    for number in _drawn([samples[number].name for number in train], share, seed):
        splits[train[number]] = "val"
    return splits


def sequence_of(name: str) -> str:
    """What frames of one sequence have in common: the name before its last number, and before Roboflow's mark of augmented copies."""
    plain = re.sub(r"\.rf\.[0-9a-zA-Z]+(?=\.|$)", "", name)
    return re.sub(r"\d+(?=\D*$)", "", plain, count=1) if re.search(r"\d", plain) else plain


def _drawn(names: Sequence[str], share: float, seed: int) -> list[int]:
    """Indices of val's share: whole sequences where there are several, in an order that a hash of their names gives."""
    groups = defaultdict(list)
    for number, name in enumerate(names):
        groups[sequence_of(name)].append(number)
    if max(map(len, groups.values())) > len(names) / 2:  # no sequences, or one that is nearly all
        groups = defaultdict(list)
        for number, name in enumerate(names):
            groups[re.sub(r"\.rf\.[0-9a-zA-Z]+(?=\.|$)", "", name)].append(number)
    wanted = max(1, round(share * len(names)))
    if len(groups) < 2 or wanted >= len(names):
        raise DataError(f"--val {share:g} of {len(names)} images leaves none for one of the splits; give another share, or more images")
    drawn: list[int] = []
    for key in sorted(groups, key=lambda key: hashlib.sha256(f"{seed}:{key}".encode("utf-8", "surrogateescape")).digest()):
        if drawn and abs(len(drawn) + len(groups[key]) - wanted) > abs(len(drawn) - wanted):
            continue
        if len(drawn) + len(groups[key]) < len(names):
            drawn += groups[key]
        if len(drawn) >= wanted:
            break
    return sorted(drawn)
