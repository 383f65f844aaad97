"""A finished run, loaded: its weights, its data, and what several profiles of one export share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from rdd_deploy.data.base import Frame, Labels, Split, limited
from rdd_deploy.data.config import DataOptions
from rdd_deploy.data.open import data_at, open_data
from rdd_deploy.errors import WeightsError
from rdd_deploy.export.compare import Infer, Reference, reference_from
from rdd_deploy.export.onnx.export import onnx_from_segmenter
from rdd_deploy.export.onnx.graph import set_metadata
from rdd_deploy.export.profile import Calibration
from rdd_deploy.export.quantization.calibration_frames import CalibrationFrames, from_folder, from_train
from rdd_deploy.models.merge import merge_error
from rdd_deploy.models.predict import torch_predictor
from rdd_deploy.models.segmenter import Segmenter
from rdd_deploy.models.weights import load_checkpoint
from rdd_deploy.training.run_folder import RunFolder, find_run
from rdd_deploy.utils.files import sha256
from rdd_deploy.utils.machine import git_commit, machine


@dataclass(frozen=True)
class TrainedRun:
    """A finished run, loaded.

    Attributes:
        metadata: of the checkpoint.
        data: the data set that accuracy is measured on.
        fine_tuned_sha256: of the checkpoint of ``segmenter`` where that isn't the run's own.
    """

    run: RunFolder
    segmenter: Segmenter
    metadata: dict[str, Any]
    data: DataOptions
    weights_sha256: str
    fine_tuned_sha256: str | None = None

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
                f"{self.run.path} was trained on the classes {', '.join(self.classes)}, its data set has"
                f" {', '.join(split.label_space.classes)}; give the data that it was trained on with --data, or train"
                " it again"
            )
        return limited(split, limit, name)

    @cached_property
    def graph(self) -> Callable[[tuple[int, int]], onnx.ModelProto]:
        """(height, width) -> the plain float export, made once, with classes, palette and provenance in its metadata.

        Callers must not change it.
        """

        def graph(size: tuple[int, int]) -> onnx.ModelProto:
            model = onnx_from_segmenter(self.segmenter, size)
            set_metadata(model, {"classes": self.classes, "palette": self.palette, "provenance": self.provenance()})
            return model

        return cache(graph)

    @cached_property
    def reference(self) -> Callable[[tuple[int, int], str, int | None], Reference]:
        """(size, split, limit) -> the torch network's labels on the frames that artifacts are measured on, computed
        once.
        """

        def reference(size: tuple[int, int], split: str, limit: int | None) -> Reference:
            return reference_from(self.infer(), self.split(split, limit), size, self.data.name, split)

        return cache(reference)

    @cached_property
    def calibration_frames(self) -> Callable[[Calibration, tuple[int, int], str], CalibrationFrames]:
        """(calibration, size, split) -> the frames that calibrate, chosen once.

        Images of val, or of the split that accuracy is measured on, are refused with a DataError.
        """

        @cache
        def chosen(folder: str | None, images: int, size: tuple[int, int], split: str) -> CalibrationFrames:
            others = [self.split(name) for name in dict.fromkeys(("val", split))]
            if folder:
                return from_folder(Path(folder), others, images, size)
            return from_train(self.split("train"), others, images, size)

        return lambda calibration, size, split: chosen(calibration.folder, calibration.images, size, split)

    def fine_tuned(self, path: Path) -> TrainedRun:
        """The run with the weights of a checkpoint that was fine-tuned from its own."""
        segmenter, _, fine_tuned_sha256 = load_checkpoint(path, self.classes)
        return replace(self, segmenter=segmenter.float(), fine_tuned_sha256=fine_tuned_sha256)

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
                f"{there[0]} isn't the fine-tuned student that is asked for: its SHA-256 is {sha256(there[0])[:12]}…,"
                f" expected {wanted[:12]}…; put that file there, or move this one away and export again"
            )
        return None

    def provenance(self) -> dict[str, str | int | float | None]:
        """Where a bundle comes from, as its manifest holds it."""
        return {
            "run": self.run.path.name,
            "recipe": str(self.metadata.get("recipe") or ""),
            "weights_sha256": self.weights_sha256,
            **({"fine_tuned_sha256": self.fine_tuned_sha256} if self.fine_tuned_sha256 else {}),
            "git_commit": git_commit(),
            "machine": machine(),
            **({} if self.merge_error is None else {"merged_branches_logit_error": float(f"{self.merge_error:.2g}")}),
            **self.data.provenance(),
        }

    @cached_property
    def merge_error(self) -> float | None:
        """How far the deployed network's logits are from the trained one's where the encoder's branches are merged;
        None where none are.
        """
        return 0.0 if self.segmenter.merged else merge_error(self.segmenter)

    def infer(self) -> Infer:
        """The network in PyTorch, with the deployed graph's contract."""

        def infer(network_input: Frame) -> Labels:
            height, width = network_input.shape[1:3]
            return np.stack(torch_predictor(self.segmenter, (height, width))(list(network_input[..., ::-1])))

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
            f"{weights} doesn't say which colours its classes are drawn in; expected a checkpoint written by distill or"
            " train"
        )
    return TrainedRun(run, segmenter.float(), metadata, data_at(recipe.data, data_root), weights_sha256)
