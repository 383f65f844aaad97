"""What the size of the frames and the stride of the logits cost by themselves, without any network: the labels
themselves, taken down to a stride and back.

    python scripts/label_ceiling.py recipes/camvid_effnet_lite0_half.yaml data.root=data/camvid --size 240 320 --size
    360 480

Two rows for each size and stride, over the same frames:

- ``fitted logits``: the ceiling. Logits at the stride are fitted to the labels by cross-entropy, frame by frame, through
  the same bilinear resize that a network's go through. It is found by descent on another measure than IoU, so a network
  could even be a little better.
- ``averaged probabilities``: each class's share of the pixels under a cell stands for its probability there. That is
  what a network would say that is as sure as a cell is full; it isn't a limit.

Then the likeliest class is taken, and labels go back to the annotation's size as in any evaluation.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from rdd_deploy import console
from rdd_deploy.data.base import IGNORE, Labels, Split, evenly_spaced
from rdd_deploy.data.open import open_data
from rdd_deploy.metrics import Confusion
from rdd_deploy.outputs import resized
from rdd_deploy.preprocess import resize_labels
from rdd_deploy.recipe import load_recipe

STEPS, RATE = 40, 0.5
"""Of Adam: on four frames of CamVid at 240x320 and stride 8, 60 steps from elsewhere differ by 0.3 points of mIoU."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    parser.add_argument(
        "--size",
        type=int,
        nargs=2,
        action="append",
        metavar=("H", "W"),
        help="of the network's frames; may be repeated",
    )
    parser.add_argument("--stride", type=int, nargs="+", default=[4, 8, 16])
    parser.add_argument("--frames", type=int, default=16, help="of the split, evenly spread; default: 16")
    console.run(lambda: _table(parser.parse_intermixed_args()))


def _table(arguments: argparse.Namespace) -> None:
    recipe = load_recipe(arguments.recipe, arguments.overrides)
    split = evenly_spaced(open_data(recipe.data, recipe.evaluation.split), arguments.frames)
    names = split.label_space.classes
    print(f"{len(split)} frames\n\n| size | stride | labels as | mIoU | {' | '.join(names)} |")
    print("|---" * (4 + len(names)) + "|")
    for height, width in arguments.size or [recipe.data.size]:
        for stride in arguments.stride:
            for name, logits in (("fitted logits", fitted), ("averaged probabilities", averaged)):
                confusion = there_and_back(split, (height, width), stride, logits)
                each = " | ".join(f"{100 * value:.1f}" for value in confusion.iou)
                print(f"| {height}x{width} | {stride} | {name} | {100 * confusion.miou:.1f} | {each} |", flush=True)


Logits = Callable[[Labels, tuple[int, int], int, int], NDArray[np.float32]]
"""Labels uint8 (H, W), size (height, width), stride, classes -> maps (classes, h, w), the largest being said."""


def there_and_back(split: Split, size: tuple[int, int], stride: int, logits: Logits) -> Confusion:
    """The confusion of a split's labels with what is left of them at a size (height, width) and stride."""
    confusion, classes = Confusion(split.label_space.classes), len(split.label_space)
    for index in range(len(split)):
        labels = split.labels(index)
        confusion.add(labels, said(logits(labels, size, stride, classes), size, labels))
    return confusion


def said(logits: NDArray[np.float32], size: tuple[int, int], labels: Labels) -> Labels:
    """The class of each pixel, at the labels' size, by logits (C, h, w) of frames of ``size``."""
    assert len(logits) <= IGNORE
    largest = resized(torch.from_numpy(logits)[None], size)[0].argmax(0).numpy().astype(np.uint8)
    return resize_labels(largest, (labels.shape[0], labels.shape[1]))


def averaged(labels: Labels, size: tuple[int, int], stride: int, classes: int) -> NDArray[np.float32]:
    """Each class's share of the pixels under a cell; void pixels have no class."""
    cells = (-(-size[1] // stride), -(-size[0] // stride))
    return np.stack(
        [
            cv2.resize((labels == c).astype(np.float32), cells, interpolation=cv2.INTER_AREA)
            for c in range(classes)
        ]
    )  # fmt: skip


def fitted(labels: Labels, size: tuple[int, int], stride: int, classes: int) -> NDArray[np.float32]:
    """Logits that say the labels as well as cross-entropy gets them to, from those of ``averaged`` on."""
    target = torch.from_numpy(resize_labels(labels, size)).long()[None]
    logits = torch.from_numpy(np.log(averaged(labels, size, stride, classes) + 0.02))[None].requires_grad_()
    optimizer = torch.optim.Adam([logits], lr=RATE)
    for _ in range(STEPS):
        optimizer.zero_grad()
        F.cross_entropy(resized(logits, size), target, ignore_index=IGNORE).backward()
        optimizer.step()
    return logits.detach()[0].numpy()


if __name__ == "__main__":
    main()
