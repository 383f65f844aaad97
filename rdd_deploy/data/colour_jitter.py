"""Random brightness, contrast, saturation and hue as one matrix per picture, applied in a single pass over its pixels.

Contrast is drawn around the picture's mean grey, which only those know who have its pixels. So what is drawn is linear
in both a colour and the mean colour, and whoever has the pixels makes a 3×4 matrix of it.
"""

from __future__ import annotations

import math
from typing import TypeAlias

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Recolouring: TypeAlias = NDArray[np.float64]
"""(3, 6): what is multiplied with an RGB colour of 0 to 255, and what is multiplied with the picture's mean colour and added to it."""

GREY = np.array([0.2989, 0.587, 0.114])
"""Red's, green's and blue's part of a grey value (ITU-R BT.601, as torchvision has it)."""
_YIQ = np.array([GREY, [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])


def draw(strength: float) -> Recolouring:
    """Draw a jitter from the ambient torch generator, in the ranges and the random order of torchvision's ColorJitter.

    Args:
        strength: s in [0, 1]: brightness, contrast and saturation are scaled by 1 - s to 1 + s, hues turned by up to s
            / 10 of a circle.
    """
    order = torch.randperm(4).tolist()
    draws = torch.empty(4).uniform_(-1, 1).double().tolist()
    recolouring = np.eye(3, 6)
    for kind in order:
        factor = 1 + strength * draws[kind]
        if kind == 0:
            step = brightness(factor)
        elif kind == 1:
            step = contrast(factor)
        elif kind == 2:
            step = saturation(factor)
        else:
            step = hue(strength * draws[kind] / 10)
        recolouring = then(recolouring, step)
    return recolouring


def brightness(factor: float) -> Recolouring:
    return _linear(np.eye(3) * factor)


def contrast(factor: float) -> Recolouring:
    """Colours drawn away from, or towards, the picture's mean grey."""
    return np.column_stack([np.eye(3) * factor, (1 - factor) * np.tile(GREY, (3, 1))])


def saturation(factor: float) -> Recolouring:
    """Colours drawn away from, or towards, their own grey."""
    return _linear(np.eye(3) * factor + (1 - factor) * GREY)


def hue(turn: float) -> Recolouring:
    """Colours turned around the grey axis by a share of a circle (red towards yellow), in YIQ: greys and each luma
    stay.
    """
    angle = 2 * math.pi * turn
    cos, sin = math.cos(angle), math.sin(angle)
    rotation = np.array([[1, 0, 0], [0, cos, sin], [0, -sin, cos]])
    return _linear(np.linalg.inv(_YIQ) @ rotation @ _YIQ)


def then(first: Recolouring, second: Recolouring) -> Recolouring:
    """The recolouring that does one after the other; the second's mean colour is that of what the first left."""
    (linear, of_mean), (then_linear, then_of_mean) = (np.hsplit(one, 2) for one in (first, second))
    return np.column_stack([then_linear @ linear, then_linear @ of_mean + then_of_mean @ (linear + of_mean)])


def apply(picture: Tensor, recolouring: Recolouring) -> Tensor:
    """The recoloured picture, rounded and cut to 0 to 255; both uint8 (3, H, W)."""
    matrix = np.column_stack([recolouring[:, :3], recolouring[:, 3:] @ mean_colour(picture)])
    pixels = cv2.transform(cv2.merge(list(picture.numpy())), matrix)
    return torch.from_numpy(np.stack(cv2.split(pixels)))


def mean_colour(picture: Tensor) -> NDArray[np.float64]:
    """(3,) of a picture uint8 (3, H, W)."""
    return np.array([cv2.mean(plane)[0] for plane in picture.numpy()])


def _linear(matrix: NDArray[np.float64]) -> Recolouring:
    return np.column_stack([matrix, np.zeros((3, 3))])
