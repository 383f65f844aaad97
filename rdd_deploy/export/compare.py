"""A candidate's labels and mIoU against the float network's, which are computed once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rdd_deploy.console import progress
from rdd_deploy.data.base import Frame, Labels, Split
from rdd_deploy.metrics import Confusion
from rdd_deploy.preprocess import resize_frame, resize_labels
from rdd_deploy.runtime import Metrics
from rdd_deploy.runtime import Segmenter as Runtime

Infer = Callable[[Frame], Labels]
"""uint8 (1, H, W, 3) BGR at the network's size -> uint8 (1, H, W)."""


@dataclass(frozen=True)
class Reference:
    """Frames and truth of a split at the network's size, with the float network's labels.

    Attributes: ``labels`` uint8 (H, W) per frame; ``confusion`` at the annotation's own size.
    """

    data: str
    split_name: str
    split: Split
    size: tuple[int, int]
    labels: list[Labels]
    confusion: Confusion

    def network_input(self, index: int) -> Frame:
        """Frame ``index`` as the deployed graph takes it: uint8 (1, H, W, 3), BGR."""
        return np.ascontiguousarray(resize_frame(self.split.frame(index), self.size)[np.newaxis, ..., ::-1])


@dataclass(frozen=True)
class Comparison:
    """A candidate against the reference; percentages."""

    confusion: Confusion
    agreement_pct: float
    reference: Reference = field(repr=False)
    labels: list[Labels] = field(default_factory=list, repr=False)

    @property
    def miou_pct(self) -> float:
        return 100 * self.confusion.miou

    @property
    def drop_pct(self) -> float:
        """Points of mIoU below the float network; negative where it is above."""
        return 100 * (self.reference.confusion.miou - self.confusion.miou)

    def metrics(self) -> Metrics:
        """The figures as a manifest holds them."""
        values: dict[str, Any] = self.confusion.summary()
        return Metrics.model_validate(
            values
            | {
                "data": self.reference.data,
                "split": self.reference.split_name,
                "images": len(self.reference.labels),
                "float_miou_pct": self.reference.confusion.summary()["miou_pct"],
                "drop_pct": round(self.drop_pct, 3),
                "label_agreement_pct": round(self.agreement_pct, 4),
            }
        )

    def graph_figures(self) -> dict[str, str | float]:
        """The figures as a manifest's provenance holds them where only the graph could be measured, not the engine made
        of it.
        """
        return {
            "graph_measured_with": "onnxruntime on the CPU, not the engine",
            "graph_miou_pct": round(self.miou_pct, 3),
            "graph_drop_pct": round(self.drop_pct, 3),
            "graph_label_agreement_pct": round(self.agreement_pct, 4),
        }


def reference_from(infer: Infer, split: Split, size: tuple[int, int], data: str, split_name: str) -> Reference:
    """Run the float network over a split."""
    reference = Reference(data, split_name, split, size, [], Confusion(split.label_space.classes))
    with progress("float network", len(split)) as bar:
        for index in range(len(split)):
            labels = infer(reference.network_input(index))[0]
            truth = split.labels(index)
            reference.labels.append(labels)
            reference.confusion.add(truth, resize_labels(labels, truth.shape))  # type: ignore[arg-type]
            bar.advance()
    return reference


def compare(infer: Infer, reference: Reference, what: str = "artifact") -> Comparison:
    """Run a candidate over the reference's frames."""
    confusion = Confusion(reference.split.label_space.classes)
    same = total = 0
    kept: list[Labels] = []
    with progress(what, len(reference.labels)) as bar:
        for index, expected in enumerate(reference.labels):
            labels = infer(reference.network_input(index))[0]
            truth = reference.split.labels(index)
            confusion.add(truth, resize_labels(labels, truth.shape))  # type: ignore[arg-type]
            kept.append(labels)
            same += int((labels == expected).sum())
            total += labels.size
            bar.advance()
    return Comparison(confusion, 100 * same / total, reference, kept)


def compare_bundle(folder: Path, reference: Reference, **load: Any) -> Comparison:
    """Run a bundle through its own runtime over the reference's frames."""
    with Runtime.load(folder, **load) as runtime:
        return compare(runtime.infer, reference, f"{runtime.backend} {runtime.precision}")
