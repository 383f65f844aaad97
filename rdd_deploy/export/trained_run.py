"""What an export starts from: a run's weights, its recipe and the frames that the artifact is measured on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from rdd_deploy.data.base import Frame, Labels, Split, limited
from rdd_deploy.data.config import DataOptions
from rdd_deploy.data.open import data_at, open_data
from rdd_deploy.errors import WeightsError
from rdd_deploy.export.compare import Infer, Reference, reference_from
from rdd_deploy.export.onnx.export import onnx_from_segmenter
from rdd_deploy.export.onnx.graph import set_metadata
from rdd_deploy.models.segmenter import Segmenter
from rdd_deploy.models.weights import load_checkpoint
from rdd_deploy.training.run_folder import RunFolder, find_run
from rdd_deploy.utils.files import sha256
from rdd_deploy.utils.machine import git_commit, machine


@dataclass(frozen=True)
class TrainedRun:
    """A finished run, loaded."""

    run: RunFolder
    segmenter: Segmenter
    metadata: dict[str, Any]
    data: DataOptions
    weights_sha256: str
    fine_tuned_sha256: str | None = None
    """Of the checkpoint of ``segmenter`` where that isn't the run's own."""
    made: dict[Any, Any] = field(default_factory=dict, repr=False)
    """What several profiles of one export share."""

    @property
    def classes(self) -> list[str]:
        return list(self.metadata["classes"])

    @property
    def palette(self) -> list[tuple[int, int, int]]:
        return [(int(r), int(g), int(b)) for r, g, b in self.metadata["palette"]]

    def split(self, name: str, limit: int | None = None) -> Split:
        """One split of the run's data; WeightsError if the network was trained on other classes."""
        split = open_data(self.data, name)
        if list(split.label_space.classes) != self.classes:
            raise WeightsError(
                f"{self.run.path} was trained on the classes {', '.join(self.classes)}, its data set has {', '.join(split.label_space.classes)}; "
                "give the data that it was trained on with --data, or train it again"
            )
        return limited(split, limit, name)

    def graph(self, size: tuple[int, int]) -> onnx.ModelProto:
        """The plain float export, with classes, palette and provenance in its metadata. Callers must not change it."""
        if ("graph", size) not in self.made:
            model = onnx_from_segmenter(self.segmenter, size)
            set_metadata(model, {"classes": self.classes, "palette": self.palette, "provenance": self.provenance()})
            self.made["graph", size] = model
        return self.made["graph", size]  # type: ignore[no-any-return]

    def reference(self, size: tuple[int, int], split: str, limit: int | None) -> Reference:
        """The torch network's labels on the frames that artifacts are measured on."""
        key = ("reference", size, split, limit)
        if key not in self.made:
            self.made[key] = reference_from(self.infer(), self.split(split, limit), size, self.data.name, split)
        return self.made[key]  # type: ignore[no-any-return]

    def fine_tuned(self, path: Path) -> TrainedRun:
        """The run with the weights of a checkpoint that was fine-tuned from its own."""
        segmenter, _, fine_tuned_sha256 = load_checkpoint(path, self.classes)
        return replace(self, segmenter=segmenter.float(), fine_tuned_sha256=fine_tuned_sha256, made={})

    def find_fine_tuned(self, wanted: str, places: Sequence[Path]) -> TrainedRun | None:
        """The run with the fine-tuned checkpoint of a hash; None where no place holds a checkpoint.

        Raises:
            WeightsError: there are checkpoints, but others.
        """
        there = [path for path in places if path.is_file()]
        for path in there:
            if sha256(path) == wanted:
                return self.fine_tuned(path)
        if there:
            raise WeightsError(
                f"{there[0]} isn't the fine-tuned student that is asked for: its SHA-256 is {sha256(there[0])[:12]}…, expected {wanted[:12]}…; "
                "put that file there, or move this one away and export again"
            )
        return None

    def provenance(self) -> dict[str, str | int | float | None]:
        """What a manifest says of where the bundle comes from."""
        return {
            "run": self.run.path.name,
            "recipe": str(self.metadata.get("recipe") or ""),
            "weights_sha256": self.weights_sha256,
            **({"fine_tuned_sha256": self.fine_tuned_sha256} if self.fine_tuned_sha256 else {}),
            "git_commit": git_commit(),
            "machine": machine(),
            **self.data.provenance(),
        }

    def infer(self) -> Infer:
        """The network in PyTorch, with the deployed graph's contract."""

        def infer(network_input: Frame) -> Labels:
            frames = torch.from_numpy(np.ascontiguousarray(network_input[..., ::-1])).permute(0, 3, 1, 2)
            with torch.inference_mode():
                return np.asarray(self.segmenter(frames).primary.argmax(1).to(torch.uint8).numpy(), np.uint8)

        return infer


def checkpoint_name(profile: str) -> str:
    """File of the student that was fine-tuned for a profile, beside its plan and bundle."""
    return f"{profile}.fine-tuned.safetensors"


def open_run(path: Path | None, data_root: Path | None = None) -> TrainedRun:
    """Load a run folder (default: runs/latest).

    Args:
        data_root: where the data set lies; default: as the recipe says.

    Raises:
        RddError: no such run, or one without weights; WeightsError: damaged weights.
    """
    run = find_run(path)
    recipe = run.load_recipe()
    weights = run.weights()
    segmenter, metadata, weights_sha256 = load_checkpoint(weights)
    if "palette" not in metadata:
        raise WeightsError(
            f"{weights} doesn't say which colours its classes are drawn in; expected a checkpoint written by distill or train"
        )
    return TrainedRun(run, segmenter.float(), metadata, data_at(recipe.data, data_root), weights_sha256)
