"""A run's states, written in the background: training goes on while a consistent copy of what it had reached becomes a
file.
"""

from __future__ import annotations

import io
import threading
import time
from types import TracebackType
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, distributed

from rdd_deploy.errors import DiskError
from rdd_deploy.training.readback import Readback
from rdd_deploy.training.run_folder import RunFolder
from rdd_deploy.utils import files


class StateWriter:
    """Writes the states of a run, one after the other, each whole or not at all.

    An error while writing is raised by whatever is called next; leaving the ``with`` block waits for the file that is
    being written.

    Args:
        minutes: between two states, 0: after each epoch. begun: whether there is a state already. on_gpu: whether
            tensors of states lie there.
    """

    def __init__(self, folder: RunFolder, minutes: float, begun: bool, on_gpu: bool = False) -> None:
        self.folder, self.minutes, self._begun, self.on_gpu = folder, minutes, begun, on_gpu
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._since = time.monotonic()

    def __enter__(self) -> StateWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._join()
        if error is None:
            self.check()

    def due(self, epoch_ends: bool) -> bool:
        """Whether it is time for a state: the minutes are over, or it would be the first one of the run, which shows
        that it can be written.
        """
        if epoch_ends and not (self._begun and self.minutes):
            return True
        return bool(self.minutes) and time.monotonic() - self._since >= 60 * self.minutes

    def write(self, state: dict[str, Any]) -> None:
        """Copy the state, then write it elsewhere; waits only where the one before isn't written yet.
        Raises DiskError.
        """
        self._join()
        self.check()
        self._begun, self._since = True, time.monotonic()
        copied = snapshot(state)
        arrived = torch.cuda.current_stream().record_event() if self.on_gpu else None
        self._thread = threading.Thread(target=self._write, args=(copied, arrived), name="state", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raise what went wrong while writing."""
        if (error := self._error) is not None:
            self._error = None
            raise error

    def wait(self) -> None:
        """Until the state is on the disk. Raises DiskError."""
        self._join()
        self.check()

    def _join(self) -> None:
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _write(self, state: dict[str, Any], arrived: torch.cuda.Event | None) -> None:
        try:
            if arrived is not None:
                arrived.synchronize()
            check_there(self.folder)
            buffer = io.BytesIO()
            torch.save(state, buffer)
            del state
            files.write_bytes(self.folder.state, buffer.getvalue())
        except BaseException as error:  # raised where the run goes on
            self._error = error


def snapshot(value: Any) -> Any:
    """A copy on the host, which nothing changes any more; of a GPU's tensors it arrives behind what the GPU has to do
    already.
    """
    if isinstance(value, Tensor):
        return value.detach().to("cpu", non_blocking=value.is_cuda, copy=True)
    if isinstance(value, dict):
        return {key: snapshot(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(snapshot, value))
    return value


def check_there(folder: RunFolder) -> None:
    """Raise DiskError where the run's folder was taken away: written again, it would lack what was there."""
    if not folder.recipe.is_file():
        raise DiskError(
            f"the run's folder {folder.path} was moved or deleted while it was being trained; put it back and go on"
            " with the same command and --resume, or train again"
        )


AGREE_EVERY = 10
"""Steps between two questions to the other processes what to do; asking at each step would make a GPU wait."""


class Agreement:
    """What all processes do after the same step, though a signal may reach only one of them, and only the first one's
    clock counts.
    """

    def __init__(self, fabric: Fabric) -> None:
        self.fabric = fabric
        self._asked: Readback | None = None

    def __call__(self, wanted: int, step: int, epoch_ends: bool) -> int:
        """The largest number that a process wants, 0 where none does. All call it after each step.

        Inside an epoch GPUs are asked now and answer at the next question, so that no step waits for the answer.
        """
        if self.fabric.world_size == 1:
            return wanted
        if step % AGREE_EVERY and not epoch_ends:
            return 0
        largest = torch.full((), float(wanted), device=self.fabric.device)
        distributed.all_reduce(largest, distributed.ReduceOp.MAX)
        now, before = Readback(largest), self._asked
        if epoch_ends or not largest.is_cuda:
            self._asked = None
            return int(now.read())
        decided = int(before.read()) if before is not None else 0
        self._asked = None if decided else now  # what is done now, this question may have asked for, too
        return decided
