"""What a step says where the GPU's memory is full: the batch that would fit."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeAlias, TypeVar

import torch
from torch import Tensor

from rdd_deploy.data.loader import Batch, BatchBeside
from rdd_deploy.errors import MachineError
from rdd_deploy.losses.processes import alone
from rdd_deploy.training.determinism import deterministic_layers

TrainState: TypeAlias = Any
"""That of ``rdd_deploy.training.state``, which uses this."""
Update = TypeVar("Update", bound=Callable[..., Any])


def says_what_fits(update: Update) -> Update:
    """Around ``TrainState.update``: a full GPU is a MachineError that names the largest batch with which the step went
    through.
    """

    @functools.wraps(update)
    def told(self: TrainState, batch: Batch, progress: float, *more: Any, **options: Any) -> Any:
        try:
            return update(self, batch, progress, *more, **options)
        except torch.OutOfMemoryError as error:
            words = str(error).partition(". ")[0]
        # Outside of it nothing of the step is held any more.
        raise MachineError(_sentence(self, batch, progress, words))

    return told  # type: ignore[return-value]


def _sentence(state: TrainState, batch: Batch, progress: float, words: str) -> str:
    ranks, whole = state.fabric.world_size, len(batch.images)
    height, width = batch.images.shape[-2:]
    what = (
        f"the GPU's memory is full ({words}): a batch of {whole} crop{'s' if whole > 1 else ''} of {height}x{width}"
        f"{' a process' if ranks > 1 else ''} doesn't fit"
    )
    fits = largest(lambda images: _attempt(state, batch, progress, images), whole)
    if not fits:
        return (
            f"{what}{', nor does a single one' if whole > 1 else ''}; make augment.crop smaller, or end what else uses"
            " the GPU"
        )
    return f"{what}, {fits} would: set train.batch={fits * ranks}, make augment.crop smaller, or end what else uses the GPU"


def largest(fits: Callable[[int], bool], most: int) -> int:
    """The largest number below ``most`` that fits, 0 for none; asks about 2 · log2(most) times."""
    low, high = 0, most
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _attempt(state: TrainState, batch: Batch, progress: float, images: int) -> bool:
    """Whether a step with so many images goes through. The training ends here, so nothing has to stay as it was."""
    state.optimizer.zero_grad(set_to_none=True)
    with suppress(RuntimeError):
        torch.cuda.empty_cache()
    parameters = [one for group in state.optimizer.param_groups for one in group["params"]]
    try:
        # What the optimiser keeps is made in the first step only.
        held = [] if state.optimizer.state else [torch.empty_like(one) for one in parameters for _ in range(2)]
        with deterministic_layers(state.config.deterministic):
            _pull(state, _part(batch, images), progress)
        del held
    except torch.OutOfMemoryError:
        return False
    except ValueError:  # a single value per channel for BatchNorm
        return False
    return True


def _pull(state: TrainState, batch: Batch, progress: float) -> None:
    """Forward and backward, of this process alone: the others may not be full, and wait for it at another place."""
    if state.fabric.world_size == 1:
        loss, _ = state.model(batch, progress)
        state.fabric.backward(loss.total)
        return
    step = state._step
    step.plain()
    # Copies, for the gradients of the weights themselves are sent to the others.
    weights = {name: one.detach().clone().requires_grad_(one.requires_grad) for name, one in step.named_parameters()}
    with alone():
        with state.fabric.autocast():
            loss, _ = torch.func.functional_call(step, weights, (batch, progress))
        loss.total.backward()


def _part(batch: Batch, images: int) -> Batch:
    """The first images of a batch, and of what was read beside it."""
    whole = len(batch.images)

    def cut(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value[:images] if value.ndim and len(value) == whole else value
        return {name: cut(one) for name, one in value.items()} if isinstance(value, dict) else value

    part = type(batch)(*map(cut, batch))
    # What was copied may come from the images that are left out, and takes next to no memory.
    return part._replace(pasted=None) if isinstance(part, BatchBeside) else part
