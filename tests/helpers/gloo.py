"""Functions that several real processes run together, as those of one training do."""

import multiprocessing
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import distributed
from toys import Started


def _joined(function: Callable[..., Any], folder: str, rank: int, size: int, argument: Any) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", f"file://{folder}/store", timedelta(seconds=60), size, rank)
    torch.save(function(argument), f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


def together(function: Callable[[Any], Any], arguments: Sequence[Any]) -> list[Any]:
    """What ``function`` returns of each argument (tensors, numbers, texts), each in a process of its own; one that
    hangs fails the test.

    The function is of a module that can be imported.
    """
    with tempfile.TemporaryDirectory() as folder:
        context, size = Started._context, len(arguments)
        processes = [
            context.Process(target=_joined, args=(function, folder, i, size, one)) for i, one in enumerate(arguments)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join(90)
        hanging = [process for process in processes if process.is_alive()]
        for process in hanging:
            process.kill()
        assert not hanging, "the processes wait for each other"
        assert [process.exitcode for process in processes] == [0] * size
        return [torch.load(Path(folder, f"{rank}.pt")) for rank in range(size)]


def pair(work: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What ``work(rank, *arguments)`` returns in each of two processes, by rank; arguments and results are pickled (no
    tensors).
    """
    with (
        tempfile.TemporaryDirectory() as folder,
        ProcessPoolExecutor(2, multiprocessing.get_context("forkserver")) as pool,
    ):
        futures = [pool.submit(_in_group, f"file://{folder}/store", rank, work, arguments) for rank in range(2)]
        return [future.result(120) for future in futures]


def _in_group(store: str, rank: int, work: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=2, timeout=timedelta(seconds=60))
    try:
        return work(rank, *arguments)
    finally:
        distributed.destroy_process_group()
