"""Layers that look at a whole batch where several processes hold a part of it each: BatchNorm's statistics, dropout's
random numbers.
"""

from __future__ import annotations

from typing import Any

import torch
from timm.layers import convert_sync_batchnorm
from torch import Tensor, distributed, nn
from torch.autograd.function import once_differentiable

from rdd_deploy.losses.processes import everywhere, gathered, of_each, rank, several


def synchronised(module: nn.Module, device: torch.device) -> None:
    """Make the BatchNorms inside ``module`` normalise by the batch of all processes, in place.

    On a GPU by timm's conversion: torch's own puts a bare norm in place of one that has its activation inside. On a CPU
    torch has none.
    """
    if device.type != "cpu":
        convert_sync_batchnorm(module)
        return
    for one in module.modules():
        if isinstance(one, nn.modules.batchnorm._BatchNorm):
            one.__class__ = _SyncBatchNorm


class _SyncBatchNorm(nn.modules.batchnorm._BatchNorm):
    """BatchNorm, and the activation that timm's has behind it, over the batch of all processes on CPUs."""

    of_all_processes = True

    def _check_input_dim(self, input: Tensor) -> None:
        """Any number of dimensions from 2 on will do."""

    def forward(self, x: Tensor) -> Tensor:
        y = self._synchronised(x) if self.training and several() else super().forward(x)
        for layer in (getattr(self, "drop", None), getattr(self, "act", None)):
            y = y if layer is None else layer(y)
        return y

    def _synchronised(self, x: Tensor) -> Tensor:
        y, mean, variance, count = _Normalised.apply(x, self.eps)  # type: ignore[no-untyped-call]
        self._follow(mean, variance * (count / (count - 1)))
        if self.affine:
            each = (1, -1, *(1 for _ in x.shape[2:]))
            y = y * self.weight.view(each) + self.bias.view(each)
        return y.to(x.dtype)  # type: ignore[no-any-return]

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor) -> None:
        """Let the running statistics follow the batch's."""
        if not self.track_running_stats:
            return
        assert self.num_batches_tracked is not None
        assert self.running_mean is not None
        assert self.running_var is not None
        self.num_batches_tracked.add_(1)
        weight = 1.0 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), weight)
        self.running_var.lerp_(variance.to(self.running_var.dtype), weight)


class _Normalised(torch.autograd.Function):
    """(x − mean) / deviation over all processes' (N, C, …), float32; beside it mean and biased variance (C,), float64,
    and their count.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor, float]:
        axes = [axis for axis in range(x.ndim) if axis != 1]
        values, each = x.float(), (1, -1, *(1 for _ in x.shape[2:]))
        number = values.new_tensor(x.numel() // x.shape[1], dtype=torch.float64).expand(x.shape[1])
        own = values.new_zeros((2, x.shape[1]), dtype=torch.float64)
        if x.numel():  # a process may have no valid pixel for a memory bank
            variance, mean = torch.var_mean(values.double(), axes, correction=0)
            own = torch.stack((mean, variance))
        counts, means, variances = of_each(torch.stack((number, *own))).unbind(1)  # each (processes, C)
        total = counts.sum(0)
        if total[0] == 1:
            # Torch's own words.
            raise ValueError(f"Expected more than 1 value per channel when training, got input size {x.shape}")
        mean = (counts * means).sum(0) / total
        variance = (counts * (variances + (means - mean).square())).sum(0) / total
        scale = (variance + eps).rsqrt()
        y = (values - mean.float().view(each)) * scale.float().view(each)
        ctx.save_for_backward(y, scale.float())
        ctx.total, ctx.axes, ctx.each, ctx.dtype = float(total[0]), axes, each, x.dtype
        ctx.mark_non_differentiable(mean, variance)
        return y, mean, variance, ctx.total

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: Tensor, *_: Any) -> tuple[Tensor, None]:
        y, scale = ctx.saved_tensors
        gradient = gradient.float()
        sums = (
            everywhere(torch.stack((gradient.double().sum(ctx.axes), (gradient * y).double().sum(ctx.axes))))
            / ctx.total
        )
        of_mean, of_deviation = (one.float().view(ctx.each) for one in sums)
        return ((gradient - of_mean - y * of_deviation) * scale.view(ctx.each)).to(ctx.dtype), None


def one_dropout(module: nn.Module) -> None:
    """Make the dropouts inside ``module`` draw for the batch of all processes and take their own part of it, in place.

    The generators of all processes stay alike, and so do those of a run with another number of processes.
    """
    place = _Place()
    for parent in [*module.modules()]:
        for name, child in parent.named_children():
            if isinstance(child, (nn.Dropout, nn.Dropout2d)) and 0 < child.p < 1:
                setattr(parent, name, _Dropout(child.p, isinstance(child, nn.Dropout2d), place))


class _Place:
    """Where this process's images are in the batch of all: asked once, for every batch of a training has
    the same size.
    """

    def __init__(self) -> None:
        self._known: dict[int, tuple[int, int]] = {}

    def of(self, images: int) -> tuple[int, int]:
        """(first image, images of all processes) where this one has ``images``."""
        if not several():
            return 0, images
        if images not in self._known:
            counts = gathered(torch.tensor([images], device=_device_of_group())).tolist()
            self._known[images] = sum(counts[: rank()]), sum(counts)
        return self._known[images]


def _device_of_group() -> str:
    return "cuda" if distributed.get_backend() == "nccl" else "cpu"


class _Dropout(nn.Module):
    """``nn.Dropout`` or, of whole ``maps``, ``nn.Dropout2d``: the same numbers from the same generator, drawn for all
    processes' images.
    """

    def __init__(self, p: float, maps: bool, place: _Place) -> None:
        super().__init__()
        self.p, self.maps, self._place = p, maps, place

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        first, total = self._place.of(len(x))
        channels, *size = x.shape[1:]
        # In the order of a channels-last map, whatever x's own: that of a single image can't be told.
        noise = x.new_empty((total, *((1 for _ in size) if self.maps else size), channels)).movedim(-1, 1)
        return x * noise.bernoulli_(1 - self.p).div_(1 - self.p)[first : first + len(x)]
