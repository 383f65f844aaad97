"""What labels the frames: a run's network in PyTorch, or a bundle in its own runtime. torch is imported where a run is
named.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from rdd_deploy.errors import DataError, DeviceError, RddError
from rdd_deploy.live.bundles import loaded
from rdd_deploy.preprocess import resize_frame, resize_labels
from rdd_deploy.runtime import Segmenter
from rdd_deploy.runtime.manifest import MANIFEST
from rdd_deploy.utils.machine import available_cores, check_threads

Array = NDArray[np.uint8]
MAX_PARALLEL, MAX_BATCH = 4, 8


class FramePrediction(NamedTuple):
    """What a model says of a frame.

    Attributes:
        labels: uint8 (H, W), class ids, at the frame's size.
        confidence: uint8 (H, W), at the frame's size, 255 for certain; None where none was asked for or there is none.
        mean, low: of the confidence, mean and 5th percentile over the network's pixels, in [0, 1]; None likewise.
    """

    labels: Array
    confidence: Array | None = None
    mean: float | None = None
    low: float | None = None


class Model(Protocol):
    """One that labels frames, from as many threads as like."""

    path: Path
    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    identity: str
    parallel: int
    confidence: str
    """How sure of it is measured: softmax or mirror."""

    def __call__(self, frame: Array, confidence: bool) -> FramePrediction:
        """Frame uint8 (H, W, 3) BGR; ``confidence``: also a map of it."""


class Bundle:
    """A bundle. Its graph gives labels alone, so how sure it is, where that is asked for, is whether it says the same
    of the mirrored frame.
    """

    confidence = "mirror"

    def __init__(self, path: Path, segmenter: Segmenter) -> None:
        self.path, self._segmenter = path, segmenter
        manifest = segmenter.manifest
        self.classes, self.palette = tuple(manifest.classes), tuple(manifest.palette)
        self.identity = hashlib.sha256(json.dumps(manifest.files, sort_keys=True).encode()).hexdigest()
        self.parallel = segmenter.parallel
        self._free = threading.Semaphore(self.parallel)

    def __call__(self, frame: Array, confidence: bool) -> FramePrediction:
        labels = self._labels(frame)
        if not confidence:
            return FramePrediction(labels)
        same = labels == self._labels(np.ascontiguousarray(frame[:, ::-1]))[:, ::-1]
        return FramePrediction(labels, np.where(same, 255, 0).astype(np.uint8), float(same.mean()))

    def _labels(self, frame: Array) -> Array:
        network_input = self._segmenter.prepare(frame)
        with self._free:
            labels = self._segmenter.infer(network_input)
        return self._segmenter.restore(labels, (frame.shape[0], frame.shape[1]))


class _Asked(NamedTuple):
    """A frame at the network's size, uint8 (h, w, 3) BGR, and its labels and their probability when they are known."""

    frame: Array
    answer: Future[tuple[Array, NDArray[np.float32]]]


class Run:
    """A run folder's network in PyTorch, at the size of its recipe. Frames that several threads ask of at a time are
    computed as one batch.
    """

    confidence = "softmax"

    def __init__(self, path: Path, device: str, threads: int | None) -> None:
        import torch

        from rdd_deploy.data.colours import spread_colours
        from rdd_deploy.models.predict import checked_device
        from rdd_deploy.models.weights import load_checkpoint
        from rdd_deploy.training.run_folder import find_run

        self.path, self._device = path, checked_device(device)
        if threads is not None:
            check_threads(threads, "PyTorch")
            torch.set_num_threads(threads)
        run = find_run(path)
        recipe = run.load_recipe()
        self._size, self.parallel = recipe.data.size, min(recipe.evaluation.batch, MAX_BATCH)
        network, metadata, self.identity = load_checkpoint(run.weights())
        self._network = network.float().eval().to(self._device)
        self.classes = tuple(map(str, metadata["classes"]))
        colours = metadata.get("palette") or spread_colours(len(self.classes))
        self.palette = tuple((int(r), int(g), int(b)) for r, g, b in colours)
        self._computing = threading.Lock()
        self._waiting: deque[_Asked] = deque()

    def __call__(self, frame: Array, confidence: bool) -> FramePrediction:
        asked = _Asked(resize_frame(frame, self._size), Future())
        self._waiting.append(asked)
        while not asked.answer.done():
            with self._computing:  # whoever comes in computes for all that wait
                if batch := [self._waiting.popleft() for _ in range(min(len(self._waiting), self.parallel))]:
                    self._compute(batch)
        labels, sure = asked.answer.result()
        size = (frame.shape[0], frame.shape[1])
        shown = np.clip(cv2.resize(sure, size[::-1]) * 255, 0, 255).round().astype(np.uint8) if confidence else None
        return FramePrediction(resize_labels(labels, size), shown, float(sure.mean()), float(np.percentile(sure, 5)))

    def _compute(self, batch: Sequence[_Asked]) -> None:
        import torch

        try:
            frames = torch.from_numpy(np.stack([asked.frame for asked in batch])).permute(0, 3, 1, 2).flip(1)
            with torch.inference_mode():
                logits = self._network(frames.to(self._device)).primary
                sure = torch.softmax(logits.float(), 1).amax(1).cpu().numpy()
                labels = logits.argmax(1).to(torch.uint8).cpu().numpy()
        except Exception as error:
            for asked in batch:
                asked.answer.set_exception(error)
            return
        for asked, one, certain in zip(batch, labels, sure, strict=True):
            asked.answer.set_result((one, certain))


@contextmanager
def opened(paths: Sequence[Path], *, device: str, provider: str | None, threads: int | None) -> Iterator[list[Model]]:
    """The runs and bundles, loaded in their order.

    Raises:
        DataError: a folder is neither, or their classes differ. BundleError, WeightsError, DeviceError: they can't be
            loaded.
    """
    kinds = [_kind(path) for path in paths]
    if provider is not None and "bundle" not in kinds:
        raise DeviceError(
            f"--provider '{provider}' is for a bundle, but {paths[0]} is a run, which PyTorch computes; choose with"
            " --device"
        )
    bundles = [path for path, kind in zip(paths, kinds, strict=True) if kind == "bundle"]
    at_a_time = min(available_cores() if threads is None else threads, MAX_PARALLEL)
    with ExitStack() as stack:
        found: dict[int, Model] = {}
        if bundles:
            segmenters = stack.enter_context(
                loaded(bundles, device=device, provider=provider, threads=threads, parallel=at_a_time)
            )
            places = [place for place, kind in enumerate(kinds) if kind == "bundle"]
            found = {
                place: Bundle(paths[place], segmenter) for place, segmenter in zip(places, segmenters, strict=True)
            }
        models = [found.get(place) or Run(path, device, threads) for place, path in enumerate(paths)]
        for other in models[1:]:
            if other.classes != models[0].classes:
                raise DataError(
                    f"{models[0].path} has the classes {', '.join(models[0].classes)}, {other.path} has"
                    f" {', '.join(other.classes)}; what they say can be compared only where the classes and their order"
                    " are the same"
                )
        yield models


def _kind(path: Path) -> str:
    if (path / MANIFEST).is_file():
        return "bundle"
    if (path / "recipe.yaml").is_file():
        return "run"
    got = "has neither of the two" if path.is_dir() else "isn't a folder"
    raise DataError(f"{path} {got}; expected a run folder (with recipe.yaml) or a bundle (with {MANIFEST})")


def described(model: Model) -> dict[str, Any]:
    """What tells a model from others, as ``predict.json`` holds it."""
    return {"path": str(model.path), "sha256": model.identity}


def disagreement(answers: Sequence[FramePrediction]) -> float | None:
    """Share of the pixels, in [0, 1], on which not all models say the same; None for one model."""
    if len(answers) < 2:
        return None
    first = answers[0].labels
    differs = np.zeros(first.shape, bool)
    for other in answers[1:]:
        if other.labels.shape != first.shape:
            raise RddError("two models gave labels of different sizes")
        differs |= other.labels != first
    return float(differs.mean())
