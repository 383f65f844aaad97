"""Which of several processes this one is, from the variables of what started them. No torch here.

The launchers are those that Fabric knows, asked in Fabric's order, so that the first process here is the first one
there.
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import NamedTuple

from rdd_deploy.errors import DeviceError

KNOWN = "torchrun, srun (SLURM), jsrun (LSF) or mpirun with the package mpi4py"


class Launched(NamedTuple):
    """What started this process, which one it is, and of how many; ``together`` where they are sure to
    train together.
    """

    launcher: str
    rank: int
    size: int
    together: bool = False


_MPI = (
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("PMI_RANK", "PMI_SIZE"),
    ("MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE"),
)
_OTHERS = (*_MPI, ("HOROVOD_RANK", "HOROVOD_SIZE"), ("PALS_RANKID", "PALS_SIZE"), ("FLUX_TASK_RANK", "FLUX_JOB_SIZE"))
"""Variables of launchers that Fabric doesn't know, or only with mpi4py: rank and number of processes."""

_together = False
"""Whether ``check`` found that the cluster's processes train one network; else each of them works alone."""


def _number(name: str, default: int = 0) -> int:
    try:
        return int(os.environ.get(name) or default)
    except ValueError:
        return default


def launched() -> Launched | None:
    """What Fabric takes this process to be started by; None where nothing but Fabric itself starts processes."""
    there = os.environ.keys()
    if "TORCHELASTIC_RUN_ID" in there:
        return Launched("torchrun", _number("RANK"), _number("WORLD_SIZE", 1), together=True)
    if "SLURM_NTASKS" in there and os.environ.get("SLURM_JOB_NAME") not in ("bash", "interactive"):
        return Launched("srun", _number("SLURM_PROCID"), _number("SLURM_NTASKS", 1))
    if {"LSB_JOBID", "LSB_DJOB_RANKFILE", "JSM_NAMESPACE_LOCAL_RANK", "JSM_NAMESPACE_SIZE"} <= there:
        return Launched("jsrun", _number("JSM_NAMESPACE_RANK"), _number("JSM_NAMESPACE_SIZE", 1))
    if find_spec("mpi4py"):
        for rank, size in _MPI:
            if _number(size, 1) > 1:
                return Launched("mpirun", _number(rank), _number(size))
    return None


def process_rank() -> int:
    """0 in a process that works alone and in the first of several that train together."""
    if found := launched():
        return found.rank if found.together or _together else 0
    return max(_number("LOCAL_RANK"), _number("NODE_RANK", _number("GROUP_RANK")))


def shape(found: Launched) -> tuple[int, int] | None:
    """(processes a node, nodes) that a launcher started; None where it doesn't say, or each node has its own number."""
    if found.launcher == "srun":
        nodes = _number("SLURM_NNODES", 1)
        local = found.size // max(1, nodes)
    else:
        local = next((size for name in _LOCAL_SIZES[found.launcher] if (size := _number(name))), found.size + 1)
        nodes = found.size // local
    return (local, nodes) if local * nodes == found.size else None


_LOCAL_SIZES = {
    "torchrun": ("LOCAL_WORLD_SIZE",), "jsrun": ("JSM_NAMESPACE_LOCAL_SIZE",),
    "mpirun": ("OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS", "MV2_COMM_WORLD_LOCAL_SIZE"),
}  # fmt: skip
"""Variables that hold the number of processes on this node."""


def check(devices: int, nodes: int) -> None:
    """Take note of how many processes train together; of a cluster's tasks that each train a network of one process,
    none does.

    Raises:
        DeviceError: the launcher started another number of processes, or isn't one that the training library knows.
    """
    global _together
    wanted, found = devices * nodes, launched()
    _together = found is not None and wanted > 1
    if found:
        if found.size == wanted or (wanted == 1 and not found.together):
            return
        one = found.size == 1
        raise DeviceError(
            f"{found.launcher} started {found.size} process{'' if one else 'es'}, but train.devices x train.nodes is"
            f" {devices} x {nodes}; set train.devices to the processes of a node and train.nodes to the nodes, or start"
            " as many (srun --ntasks-per-node, torchrun --nproc-per-node)"
        )
    for rank, size in _OTHERS:
        if _number(size, 1) > 1:
            raise _unknown(size, _number(size), "the package mpi4py isn't installed" if (rank, size) in _MPI else "")
    local = _number("NODE_RANK", _number("GROUP_RANK")) * devices + _number("LOCAL_RANK")
    world = _number("WORLD_SIZE", 1)
    if "RANK" in os.environ and world > 1 and (local, wanted) != (_number("RANK"), world):
        raise _unknown("WORLD_SIZE", world, "it sets RANK without torchrun's other variables")


def _unknown(variable: str, size: int, why: str) -> DeviceError:
    return DeviceError(
        f"{variable} says that {size} processes were started together, by a launcher that the training library doesn't"
        f" know{f' ({why})' if why else ''}; expected {KNOWN}, or none: with train.devices=N this command starts its"
        " processes itself"
    )
