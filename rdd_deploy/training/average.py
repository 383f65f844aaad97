"""Moving average of a network's weights, the network that is measured and saved where a recipe asks for it."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn


class MovingAverage:
    """Exponential average of all parameters and floating-point buffers; the first update copies them, and counters stay
    as they were then.

    As torch's AveragedModel, whose state it has, but for its counter, which is a number of the host's: asking a GPU for
    it at each step would make the host wait.

    Attributes:
        module: the averaged network. count: updates so far.

    Args:
        network: where it will stay; its tensors must not be exchanged for others later. decay: in (0, 1).
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.module, self.decay, self.count = deepcopy(network), decay, 0
        self._averages, self._current = (list(_tensors(one)) for one in (self.module, network))

    @torch.no_grad()
    def update(self) -> None:
        """Take in the network as it is now."""
        if self.count == 0:
            for average, now in zip(self._averages, self._current, strict=True):
                average.copy_(now)
        else:
            # Early on the average follows quickly, or it would carry the random start for a thousand steps.
            weight = 1 - min(self.decay, (1 + self.count) / (10 + self.count))
            pairs = [pair for pair in zip(self._averages, self._current, strict=True) if pair[0].is_floating_point()]
            torch._foreach_lerp_([average for average, _ in pairs], [now for _, now in pairs], weight)
        self.count += 1

    def state_dict(self) -> dict[str, Tensor]:
        return {"n_averaged": torch.tensor(self.count)} | {
            f"module.{name}": value for name, value in self.module.state_dict().items()
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.module.load_state_dict(
            {name.removeprefix("module."): value for name, value in state.items() if name != "n_averaged"}
        )
        self.count = int(state["n_averaged"])


def _tensors(network: nn.Module) -> list[Tensor]:
    return [one.detach() for one in (*network.parameters(), *network.buffers())]
