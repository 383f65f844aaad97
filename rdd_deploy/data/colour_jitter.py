"""Random brightness, contrast, saturation and hue as one 3×4 matrix per picture, applied in a single pass over its pixels."""

from __future__ import annotations

import math
from typing import TypeAlias

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Matrix: TypeAlias = NDArray[np.float64]
"""(3, 4): what is multiplied with an RGB colour of 0 to 255, and added to it."""

GREY = np.array([0.2989, 0.587, 0.114])
"""Red's, green's and blue's part of a grey value (ITU-R BT.601, as torchvision has it)."""
_YIQ = np.array([GREY, [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])


def draw(strength: float, mean: NDArray[np.float64]) -> Matrix:
    """Draw a jitter from the ambient torch generator, in the ranges and the random order of torchvision's ColorJitter.

    Args:
        strength: s in [0, 1]: brightness, contrast and saturation are scaled by 1 - s to 1 + s, hues turned by up to s / 10 of a circle.
        mean: (3,), the picture's mean RGB colour, 0 to 255.
    """
    order = torch.randperm(4).tolist()
    draws = torch.empty(4).uniform_(-1, 1).double().tolist()
    matrix = np.eye(3, 4)
    for kind in order:
        factor = 1 + strength * draws[kind]
        if kind == 0:
            step = brightness(factor)
        elif kind == 1:
            step = contrast(factor, float(GREY @ (matrix[:, :3] @ mean + matrix[:, 3])))
        elif kind == 2:
            step = saturation(factor)
        else:
            step = hue(strength * draws[kind] / 10)
        matrix = then(matrix, step)
    return matrix


def brightness(factor: float) -> Matrix:
    return _affine(np.eye(3) * factor)


def contrast(factor: float, grey: float) -> Matrix:
    """Colours drawn away from, or towards, the picture's mean ``grey``."""
    return _affine(np.eye(3) * factor, (1 - factor) * grey)


def saturation(factor: float) -> Matrix:
    """Colours drawn away from, or towards, their own grey."""
    return _affine(np.eye(3) * factor + (1 - factor) * GREY)


def hue(turn: float) -> Matrix:
    """Colours turned around the grey axis by a share of a circle (red towards yellow), in YIQ: greys and each luma stay."""
    angle = 2 * math.pi * turn
    cos, sin = math.cos(angle), math.sin(angle)
    rotation = np.array([[1, 0, 0], [0, cos, sin], [0, -sin, cos]])
    return _affine(np.linalg.inv(_YIQ) @ rotation @ _YIQ)


def then(first: Matrix, second: Matrix) -> Matrix:
    """The matrix that does one after the other."""
    offset: Matrix = second[:, :3] @ first[:, 3] + second[:, 3]
    return np.column_stack([second[:, :3] @ first[:, :3], offset])


def apply(picture: Tensor, matrix: Matrix) -> Tensor:
    """The recoloured picture, rounded and cut to 0 to 255; both uint8 (3, H, W)."""
    pixels = cv2.transform(cv2.merge(list(picture.numpy())), matrix)
    return torch.from_numpy(np.stack(cv2.split(pixels)))


def mean_colour(picture: Tensor) -> NDArray[np.float64]:
    """(3,) of a picture uint8 (3, H, W)."""
    return np.array([cv2.mean(plane)[0] for plane in picture.numpy()])


def _affine(linear: Matrix, offset: float = 0.0) -> Matrix:
    return np.column_stack([linear, np.full(3, offset)])
