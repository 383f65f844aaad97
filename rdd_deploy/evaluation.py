"""mIoU per class on the real thing, whatever its format: a run's weights or a bundle, by one protocol.

Protocol: each frame is resized to the network's size, the labels are resized back to the annotation's own size
(nearest), and one global confusion matrix over the split is counted there. Void pixels don't count; the batch size
can't matter.

A bundle is measured through its own runtime, so nothing here imports torch before a run folder asks for it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rdd_deploy import console
from rdd_deploy.data.base import Split, limited
from rdd_deploy.data.open import data_at, open_data, open_recorded
from rdd_deploy.lost_pixels import LostPixels, show_lost
from rdd_deploy.metrics import Confusion, Predict, evaluate_split, protocol
from rdd_deploy.runtime import Segmenter
from rdd_deploy.utils.machine import check_threads


class Evaluated(NamedTuple):
    """One measurement: the figures, and under which protocol."""

    what: str
    protocol: dict[str, Any]
    summary: dict[str, Any]
    """mIoU, pixel accuracy and IoU per class in percent."""
    lost: dict[str, Any] | None = None
    """Where the points are lost (``LostPixels.summary``), where that was asked for."""


def evaluate_bundle(
    folder: Path,
    split: str = "val",
    root: Path | None = None,
    limit: int | None = None,
    lost: bool = False,
    **load: Any,
) -> Evaluated:
    """Measure a bundle through its own backend.

    Args:
        root: of the data set; default: as the manifest names it.
        limit: only the first so many frames. lost: count where the points are lost, too.
        load: device, provider and threads for ``Segmenter.load``.

    Raises:
        BundleError, DeviceError, MissingPackageError, DataError.
    """
    with Segmenter.load(folder, **load) as segmenter:
        frames = limited(open_recorded(segmenter.manifest, split, root), limit, split)
        measured, places = _counted(bundle_predictor(segmenter), frames, 1, str(folder), lost)
        name = str(segmenter.manifest.provenance["data"])
        what = f"{folder} ({segmenter.backend} {segmenter.precision} on {segmenter.device})"
        facts = protocol(name, split, len(frames), segmenter.input_size, len(frames.label_space))
        return Evaluated(what, facts, measured.summary(), places)


def evaluate_run(
    folder: Path,
    split: str = "val",
    root: Path | None = None,
    limit: int | None = None,
    device: str = "cpu",
    threads: int | None = None,
    lost: bool = False,
) -> Evaluated:
    """Measure a run folder's weights in PyTorch, at the size of its recipe.

    Args:
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        threads: CPU threads; None lets PyTorch choose.
        lost: count where the points are lost, too.

    Raises:
        DeviceError: what was asked for isn't available.
    """
    import torch

    from rdd_deploy.models.predict import checked_device, torch_predictor
    from rdd_deploy.models.weights import load_segmenter
    from rdd_deploy.training.run_folder import find_run

    on = checked_device(device)
    if threads is not None:
        check_threads(threads, "PyTorch")
        torch.set_num_threads(threads)
    run = find_run(folder)
    recipe = run.load_recipe()
    weights = run.weights()
    data = data_at(recipe.data, root)
    frames = limited(open_data(data, split, fetch=root is None), limit, split)
    segmenter, _ = load_segmenter(weights, list(frames.label_space.classes))
    measured, places = _counted(
        torch_predictor(segmenter.to(on), data.size, on), frames, recipe.evaluation.batch, str(weights), lost
    )
    facts = protocol(data.name, split, len(frames), data.size, len(frames.label_space))
    return Evaluated(f"{weights} (torch fp32 on {on})", facts, measured.summary(), places)


def bundle_predictor(segmenter: Segmenter) -> Predict:
    """A bundle as a predictor of RGB frames, one at a time."""
    return lambda frames: [segmenter(np.ascontiguousarray(frame[..., ::-1])) for frame in frames]


def _counted(
    predict: Predict, split: Split, batch: int, what: str, lost: bool = False
) -> tuple[Confusion, dict[str, Any] | None]:
    places = LostPixels(split.label_space.classes) if lost else None
    with console.progress(f"evaluate {what}", len(split)) as bar:
        measured = evaluate_split(
            predict, split, batch, bar.advance, look=places.add if places else lambda truth, predicted: None
        )
    return measured, places.summary() if places else None


def show(evaluated: Evaluated) -> None:
    """Print IoU per class, mIoU, pixel accuracy and the protocol."""
    facts, figures = evaluated.protocol, evaluated.summary
    classes = [
        (name, "never occurs" if value is None else f"{value:.2f}") for name, value in figures["iou_pct"].items()
    ]
    whole = [("mIoU", _percent(figures["miou_pct"])), ("pixel accuracy", _percent(figures["pixel_accuracy_pct"]))]
    title = (
        f"{facts['data']} {facts['split']}: {facts['images']} images, network at"
        f" {facts['input_height']}x{facts['input_width']}"
    )
    console.info(evaluated.what)
    console.show(title, console.table(("class", "IoU %"), [*classes, None, *whole]))
    if evaluated.lost:
        show_lost(evaluated.lost)
    console.info("one confusion matrix over all images, at the annotation's own size; void pixels don't count")


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
