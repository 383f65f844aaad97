"""Lightning's Fabric for a recipe: device, number of processes, precision, seeds."""

from __future__ import annotations

import logging
import warnings
from functools import cache
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import distributed

from rdd_deploy import console
from rdd_deploy.data.base import Split
from rdd_deploy.errors import DeviceError
from rdd_deploy.metrics import Confusion, Predict, evaluate_split
from rdd_deploy.models.predict import set_tf32
from rdd_deploy.recipe_train import Train
from rdd_deploy.training.determinism import set_deterministic
from rdd_deploy.utils import launchers
from rdd_deploy.utils.machine import has_native_bf16


def make_fabric(train: Train) -> Fabric:
    """Fabric for the recipe's device and precision; DeviceError where what was asked for isn't there."""
    accelerator = "cuda" if train.device == "gpu" else train.device
    if accelerator == "cuda" and not torch.cuda.is_available():
        raise DeviceError(
            f"train.device is '{train.device}' but torch {torch.__version__} finds no CUDA device; install a driver, or"
            " set train.device=cpu"
        )
    if accelerator == "auto":
        accelerator = "cuda" if torch.cuda.is_available() else "cpu"
    precision = resolve_precision(train.precision, accelerator)
    set_tf32(train.tf32)
    set_deterministic(train.deterministic)
    if accelerator == "cuda" and not train.deterministic:
        _tell_of_rounding()
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    try:
        strategy = "ddp" if train.devices * train.nodes > 1 else "auto"
        # Fabric warns where it takes another precision than asked for; here that is an error.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fabric = Fabric(
                accelerator=accelerator,
                devices=train.devices,
                num_nodes=train.nodes,
                strategy=strategy,
                precision=precision,
            )
    except (ValueError, RuntimeError, TypeError, ImportError) as error:
        raise DeviceError(
            f"can't train on {train.devices} x '{train.device}' in {train.precision}: {str(error).splitlines()[0]}"
        ) from error
    except Exception as error:  # Fabric's MisconfigurationException is of no public family
        if type(error).__name__ != "MisconfigurationException":
            raise
        raise DeviceError(f"can't train on {train.devices} x '{train.device}': {str(error).splitlines()[0]}") from error
    if precision_of(fabric) != precision:
        raise DeviceError(
            f"train.precision is {precision}, which '{accelerator}' can't compute in; set train.precision=auto"
        )
    _check_launched(fabric, train)
    return fabric


def precision_of(fabric: Fabric) -> str:
    """The precision that Fabric computes in, by its name, e.g. ``bf16-mixed``."""
    return str(fabric._precision.precision)


def _check_launched(fabric: Fabric, train: Train) -> None:
    """Raise DeviceError where Fabric takes this process for another one than ``console.process_rank`` does: two would
    write, or none.
    """
    found, cluster = launchers.launched(), getattr(fabric._strategy, "cluster_environment", None)
    if found is None or cluster is None or train.devices * train.nodes == 1:
        return
    if (cluster.global_rank(), cluster.world_size()) != (found.rank, found.size):
        raise DeviceError(
            f"{found.launcher} says that this is process {found.rank} of {found.size}, the training library takes it"
            f" for {cluster.global_rank()} of {cluster.world_size()}; start it by {launchers.KNOWN}"
        )


def resolve_precision(precision: str, accelerator: str) -> Any:
    """``auto`` is bf16 where the device itself computes in it (GPUs since Ampere, CPUs with AVX512-BF16 or AMX), fp16
    on older GPUs, else float32."""
    if precision != "auto":
        if is_emulated(precision, accelerator):
            _warn_of_emulation()
        return precision
    if accelerator == "cuda":
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "16-mixed"
    return "32-true" if is_emulated("bf16-mixed", accelerator) else "bf16-mixed"


def is_emulated(precision: str, accelerator: str) -> bool:
    """Whether this is bf16 on a CPU that doesn't multiply in it; PyTorch says that it is supported wherever there is
    AVX512.
    """
    return (
        precision == "bf16-mixed"
        and accelerator == "cpu"
        and not (has_native_bf16() and torch.ops.mkldnn._is_mkldnn_bf16_supported())
    )


@cache
def _warn_of_emulation() -> None:
    """Once, however many networks are trained in turn."""
    if launchers.process_rank() == 0:
        console.warn(
            "train.precision is bf16-mixed, which this CPU only emulates: slower than float32; set train.precision=auto"
        )


@cache
def _tell_of_rounding() -> None:
    """Once, however many networks are trained in turn."""
    console.info(
        "on a GPU the same run twice differs in rounding; train.deterministic=true makes both the same to the bit, and"
        " slower"
    )


def seed_everything(seed: int) -> None:
    """Seed torch and numpy: initial weights, dropout."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)


def evaluate_together(predict: Predict, split: Split, batch: int, fabric: Fabric) -> Confusion:
    """``evaluate_split`` of a network that is the same in all processes, each of which labels some of the batches."""
    confusion = evaluate_split(predict, split, batch, part=(fabric.global_rank, fabric.world_size))
    if fabric.world_size > 1:
        matrix = torch.from_numpy(confusion.matrix).to(fabric.device)
        distributed.all_reduce(matrix)
        confusion.matrix = matrix.cpu().numpy()
    return confusion
