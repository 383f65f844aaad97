"""Layers that look at a whole batch where several processes hold a part of it each: BatchNorm's statistics, dropout's
random numbers.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from rdd_deploy.losses.processes import BatchParts, everywhere, of_each, rank, several


def synchronised(module: nn.Module) -> None:
    """Make the BatchNorms inside ``module`` normalise by the batch of all processes, in place.

    Their activation, which timm's have inside, stays; torch's own conversion loses it. Torch's norm, and timm's, also
    makes the host wait for the GPU at each layer, and neither exists on a CPU.
    """
    for one in module.modules():
        if isinstance(one, nn.modules.batchnorm._BatchNorm):
            one.__class__ = _SyncBatchNorm


class _SyncBatchNorm(nn.modules.batchnorm._BatchNorm):
    """BatchNorm, and the activation that timm's has behind it, over the batch of all processes."""

    def _check_input_dim(self, input: Tensor) -> None:
        """Any number of dimensions from 2 on will do."""

    def forward(self, x: Tensor) -> Tensor:
        y = self._synchronised(x) if self.training and several() else super().forward(x)
        for layer in (getattr(self, "drop", None), getattr(self, "act", None)):
            y = y if layer is None else layer(y)
        return y

    def _synchronised(self, x: Tensor) -> Tensor:
        y, mean, variance, count = _Normalised.apply(x, self.weight, self.bias, self.eps)  # type: ignore[no-untyped-call]
        self._follow(mean, variance * (count / (count - 1)))
        return y  # type: ignore[no-any-return]

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor) -> None:
        """Let the running statistics follow the batch's."""
        if not self.track_running_stats:
            return
        assert self.num_batches_tracked is not None
        assert self.running_mean is not None
        assert self.running_var is not None
        self.num_batches_tracked.add_(1)
        weight = 1.0 / self.num_batches_tracked if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), weight)
        self.running_var.lerp_(variance.to(self.running_var.dtype), weight)


class _Normalised(torch.autograd.Function):
    """BatchNorm by all processes' (N, C, …); beside it mean and biased variance (C,), float64, and their count.

    Forward and backward are torch's of a norm whose mean and variance are given, which say all that the exchange needs.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        number, channels = x.numel() // x.shape[1], x.shape[1]
        own = x.new_zeros((2, channels), dtype=torch.float64)
        if number:  # a process may have none
            values = x if x.is_cuda else x.float()  # on a CPU torch rounds the statistics to the values' type
            _, mean, deviation = torch.native_batch_norm(values, None, None, None, None, True, 0.0, eps)
            own = torch.stack((mean.double(), deviation.double().pow(-2) - eps))
        sizes = own.new_full((1, channels), number)
        counts, means, variances = of_each(torch.cat((sizes, own))).unbind(1)  # each (processes, C)
        total = counts.sum(0)
        if number <= 1 and total[0] == 1:  # with more of its own a process needn't read it
            # Torch's own words.
            raise ValueError(f"Expected more than 1 value per channel when training, got input size {x.shape}")
        mean = (counts * means).sum(0) / total
        variance = (counts * (variances + (means - mean).square())).sum(0) / total
        ctx.save_for_backward(x, weight, mean.float(), variance.float(), total)
        ctx.eps = eps
        ctx.mark_non_differentiable(mean, variance, total)
        return F.batch_norm(x, mean.float(), variance.float(), weight, bias, False, 0.0, eps), mean, variance, total

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        x, weight, mean, variance, total = ctx.saved_tensors
        of_x, of_weight, of_bias = torch.ops.aten.native_batch_norm_backward(
            gradient, x, weight, mean, variance, None, None, False, ctx.eps, [True, True, True]
        )
        # What mean and deviation, which depend on x, take away again: (mean of g + x̂ · mean of (g · x̂)) · w / deviation.
        of_mean, of_deviation = everywhere(torch.stack((of_bias, of_weight)).double()) / total
        scale = (variance + ctx.eps).rsqrt() * (1 if weight is None else weight.float())
        of_x -= F.batch_norm(
            x, mean, variance, scale * of_deviation.float(), scale * of_mean.float(), False, 0.0, ctx.eps
        )
        return of_x, None if weight is None else of_weight, None if weight is None else of_bias, None


def one_dropout(module: nn.Module) -> None:
    """Make the dropouts inside ``module`` draw for the batch of all processes and take their own part of it, in place.

    The generators of all processes stay alike, and so do those of a run with another number of processes.
    """
    parts = BatchParts()
    for parent in [*module.modules()]:
        for name, child in parent.named_children():
            if isinstance(child, (nn.Dropout, nn.Dropout2d)) and 0 < child.p < 1:
                setattr(parent, name, _Dropout(child.p, isinstance(child, nn.Dropout2d), parts))


class _Dropout(nn.Module):
    """``nn.Dropout`` or, of whole ``maps``, ``nn.Dropout2d``: the same numbers from the same generator, drawn for all
    processes' images.
    """

    def __init__(self, p: float, maps: bool, parts: BatchParts) -> None:
        super().__init__()
        self.p, self.maps, self._parts = p, maps, parts

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        parts = self._parts.of(len(x)) or (len(x),)
        first, total = sum(parts[: rank()]), sum(parts)
        channels, *size = x.shape[1:]
        # In the order of a channels-last map, whatever x's own: that of a single image can't be told.
        noise = x.new_empty((total, *((1 for _ in size) if self.maps else size), channels)).movedim(-1, 1)
        return x * noise.bernoulli_(1 - self.p).div_(1 - self.p)[first : first + len(x)]
