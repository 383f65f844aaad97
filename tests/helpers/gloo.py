"""Two processes that share a batch, as in a training on two devices."""

import multiprocessing
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from datetime import timedelta
from typing import Any

import toys  # noqa: F401  # processes are forked from one that has imported torch already
from torch import distributed


def pair(work: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What ``work(rank, *arguments)`` returns in each of two processes, by rank; arguments and results are pickled (no tensors)."""
    with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(2, multiprocessing.get_context("forkserver")) as pool:
        futures = [pool.submit(_joined, f"file://{folder}/store", rank, work, arguments) for rank in range(2)]
        return [future.result(120) for future in futures]


def _joined(store: str, rank: int, work: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=2, timeout=timedelta(seconds=60))
    try:
        return work(rank, *arguments)
    finally:
        distributed.destroy_process_group()
