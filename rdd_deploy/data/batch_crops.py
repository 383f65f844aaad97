"""Crops of a whole batch at once, where its frames lie on a device: what ``transforms.RandomScaleCrop`` makes of each
frame, to rounding.

Scaling and mirroring are one matrix product along each axis, so that windows of any size and place are one batch.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from rdd_deploy.data.base import IGNORE
from rdd_deploy.data.transforms import FILL


def cropped(
    images: Tensor, labels: Tensor, sizes: Tensor, windows: Tensor, size: tuple[int, int], most: float
) -> tuple[Tensor, Tensor]:
    """Windows of frames, scaled to ``size``; beyond a frame ``FILL`` and void.

    Args:
        images: uint8 (N, 3, H, W). labels: uint8 (N, H, W). Both are padded where a frame is smaller than the largest.
        sizes: int64 (N, 2), each frame's own (height, width).
        windows: int64 (N, 5): top, left, height, width, flip.
        size: (height, width) of the crops. most: how many pixels of a window at most become one.

    Returns:
        uint8 (N, 3, *size) and uint8 (N, *size); the labels are exactly those of ``RandomScaleCrop``.
    """
    top, left, height, width, flip = windows.unbind(1)
    ys = torch.arange(size[0], device=windows.device).expand(len(windows), -1)  # (N, h)
    xs = torch.arange(size[1], device=windows.device)
    xs = torch.where(flip[:, None] > 0, size[1] - 1 - xs, xs)  # (N, w)
    high = _weights(ys, top, height, sizes[:, 0], size[0], images.shape[-2], most)  # (N, h, H)
    wide = _weights(xs, left, width, sizes[:, 1], size[1], images.shape[-1], most)  # (N, w, W)
    # Along rows first, rounded in between, as torch does with bytes. The frame's surroundings are 0 here and have no
    # weights.
    pixels = images.float().sub_(FILL)
    rows = (pixels @ wide.mT[:, None]).add_(FILL + 0.5).floor_().clamp_(0, 255).sub_(FILL)  # (N, 3, H, w)
    crops = (high[:, None] @ rows).add_(FILL + 0.5).floor_().clamp_(0, 255).to(torch.uint8)  # (N, 3, h, w)
    return crops, _nearest(
        labels, sizes, top[:, None] + _centre(ys, height, size[0]), left[:, None] + _centre(xs, width, size[1])
    )


def recoloured(crops: Tensor, recolourings: Tensor) -> Tensor:
    """``colour_jitter.apply`` of each crop, uint8 (N, 3, h, w), by its recolouring, float (N, 3, 6)."""
    colours = crops.flatten(2).float()  # (N, 3, P)
    linear, of_mean = recolourings[..., :3].float(), recolourings[..., 3:].float()
    added = of_mean @ colours.mean(2, keepdim=True)
    return torch.baddbmm(added, linear, colours).round_().clamp_(0, 255).to(torch.uint8).view_as(crops)


def _centre(places: Tensor, given: Tensor, wanted: int) -> Tensor:
    """``transforms.centres`` at places (N, wanted) of windows of ``given`` (N,) pixels."""
    return (2 * places + 1) * given[:, None] // (2 * wanted)


def _nearest(labels: Tensor, sizes: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Labels at rows (N, h) and columns (N, w), which may lie beyond the frames."""
    tall, wide = sizes[:, :1], sizes[:, 1:]
    inside = ((y >= 0) & (y < tall))[:, :, None] & ((x >= 0) & (x < wide))[:, None]
    place = (
        torch.minimum(y.clamp(min=0), tall - 1)[:, :, None] * labels.shape[-1]
        + torch.minimum(x.clamp(min=0), wide - 1)[:, None]
    )
    return torch.where(inside, labels.flatten(1).gather(1, place.flatten(1)).view_as(place), IGNORE).to(torch.uint8)


def _weights(
    places: Tensor, first: Tensor, length: Tensor, frame: Tensor, wanted: int, pixels: int, most: float
) -> Tensor:
    """How much each pixel of a frame is in each pixel of a crop, along one axis: torch's bilinear interpolation with
    antialiasing.

    Args:
        places: (N, wanted), which pixel of a crop that isn't mirrored. first, length: (N,) of the window. frame: (N,)
            the frame's own length.
        pixels: the padded frames' length. most: largest ``length / wanted``.

    Returns:
        float32 (N, wanted, pixels), 0 beyond window and frame. Rows of a window that reaches beyond the frame add up to
        less than 1.
    """
    scale = (length.float() / wanted)[:, None, None]  # (N, 1, 1), pixels of the window for one of the crop
    reach = scale.clamp(min=1)
    centre = scale * (places[:, :, None] + 0.5)  # (N, wanted, 1), in the window
    taps = torch.arange(2 * math.ceil(max(1.0, most)) + 2, device=places.device)
    near = (centre - reach).floor() + taps  # (N, wanted, T), all pixels of the window that have a weight
    total = torch.where((near >= 0) & (near < length[:, None, None]), _triangle(near, centre, reach), 0).sum(
        2, keepdim=True
    )
    column = torch.arange(pixels, device=places.device)
    inside = column - first[:, None]  # (N, pixels), in the window
    valid = (inside >= 0) & (inside < length[:, None]) & (column < frame[:, None])
    return torch.where(valid[:, None], _triangle(inside[:, None], centre, reach), 0) / total


def _triangle(pixel: Tensor, centre: Tensor, reach: Tensor) -> Tensor:
    return (1 - (pixel + 0.5 - centre).abs() / reach).clamp_(min=0)
