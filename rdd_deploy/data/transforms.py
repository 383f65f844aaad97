"""Training crops on uint8 tensors, through torchvision transforms v2, with the geometry kept so that cached logits can
follow.

Every random draw comes from the ambient torch generator; ``loader`` seeds it per (seed, epoch, sample), which makes a
sample independent of worker count and of where a run was resumed.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from rdd_deploy.data import colour_jitter
from rdd_deploy.data.base import IGNORE
from rdd_deploy.data.config import Augment
from rdd_deploy.data.rare_crops import RarePlaces


class CropWindow(NamedTuple):
    """The part of the source frame that a crop shows, in source pixels; it may reach beyond the frame. ``flip`` mirrors
    it after.
    """

    top: int
    left: int
    height: int
    width: int
    flip: bool


class Drawn(NamedTuple):
    """All that is random in a crop."""

    window: CropWindow
    recolouring: colour_jitter.Recolouring | None
    """None without jitter."""


class Crop(NamedTuple):
    """One training crop: image uint8 (3, h, w), labels uint8 (h, w), and where it came from."""

    image: Tensor
    labels: Tensor
    window: CropWindow


def _uniform(low: float, high: float) -> float:
    return float(torch.empty(()).uniform_(low, high))


class RandomScaleCrop:
    """Scale 0.5-2, crop, flip and colour jitter (paper's setup) in one resampling.

    Args:
        augment: the recipe's part.
        base: (height, width) that scale 1 means, the size that the deployed network sees.
        rare: where the frames hold their classes, for ``augment.rare_crops``; None: no crop is placed by its classes.
    """

    def __init__(self, augment: Augment, base: tuple[int, int], rare: RarePlaces | None = None) -> None:
        self.augment, self.base, self.rare = augment, base, rare

    def draw(
        self, height: int, width: int, index: int | None = None, size: tuple[int, int] | None = None
    ) -> CropWindow:
        """Draw a window of a source frame of the given size. Where it is larger than the frame, the frame lies inside
        at random.

        Args:
            index: of the frame, by which a window on one of its rare classes is found.
            size: (height, width) of the crop; default: ``augment.crop``.
        """
        crop = size or self.augment.crop
        scale = _uniform(*self.augment.scale)
        h = max(1, round(crop[0] / scale * height / self.base[0]))
        w = max(1, round(crop[1] / scale * width / self.base[1]))
        if (pixel := self._rare_pixel(index)) is None:
            top = round(_uniform(min(0, height - h), max(0, height - h)))
            left = round(_uniform(min(0, width - w), max(0, width - w)))
        else:
            y, x = divmod(pixel, width)
            top, left = _showing(y, h, height, crop[0]), _showing(x, w, width, crop[1])
        return CropWindow(top, left, h, w, _uniform(0, 1) < self.augment.flip)

    def _rare_pixel(self, index: int | None) -> int | None:
        """A pixel that the crop is to show, in the flat frame; None for a crop that lies anywhere."""
        if self.rare is None or index is None or _uniform(0, 1) >= self.augment.rare_crops:
            return None
        return self.rare.draw(index, _uniform(0, 1), _uniform(0, 1))

    def draw_all(self, height: int, width: int, index: int | None = None, size: tuple[int, int] | None = None) -> Drawn:
        """Draw all of a crop of a source frame of the given size; arguments as ``draw``."""
        window = self.draw(height, width, index, size)
        return Drawn(window, colour_jitter.draw(self.augment.jitter) if self.augment.jitter else None)

    def __call__(
        self, image: Tensor, labels: Tensor, index: int | None = None, size: tuple[int, int] | None = None
    ) -> Crop:
        """image uint8 (3, H, W), labels uint8 (H, W) of the same size -> a crop of ``size``, default ``augment.crop``."""
        size = size or self.augment.crop
        window, recolouring = self.draw_all(labels.shape[0], labels.shape[1], index, size)
        crop = F.resize(cut(image, window, fill=FILL), list(size), v2.InterpolationMode.BILINEAR, antialias=True)
        rows, columns = (centres(given, wanted) for given, wanted in zip(window[2:4], size, strict=True))
        mask = cut(labels[None], window, fill=IGNORE)[0].index_select(0, rows).index_select(1, columns)
        if window.flip:
            crop, mask = crop.flip(-1), mask.flip(-1)
        crop = crop.contiguous()
        if recolouring is not None:
            crop = colour_jitter.apply(crop, recolouring)
        return Crop(crop, mask.contiguous(), window)


def _showing(pixel: int, length: int, whole: int, wanted: int) -> int:
    """First pixel of a window of ``length``, at random, along one axis of ``whole`` pixels, whose crop of ``wanted``
    shows a pixel; where a crop skips pixels and none shows it, of one that holds it.
    """
    least, most = min(0, whole - length), max(0, whole - length)
    firsts = pixel - centres(length, wanted)
    firsts = firsts[(firsts >= least) & (firsts <= most)]
    if len(firsts):
        return int(firsts[min(int(_uniform(0, len(firsts))), len(firsts) - 1)])
    return round(_uniform(max(least, pixel - length + 1), min(most, pixel)))


FILL = 128
"""Of a picture beyond its frame."""


def centres(given: int, wanted: int) -> Tensor:
    """Index (wanted,) of the pixel, of ``given`` in a row, at the centre of each of ``wanted`` cells: labels don't
    slide against the picture.
    """
    return (2 * torch.arange(wanted) + 1) * given // (2 * wanted)


def cut(picture: Tensor, window: CropWindow, fill: int) -> Tensor:
    """The window of a (C, H, W) picture, unmirrored and unscaled; beyond the frame it is ``fill``."""
    return (
        F.crop(picture, window.top, window.left, window.height, window.width)
        if _inside(picture, window)
        else _padded(picture, window, fill)
    )


def _inside(picture: Tensor, window: CropWindow) -> bool:
    height, width = picture.shape[-2:]
    return (
        window.top >= 0
        and window.left >= 0
        and window.top + window.height <= height
        and window.left + window.width <= width
    )


def _padded(picture: Tensor, window: CropWindow, fill: int) -> Tensor:
    height, width = picture.shape[-2:]
    out = picture.new_full((*picture.shape[:-2], window.height, window.width), fill)
    y0, y1 = max(0, window.top), min(height, window.top + window.height)
    x0, x1 = max(0, window.left), min(width, window.left + window.width)
    out[..., y0 - window.top : y1 - window.top, x0 - window.left : x1 - window.left] = picture[..., y0:y1, x0:x1]
    return out


def cut_logits(logits: Tensor, windows: Tensor, frame: tuple[float, float] | Tensor, size: tuple[int, int]) -> Tensor:
    """The windows of whole-frame logits, sampled bilinearly at the crops' own pixels.

    Args:
        logits: (N, C, h, w) over the whole frame, at any resolution, half-pixel aligned with it.
        windows: (N, 5): top, left, height, width, flip in pixels of the frame.
        frame: (height, width) of the source frame; of several (N, 2), or (1, 2) where all have one.
        size: (height, width) of the crops.

    Returns:
        float32 (N, C, *size); beyond the frame the nearest border value (those pixels are void in the labels).
    """
    top, left, height, width, flip = windows.to(logits.device, torch.float32).unbind(1)  # each (N,)
    ys = (torch.arange(size[0], device=logits.device) + 0.5) / size[0]  # (h,) in (0, 1) of the window
    xs = (torch.arange(size[1], device=logits.device) + 0.5) / size[1]
    tall, wide = frame if isinstance(frame, tuple) else frame[:, :, None].unbind(1)  # numbers, or (N, 1) each
    y = (top[:, None] + ys * height[:, None]) / tall * 2 - 1  # (N, h) in [-1, 1] of the frame
    across = torch.where(flip[:, None] > 0, 1 - xs, xs)  # (N, w)
    x = (left[:, None] + across * width[:, None]) / wide * 2 - 1
    # (N, h, w, 2).
    grid = torch.stack((x[:, None, :].expand(-1, size[0], -1), y[:, :, None].expand(-1, -1, size[1])), -1)
    return torch.nn.functional.grid_sample(
        logits.float(), grid, mode="bilinear", padding_mode="border", align_corners=False
    )
