"""Decoded frames in a device's memory: a loader then hands over what is random in a crop, and the crops are cut where
they are used.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from rdd_deploy import console
from rdd_deploy.data.batch_crops import cropped, recoloured
from rdd_deploy.data.loader import Batch, BatchBeside, Draws, FrameCache
from rdd_deploy.data.transforms import RandomScaleCrop
from rdd_deploy.errors import DeviceError

Where = Literal["auto", "cpu", "gpu"]
SHARE = 3
"""Data may take the SHARE-th part of a device's memory; the rest is the training's."""
SMALLEST = 32
"""Pixels of the shortest side that a crop may have."""
LOOKED_AT = 16
"""Frames by which it is estimated what all take."""


def room_on(device: torch.device, where: Where) -> float:
    """Bytes that data may yet take of a device's memory: a third of it less what lies there already, all that is free
    for ``gpu``, else none.

    Raises:
        DeviceError: ``gpu`` where the training isn't on one.
    """
    if where == "gpu" and device.type != "cuda":
        raise DeviceError(
            f"data.device is gpu, but the training runs on {device.type}; set data.device=auto, or train.device=cuda"
        )
    if where == "cpu" or device.type != "cuda":
        return 0.0
    free, total = torch.cuda.mem_get_info(device)
    return float(free) if where == "gpu" else total / SHARE - torch.cuda.memory_allocated(device)


class ResidentFrames:
    """All frames and labels of a training on a device, in one piece each.

    Frames of one size are picked whole; of other sizes their pixels are, into frames that are padded to the largest.
    """

    def __init__(self, frames: FrameCache, transform: RandomScaleCrop, device: torch.device) -> None:
        self.transform = transform
        sizes, images, labels = [], [], []
        with console.progress("frames to the GPU", len(frames)) as bar:
            for index in range(len(frames)):
                image, mask = frames[index]
                sizes.append(tuple(mask.shape))
                images.append(image.to(device).flatten())
                labels.append(mask.to(device).flatten())
                bar.advance()
        self.sizes = np.array(sizes)
        self.alike = len(set(sizes)) == 1
        self.padded = (int(self.sizes[:, 0].max()), int(self.sizes[:, 1].max()))
        self._sizes = torch.from_numpy(self.sizes).to(device)
        areas = torch.from_numpy(self.sizes.prod(1))
        self._starts = (areas.cumsum(0) - areas).to(device)
        self._images, self._labels = torch.cat(images), torch.cat(labels)
        if self.alike:
            self._images = self._images.view(-1, 3, *self.padded)
            self._labels = self._labels.view(-1, *self.padded)
        base, least = transform.base, transform.augment.scale[0]
        # A window's length is rounded, which counts most in the smallest crop.
        self.most = max(math.ceil(whole / least / base[axis]) + 1 / SMALLEST for axis, whole in enumerate(self.padded))

    @property
    def nbytes(self) -> int:
        return self._images.nbytes + self._labels.nbytes

    def batches(self, loading: Iterable[Draws]) -> Iterator[Any]:
        """The crops of each batch of draws."""
        return map(self.batch, loading)

    def batch(self, draws: Draws) -> Batch | BatchBeside:
        """The crops that were drawn; ``draws`` on the frames' device."""
        images, labels = self._picked(draws.indices)
        size = (draws.size[0], draws.size[1]) if draws.size else self.transform.augment.crop
        crops, masks = cropped(images, labels, self._sizes[draws.indices], draws.windows, size, self.most)
        if draws.recolourings.numel():
            crops = recoloured(crops, draws.recolourings)
        if draws.beside:
            return BatchBeside(crops, masks, draws.windows, draws.indices, draws.beside)
        return Batch(crops, masks, draws.windows, draws.indices)

    def _picked(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Frames uint8 (N, 3, H, W) and labels uint8 (N, H, W)."""
        if self.alike:
            return self._images.index_select(0, indices), self._labels.index_select(0, indices)
        tall, wide = self._sizes[indices].unbind(1)  # (N,)
        y, x = (torch.arange(side, device=indices.device) for side in self.padded)
        # Beyond a frame its last pixel, which has no weight.
        y, x = (
            torch.minimum(y, tall[:, None] - 1),
            torch.minimum(x, wide[:, None] - 1),
        )
        # (N, H, W), (N, 1, 1).
        inside, start = (
            y[:, :, None] * wide[:, None, None] + x[:, None],
            self._starts[indices][:, None, None],
        )
        planes = [self._images[3 * start + plane * (tall * wide)[:, None, None] + inside] for plane in range(3)]
        return torch.stack(planes, 1), self._labels[start + inside]


def resident_frames(
    frames: FrameCache, transform: RandomScaleCrop, device: torch.device, where: Where
) -> ResidentFrames | None:
    """The frames on a device, where ``data.device`` wants them there and they fit; else None.

    Raises:
        DeviceError: ``gpu`` where there is none, or not enough of its memory is free.
    """
    room = room_on(device, where)
    if room <= 0:
        return None
    looked_at = sorted(set(np.linspace(0, len(frames) - 1, LOOKED_AT).round().astype(int).tolist()))
    estimated = len(frames) * sum(part.nbytes for index in looked_at for part in frames[index]) / len(looked_at)
    if 2 * estimated > room if where == "gpu" else estimated > room:  # twice: they are copied one by one, then joined
        if where == "gpu":
            raise DeviceError(
                f"data.device is gpu, but the {len(frames)} frames take about {estimated / 1e9:.1f} GB, while they are"
                f" joined twice that, and {room / 1e9:.1f} GB of the GPU's memory are free; set data.device=auto"
            )
        return None
    resident = ResidentFrames(frames, transform, device)
    console.info(f"frames: held on the GPU, {resident.nbytes / 1e9:.1f} GB; crops are cut there")
    return resident
