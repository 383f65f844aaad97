"""Offsets of the classes' logits that raise mIoU, folded into the classifier's bias: nothing to compute at run time.

Cross-entropy asks for the likeliest class of each pixel; IoU also gains where a rare class is said at less than one
half. The offsets are fitted on training frames (threshold moving, as for imbalanced classes: Menon et al., "Long-Tail
Learning via Logit Adjustment", ICLR 2021, here for the IoU itself).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray

from rdd_deploy import console
from rdd_deploy.data.base import IGNORE, Split, evenly_spaced
from rdd_deploy.metrics import evaluate_split, iou_from, percent
from rdd_deploy.models.predict import torch_predictor
from rdd_deploy.models.segmenter import Segmenter
from rdd_deploy.models.weights import load_segmenter, save_segmenter
from rdd_deploy.preprocess import resize_frame, resize_labels
from rdd_deploy.recipe import Recipe
from rdd_deploy.training.fabric import precision_of

FRAMES, VALUES = 512, 2**24
"""Frames that are looked at, at most; logits of all pixels that are kept, at most."""
STEP, MOST = 0.125, 3.0
"""Of the grid on which offsets lie, and the largest."""
ROUNDS = 3
"""Passes over the classes."""
SHARES = (1.0, 0.5)
"""Of the offsets, tried on validation: what training frames want may be too much for frames that weren't learned."""

Array = NDArray[np.float32]


def fit_class_bias(recipe: Recipe, split: Split, validation: Split, weights: Path, fabric: Fabric) -> dict[str, Any]:
    """Fit offsets on training frames and write all or half of them into a checkpoint, whichever mIoU on validation rises
    most by; none where it doesn't rise.

    Returns:
        What the run's summary says of them; that of the checkpoint where it has them already.
    """
    network, metadata = load_segmenter(weights, list(validation.label_space.classes))
    if "class_bias" in metadata:
        return dict(metadata["class_bias"])
    network = network.to(fabric.device).eval()
    with console.progress("class bias", min(FRAMES, len(split))) as bar:
        logits, classes = sampled_logits(network, split, recipe.data.size, fabric.device, bar.advance)
    fitted, before = fit_offsets(logits, classes), float(metadata["miou_pct"])
    predict = torch_predictor(network, recipe.data.size, fabric.device, precision_of(fabric))
    own = network.head.bias.detach().clone()

    def give(share: float) -> None:
        network.head.bias.data.copy_(own)
        add_offsets(network, share * fitted)

    found: dict[float, float] = {}
    for one in SHARES:
        give(one)
        found[one] = percent(evaluate_split(predict, validation, recipe.evaluation.batch).miou) or 0.0
    share = max(found, key=lambda one: found[one])
    give(share)
    said = told(share * fitted, list(validation.label_space.classes), before, found[share]) | {"share": share}
    if said["kept"]:
        save_segmenter(weights, network, metadata | {"miou_pct": found[share], "class_bias": said})
    console.info(
        f"class bias: mIoU on {recipe.evaluation.split} {before:.2f} -> "
        + ", ".join(f"{value:.2f} % with {one:.0%} of the offsets" for one, value in found.items())
        + ("" if said["kept"] else "; left out, it doesn't rise")
    )
    return said


def sampled_logits(
    network: Segmenter,
    split: Split,
    size: tuple[int, int],
    device: torch.device,
    advance: Callable[[], None] = lambda: None,
) -> tuple[Array, NDArray[np.int64]]:
    """Logits float32 (P, C) and classes (P,) of pixels with a class, drawn evenly from frames that are spread evenly
    over the split.

    Args:
        network: in eval mode, on ``device``. size: (height, width) that it sees.
    """
    frames = evenly_spaced(split, FRAMES)
    count = max(1, VALUES // (network.classes * len(frames)))
    logits, classes = [], []
    for index in range(len(frames)):
        frame, labels = frames.frame(index), resize_labels(frames.labels(index), size).ravel()
        image = torch.from_numpy(resize_frame(frame, size)).permute(2, 0, 1)[None].to(device)
        with torch.inference_mode():
            said = network(image).primary[0].flatten(1).float().cpu().numpy()
        known = np.flatnonzero(labels != IGNORE)
        chosen = known if len(known) <= count else np.random.default_rng(index).choice(known, count, replace=False)
        logits.append(said[:, chosen].T)
        classes.append(labels[chosen].astype(np.int64))
        advance()
    return np.concatenate(logits), np.concatenate(classes)


def fit_offsets(logits: Array, classes: NDArray[np.int64]) -> Array:
    """Offsets (C,) of the logits with the highest mIoU, by coordinate ascent on a grid; their mean is 0.

    Args:
        logits: float32 (P, C). classes: (P,), in 0…C-1.
    """
    count = logits.shape[1]
    offsets = np.zeros(count, np.float32)
    for _ in range(ROUNDS):
        before = offsets.copy()
        for c in range(count):
            offsets[c] = _best_offset(logits + np.where(np.arange(count) == c, 0, offsets), classes, c, offsets[c])
        if (before == offsets).all():
            break
    return np.asarray(offsets - offsets.mean(), np.float32)


def _best_offset(logits: Array, classes: NDArray[np.int64], c: int, now: float) -> float:
    """The offset of class c with the highest mIoU where the other classes have theirs; the nearest to ``now`` among
    equals.
    """
    count = logits.shape[1]
    others = logits.copy()
    others[:, c] = -np.inf
    second = others.argmax(1)
    # From this offset on the pixel is given to c, below it to the best other class.
    margin = np.take_along_axis(others, second[:, None], 1)[:, 0] - logits[:, c]
    grid = np.arange(-MOST, MOST + STEP / 2, STEP)
    # Number of the first grid value that gives the pixel to c; len(grid) where none does.
    first = np.searchsorted(grid, margin, side="right")
    bins = len(grid) + 1

    def given_up(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
        """(bins - 1, C): at each grid value, pixels of the mask that stay with each other class."""
        table = np.bincount(first[mask] * count + second[mask], minlength=bins * count).reshape(bins, count)
        return table[::-1].cumsum(0)[::-1][1:]

    said, right = given_up(np.ones(len(classes), bool)), given_up(second == classes)
    taken = np.bincount(first, minlength=bins)[:-1].cumsum()
    hits = np.bincount(first[classes == c], minlength=bins)[:-1].cumsum()
    said[:, c], right[:, c] = taken, hits
    truth = np.bincount(classes, minlength=count)
    with np.errstate(invalid="ignore"):
        iou = right / (said + truth - right)
    score = np.nan_to_num(iou).sum(1) / np.maximum(1, np.isfinite(iou).sum(1))
    best = np.flatnonzero(score >= score.max() - 1e-6)
    return float(grid[best[np.abs(grid[best] - now).argmin()]])


def miou(logits: Array, classes: NDArray[np.int64]) -> float:
    """mIoU in [0, 1] of logits (P, C) against classes (P,)."""
    count = logits.shape[1]
    matrix = np.bincount(classes * count + logits.argmax(1), minlength=count**2).reshape(count, count)
    return float(np.nanmean(iou_from(matrix)))


def add_offsets(network: Segmenter, offsets: Array) -> None:
    """Add offsets (C,) to the logits that a segmenter gives, in its classifier's bias."""
    with torch.no_grad():
        bias = network.head.bias
        bias += torch.from_numpy(offsets).to(bias)


def told(offsets: Array, classes: list[str], before: float, after: float) -> dict[str, Any]:
    """What a run's summary says of offsets, and of mIoU on validation (percent) without and with them."""
    values = {name: round(float(value), 4) for name, value in zip(classes, offsets, strict=True)}
    return {"offsets": values, "miou_pct_without": before, "miou_pct_with": after, "kept": after > before}
