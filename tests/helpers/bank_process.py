"""One of several processes that write one memory bank together."""

import multiprocessing
from pathlib import Path
from typing import Any

import torch
import toys  # noqa: F401  its server has torch imported already
from map_properties import SAME, VOID, WIDER, labels, output
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from rdd_deploy.losses.cirkd_memory import MemoryBank

STEPS = 3


def bank(**options: Any) -> MemoryBank:
    torch.manual_seed(5)  # the projection's
    known = {"classes": 4, "student_channels": {"head": 5}, "teacher_channels": {"head": 8}}
    return MemoryBank(**{"pixels": 40, "regions": 6} | options, **known)


def step_of(one: torch.nn.Module, step: int, images: slice) -> torch.Tensor:
    """A step's loss on some of its images, whose gradients are added; in the last step the second half
    of them is void.
    """
    student, teacher, target = (
        output(SAME, 10 + step, images=5),
        output(WIDER, 20 + step, images=5),
        labels(30 + step, images=5),
    )
    if step == STEPS - 1:
        target[3:] = VOID
    cut = [
        each._replace(features={name: value[images] for name, value in each.features.items()})
        for each in (student, teacher)
    ]
    value: torch.Tensor = one(*cut, target[images])
    value.backward()
    return value.detach()


def run(rank: int, place: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{place}/meet", rank=rank, world_size=2)
    one = DistributedDataParallel(bank(), broadcast_buffers=False)
    values = [step_of(one, step, (slice(0, 3), slice(3, 5))[rank]) for step in range(STEPS)]
    gradients = {name: value.grad for name, value in one.module.named_parameters()}
    torch.save({"values": values, "bank": one.module.state_dict(), "gradients": gradients}, Path(place, f"{rank}.pt"))
    distributed.destroy_process_group()


def two(place: Path) -> list[dict[str, Any]]:
    """What both processes say after the steps: the first has 3 images of each batch, the second 2."""
    context = multiprocessing.get_context("forkserver")
    processes = [context.Process(target=run, args=(rank, str(place))) for rank in range(2)]
    for one in processes:
        one.start()
    for one in processes:
        one.join(120)
        assert one.exitcode == 0
    return [torch.load(place / f"{rank}.pt") for rank in range(2)]
