"""Small tensors on their way from a device to the host: read once they have arrived, so that nobody waits for the
device meanwhile.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class Readback:
    """A copy of a tensor that isn't changed afterwards, begun behind what the device has to do already.

    Args:
        values: any shape; of a CPU it is there at once, of a GPU it goes through pinned memory.
    """

    def __init__(self, values: Tensor) -> None:
        # To a GPU's queue it is one more copy; other accelerators have no event that tells when theirs is done.
        self._host = values.detach().to("cpu", non_blocking=values.is_cuda)
        self._arrived = torch.cuda.current_stream(values.device).record_event() if values.is_cuda else None

    @property
    def ready(self) -> bool:
        """Whether reading it waits for nothing."""
        return self._arrived is None or self._arrived.query()

    def read(self) -> Any:
        """Its numbers, as ``Tensor.tolist``; waits where it isn't ready."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._host.tolist()
