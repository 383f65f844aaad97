"""Whether a training is still among the finite numbers: each step's loss and gradient, and the weights before they are
used or saved.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable

import torch
from torch import Tensor, nn

from rdd_deploy.data.base import Split
from rdd_deploy.errors import DivergedError
from rdd_deploy.training.readback import Readback

AT_MOST = 8
"""Steps whose numbers may be on their way; the host doesn't go further ahead of a GPU than that."""


class FiniteCheck:
    """Looks at what each step said of itself when that has reached the host, a few steps later on a GPU.

    Args:
        split: whose names a sentence gives. kept: what the sentence ends with, when it is written.
    """

    def __init__(self, split: Split, kept: Callable[[], str]) -> None:
        self.split, self.kept = split, kept
        self._pending: deque[tuple[Readback, Tensor]] = deque()

    def add(self, signs: Tensor, indices: Tensor) -> None:
        """A step's loss (and gradient's norm), (1,) or (2,), and its samples' indices (N,).

        Raises:
            DivergedError: this step's or an earlier one's aren't finite; names that step's samples.
        """
        self._pending.append((Readback(signs), indices))
        while self._pending and (self._pending[0][0].ready or len(self._pending) > AT_MOST):
            self._look()

    def flush(self) -> None:
        """Look at all steps so far, waiting for them: before anything is measured or saved. Raises DivergedError."""
        while self._pending:
            self._look()

    def _look(self) -> None:
        arriving, indices = self._pending.popleft()
        signs = arriving.read()
        if all(map(math.isfinite, signs)):
            return
        names = [self.split.names[int(i)] for i in indices.cpu()]
        what = f"the gradient's norm is {signs[1]}" if math.isfinite(signs[0]) else f"the loss is {signs[0]}"
        raise DivergedError(
            f"{what} on the batch of {', '.join(names)}; lower train.lr, lengthen train.warmup, or set"
            f" train.precision=32-true{self.kept()}"
        )


def check_weights(module: nn.Module, kept: str) -> None:
    """Raise DivergedError where the last step left weights that aren't finite; its loss, computed before it, can't
    tell.
    """
    named = dict(module.named_parameters())
    if not named:
        return
    # Read at once: a GPU is waited for once.
    finite = torch.stack([value.detach().isfinite().all() for value in named.values()])
    if broken := [name for name, fine in zip(named, finite.tolist(), strict=True) if not fine]:
        raise DivergedError(
            f"the weights are no longer finite (e.g. {broken[0]}); lower train.lr or lengthen train.warmup{kept}"
        )
