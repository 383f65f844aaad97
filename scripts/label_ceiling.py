"""What a perfect network could reach at a frame size and a stride of its logits: the labels themselves, taken down to
it and back.

    python scripts/label_ceiling.py recipes/camvid_effnet_lite0_half.yaml data.root=data/camvid --size 240 320 --size
    360 480

Each class's share of the pixels under a cell of the logits stands for its probability there; it is resized bilinearly
to the network's frame, as logits are, the likeliest class is taken, and labels go back to the annotation's size as in
any evaluation. A network can do a little better, since its logits needn't be probabilities.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np

from rdd_deploy import console
from rdd_deploy.data.base import IGNORE, Labels, Split
from rdd_deploy.data.open import open_data
from rdd_deploy.metrics import Confusion
from rdd_deploy.preprocess import resize_labels
from rdd_deploy.recipe import load_recipe


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
    console.run(lambda: _table(parser.parse_intermixed_args()))


def _table(arguments: argparse.Namespace) -> None:
    recipe = load_recipe(arguments.recipe, arguments.overrides)
    split = open_data(recipe.data, recipe.evaluation.split)
    names = split.label_space.classes
    print(f"| size | stride | mIoU | {' | '.join(names)} |")
    print("|---" * (3 + len(names)) + "|")
    for height, width in arguments.size or [recipe.data.size]:
        for stride in arguments.stride:
            confusion = ceiling(split, (height, width), stride)
            each = " | ".join(f"{100 * value:.1f}" for value in confusion.iou)
            print(f"| {height}x{width} | {stride} | {100 * confusion.miou:.1f} | {each} |", flush=True)


def ceiling(split: Split, size: tuple[int, int], stride: int) -> Confusion:
    """The confusion of a split's labels with what is left of them at a size (height, width) and stride."""
    confusion = Confusion(split.label_space.classes)
    for index in range(len(split)):
        labels = split.labels(index)
        confusion.add(labels, there_and_back(labels, size, stride, len(split.label_space)))
    return confusion


def there_and_back(labels: Labels, size: tuple[int, int], stride: int, classes: int) -> Labels:
    """Labels uint8 (H, W) through logits at a stride of frames of ``size``; void pixels have no class."""
    cells = (-(-size[1] // stride), -(-size[0] // stride))
    shares = [
        cv2.resize(
            cv2.resize((labels == c).astype(np.float32), cells, interpolation=cv2.INTER_AREA),
            size[::-1],
            interpolation=cv2.INTER_LINEAR,
        )
        for c in range(classes)
    ]
    assert classes <= IGNORE
    return resize_labels(np.argmax(shares, 0).astype(np.uint8), (labels.shape[0], labels.shape[1]))


if __name__ == "__main__":
    main()
