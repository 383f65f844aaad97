"""``train.deterministic``: on a GPU, too, the same run twice is the same to the bit; what torch has no such backward
for is put otherwise.
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from rdd_deploy.errors import RecipeError


def set_deterministic(wanted: bool) -> None:
    """Make torch take deterministic algorithms alone, or whichever are fastest; before anything is
    computed on a GPU.
    """
    if wanted:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS begins
        torch.backends.cudnn.benchmark = False  # it may choose another algorithm each time
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # of use for finding bugs alone, at the cost of time
    if torch.are_deterministic_algorithms_enabled() != wanted:
        torch.use_deterministic_algorithms(wanted)


def deterministic_layers(wanted: bool = True) -> AbstractContextManager[Any]:
    """In the block bilinear resizing and adaptive mean pooling, whoever asks for them, are two small matrix products
    each.
    """
    return _Products() if wanted else nullcontext()


def not_deterministic(error: RuntimeError) -> RecipeError | None:
    """What torch says of an operation that isn't deterministic, as a sentence; None for another error."""
    first = str(error).partition("\n")[0]
    if "does not have a deterministic implementation" not in first:
        return None
    return RecipeError(
        f"train.deterministic is true, and {first.partition(' does not have')[0]} has no deterministic form; set it to"
        " false, or choose another encoder or head"
    )


class _Products(TorchFunctionMode):
    """torch's backward of both adds up in an order that no one knows; that of a product is one, and the values are the
    same to rounding.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.interpolate and _is_bilinear(*args, **kwargs):
            return _resized(*args, **kwargs)
        if func is F.adaptive_avg_pool2d and _has_gradient(*args, **kwargs):
            return _pooled(*args, **kwargs)
        return func(*args, **kwargs)


def _has_gradient(input: Any, *_: Any, **__: Any) -> bool:
    return isinstance(input, Tensor) and input.ndim == 4 and input.requires_grad and torch.is_grad_enabled()


def _is_bilinear(
    input: Any, size: Any = None, scale_factor: Any = None, mode: str = "nearest", align_corners: Any = None,
    recompute_scale_factor: Any = None, antialias: bool = False,
) -> bool:  # fmt: skip
    return mode == "bilinear" and not antialias and _has_gradient(input)


def _resized(
    input: Tensor, size: Any = None, scale_factor: Any = None, mode: str = "bilinear", align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None, antialias: bool = False,
) -> Tensor:  # fmt: skip
    given = input.shape[-2:]
    factors = _pair(scale_factor) if size is None else (None, None)
    wanted = (
        _pair(size)
        if size is not None
        else [math.floor(side * factor) for side, factor in zip(given, factors, strict=True)]
    )
    if recompute_scale_factor:
        factors = (None, None)
    rows, columns = (
        bilinear_weights(side, int(aim), bool(align_corners), factor, input.device)
        for side, aim, factor in zip(given, wanted, factors, strict=True)
    )
    return _product(rows, input, columns)


def _pooled(input: Tensor, output_size: Any) -> Tensor:
    wanted = [side if aim is None else aim for side, aim in zip(input.shape[-2:], _pair(output_size), strict=True)]
    if tuple(wanted) == (1, 1):
        return input.mean((-2, -1), keepdim=True)
    rows, columns = (
        pooling_weights(side, int(aim), input.device) for side, aim in zip(input.shape[-2:], wanted, strict=True)
    )
    return _product(rows, input, columns)


def _pair(value: Any) -> Any:
    return value if isinstance(value, (tuple, list, torch.Size)) else (value, value)


def _product(rows: Tensor, x: Tensor, columns: Tensor) -> Tensor:
    """rows (H, h) · x (N, C, h, w) · columnsᵀ (w, W) in float32, the result in x's own type."""
    with torch.autocast(x.device.type, enabled=False):
        return (rows @ (x.float() @ columns.T)).to(x.dtype)


@functools.lru_cache(maxsize=256)
def bilinear_weights(
    given: int, wanted: int, align_corners: bool, factor: float | None, device: torch.device
) -> Tensor:
    """float32 (wanted, given): what each of ``wanted`` places in a row takes of ``given`` ones, as ``F.interpolate``
    has it.

    Args:
        factor: scale that was asked for in place of a size.
    """
    with torch.inference_mode(False), torch.no_grad():
        place = torch.arange(wanted, dtype=torch.float32)
        if align_corners:
            at = place * torch.tensor((given - 1) / (wanted - 1) if wanted > 1 else 0.0)
        else:
            at = (torch.tensor(given / wanted if factor is None else 1 / factor) * (place + 0.5) - 0.5).clamp(min=0)
        first = at.floor().long().clamp(max=given - 1)
        second = (first + 1).clamp(max=given - 1)
        share = at - first
        weights = torch.zeros(wanted, given)
        index = torch.arange(wanted)
        weights[index, first] = 1 - share
        weights[index, second] += share
        return weights.to(device)


@functools.lru_cache(maxsize=256)
def pooling_weights(given: int, wanted: int, device: torch.device) -> Tensor:
    """float32 (wanted, given): the means of ``F.adaptive_avg_pool2d`` along one side."""
    with torch.inference_mode(False), torch.no_grad():
        weights = torch.zeros(wanted, given)
        for i in range(wanted):
            begin, end = i * given // wanted, -(-(i + 1) * given // wanted)
            weights[i, begin:end] = 1 / (end - begin)
        return weights.to(device)
