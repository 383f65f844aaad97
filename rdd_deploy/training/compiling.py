"""What makes steps of thousands of small kernels faster on a GPU: torch.compile with CUDA graphs, and cuDNN's choice by
trial.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning_fabric import Fabric

from rdd_deploy.errors import RddError
from rdd_deploy.recipe_train import Train

PAYS_FROM = 20_000
"""Steps from which ``auto`` compiles: the compiler takes a minute or two, and saves milliseconds a step."""

HOW = frozenset({"fused", "foreach"})
"""Options of an optimizer that say by which kernels it computes, not what."""


class CompilerError(RddError):
    """torch.compile can't make a step of this network here."""


def is_compiled(train: Train, fabric: Fabric, steps: int) -> bool:
    """What ``train.compile`` means for a run of so many steps: ``auto`` compiles long runs of one process on a GPU that
    Triton knows, unless they are to be deterministic.
    """
    if train.compile != "auto":
        return train.compile
    if fabric.device.type != "cuda" or fabric.world_size > 1 or steps < PAYS_FROM or train.deterministic:
        return False
    from torch.utils._triton import has_triton

    return bool(has_triton())


def compiled(function: Callable[..., Any], device: torch.device) -> Callable[..., Any]:
    """The function compiled for each shape that crops have; on a GPU its kernels become CUDA graphs, which cost
    one launch.
    """
    options: dict[str, Any] = {"mode": "reduce-overhead", "dynamic": False} if device.type == "cuda" else {}
    return torch.compile(function, **options)  # type: ignore[no-any-return]


@contextmanager
def compiler_errors() -> Iterator[None]:
    """Raise CompilerError where the compiler fails in the block."""
    import torch._dynamo.exc

    try:
        yield
    except torch._dynamo.exc.TorchDynamoException as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise CompilerError(
            f"train.compile: torch's compiler failed ({first:.200}); set train.compile=false"
        ) from error


def choose_kernels(fabric: Fabric) -> None:
    """Let cuDNN try its kernels at the first step of each shape, unless the run is to be deterministic: crops have few
    shapes.
    """
    if fabric.device.type == "cuda":
        fixed = torch.are_deterministic_algorithms_enabled() or torch.backends.cudnn.deterministic
        torch.backends.cudnn.benchmark = not fixed
