"""What an import says when it has ended: classes, what was decided, what was left out."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from rdd_deploy import console
from rdd_deploy.data.imports.classes import Classes
from rdd_deploy.data.imports.export import Export, Overlap
from rdd_deploy.data.label_space import IGNORE


@dataclass
class Result:
    """What was written, or would be.

    Attributes:
        images: of each split. pixels: of each class, then void. decided: pixels where the rule of overlaps decided, and
            in how many images.
    """

    images: Counter[str] = field(default_factory=Counter)
    pixels: Any = None
    regions: Counter[str] = field(default_factory=Counter)
    decided: tuple[int, int] = (0, 0)
    notes: list[str] = field(default_factory=list)


RULES = {
    "order": "the one on top counts, by the tool's layers and order (--overlap order)",
    "small-on-top": "the annotation of fewer pixels counts (--overlap small-on-top)",
    "error": "none may",
}


def tell(export: Export, classes: Classes, result: Result, rule: Overlap, dry: bool) -> None:
    """The table of classes, what was decided, what was left out."""
    verb = "would be" if dry else "were"
    console.info(
        f"{', '.join(f'{split} {count}' for split, count in sorted(result.images.items()))} images {verb} written"
    )
    if result.pixels is not None:
        total = max(1, int(result.pixels.sum()))
        shares = [f"{100 * int(count) / total:.2f} %" for count in result.pixels]
    else:
        shares = ["" for _ in range(len(classes.names) + 1)]
    rows = []
    for number, name in enumerate([*classes.names, "void"]):
        wanted = number if number < len(classes.names) else IGNORE
        labels = [label for label, one in classes.ids.items() if one == wanted and label in export.labels]
        regions = sum(result.regions[label] for label, one in classes.ids.items() if one == wanted)
        annotations = str(regions) if export.background is not None else ""
        rows.append((str(wanted), name, ", ".join(labels), annotations, shares[number]))
    headings = ("id", "class", "from the labels", "annotations", "pixels")
    console.show("classes", console.table(headings, rows, left=(1, 2)))
    if export.drawing:
        console.info(f"pixels: {export.drawing}")
    console.info(*filter(None, (*classes.notes, *dict.fromkeys(export.notes), *result.notes)))
    if dry and export.background is not None:
        console.info(f"overlaps: {RULES[rule]}")
    for sentence in export.left.sentences():
        console.warn(sentence)
    if "train" not in result.images:
        console.warn("there is no train split, which training needs; see that its images and annotations are there")
    elif "val" not in result.images:
        console.warn("there is no val split, which training needs; import again with --val 0.2")
