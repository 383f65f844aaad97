"""How many runs go on at once, and what each of them may use: GPUs of its own, or its share of the cores."""

from __future__ import annotations

import os

from rdd_deploy import console
from rdd_deploy.errors import DeviceError
from rdd_deploy.utils.machine import available_cores


def places(jobs: int | None, on_gpu: bool, devices: int) -> list[dict[str, str]]:
    """The environment variables of each place for a run.

    Args:
        jobs: runs at once; default: one for each group of ``devices`` GPUs, one on a CPU.
        on_gpu: whether the runs train on CUDA. devices: GPUs that one of them takes.

    Raises:
        DeviceError: not even one run has its GPUs.
    """
    if not on_gpu:
        count = jobs or 1
        cores = available_cores()
        if count > cores:
            console.warn(
                f"{count} runs at once share {cores} cores: all together they are no faster than {cores}, and each"
                " needs its memory"
            )
        if count == 1 or "OMP_NUM_THREADS" in os.environ:
            return [{} for _ in range(count)]
        return [{"OMP_NUM_THREADS": str(max(1, cores // count))} for _ in range(count)]
    names = _visible_gpus()
    groups = [names[first : first + devices] for first in range(0, len(names) - devices + 1, devices)]
    if not groups:
        raise DeviceError(
            f"train.devices is {devices}, but {len(names)} GPUs are visible; set train.devices, or CUDA_VISIBLE_DEVICES"
        )
    count = jobs or len(groups)
    if count > len(groups):
        console.warn(
            f"{count} runs at once share {len(groups)} places of {devices} GPU(s): some of them run on the same one"
        )
    return [{"CUDA_VISIBLE_DEVICES": ",".join(groups[number % len(groups)])} for number in range(count)]


def _visible_gpus() -> list[str]:
    import torch

    if visible := os.environ.get("CUDA_VISIBLE_DEVICES"):
        return [name.strip() for name in visible.split(",") if name.strip()]
    return [str(number) for number in range(torch.cuda.device_count())]


def threads_of(place: dict[str, str]) -> int | None:
    """CPU threads of a run there, where the study says it."""
    return int(place["OMP_NUM_THREADS"]) if "OMP_NUM_THREADS" in place else None
