"""``teacher.second: fitted``: an auxiliary head trained on a frozen teacher's map before distilling, kept beside the
teacher's caches.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from rdd_deploy import console
from rdd_deploy.data.base import IGNORE
from rdd_deploy.data.loader import FrameCache
from rdd_deploy.errors import RddError, WeightsError
from rdd_deploy.losses.processes import alone
from rdd_deploy.losses.task import TaskLoss
from rdd_deploy.models.teachers.base import digest_of
from rdd_deploy.models.teachers.second import Fitted
from rdd_deploy.models.tensors import fits, senseless
from rdd_deploy.models.tta import stacked
from rdd_deploy.outputs import resized
from rdd_deploy.preprocess import resize_labels
from rdd_deploy.training.determinism import deterministic_layers
from rdd_deploy.training.teacher_filling import together
from rdd_deploy.utils import files
from rdd_deploy.utils.sharing import claimed, share

PASSES, LEAST_STEPS, MOST_STEPS, BATCH, RATE = 8, 200, 1000, 4, 2e-3
"""Passes over the training frames, and how many steps of so many frames that is at least and at most; the highest learning rate."""


def fit_second(
    fitted: Fitted, sha256: str, frames: FrameCache, data: Mapping[str, str], size: tuple[int, int], folder: Path, device: torch.device,
    precision: torch.dtype | None, fabric: Fabric | None = None,
) -> str:  # fmt: skip
    """Give a teacher's second head its weights: those that an earlier run fitted to the same teacher and data, else new
    ones, which are kept.

    Args:
        fitted: on ``device``. sha256: of the teacher. frames: only those with labels are used.
        data: digests of these frames and of their masks.
        size: (height, width) of the frames that the teacher sees. folder: where its caches lie.

    Returns:
        Hex SHA-256 of the teacher with this head.
    """
    key = digest_of(sha256, dict(data), size, [PASSES, LEAST_STEPS, MOST_STEPS, BATCH, RATE], str(precision))
    place = folder / f"fitted-{key[:16]}.safetensors"
    state: dict[str, Tensor] | None = None
    with together(fabric, "fit the teacher's second head"):
        if fabric is None or fabric.is_global_zero:
            state = _shared(place, fitted, lambda: _new(fitted, frames, size, device, precision))
    if fabric is not None:
        state = fabric.broadcast(state)
    assert state is not None
    fitted.head.load_state_dict(state)
    fitted.head.to(device).eval().requires_grad_(False)
    return digest_of(sha256, hashlib.sha256(safetensors.torch.save(state)).hexdigest())


def _shared(place: Path, fitted: Fitted, new: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """The head that lies at ``place``, or a new one put there, by one of all the processes that want it: on a GPU each
    would fit another one, and fill a cache of its own.
    """
    state: list[dict[str, Tensor]] = []

    def is_done(_: str) -> bool:
        if place.is_file() and (kept := _kept(place, fitted)) is not None:
            state.append(kept)
        return bool(state)

    def work(part: str) -> bool:
        if is_done(part):
            return True
        with claimed(place.parent, place.name) as mine:
            if mine and not is_done(part):
                state.append(new())
                files.write_bytes(place, safetensors.torch.save(state[-1]))
        return bool(state)

    try:
        share([place.name], work, is_done, lambda _: console.info("waiting for another process, which fits the head"))
    except (OSError, RddError) as error:  # a teacher in a place that can't be written
        if isinstance(error, RddError) and not state:
            raise
        console.warn(f"the fitted head isn't kept: {error}")
    return state[-1] if state else new()


def _kept(place: Path, fitted: Fitted) -> dict[str, Tensor] | None:
    """The head of an earlier run; None where there is none that fits."""
    if not place.is_file():
        return None
    own = fitted.head.state_dict()
    try:
        state = safetensors.torch.load(place.read_bytes())
        if (
            set(state) != set(own)
            or not all(fits(state[name], value) for name, value in own.items())
            or senseless(state)
        ):
            raise ValueError("it holds another head")
    except Exception as error:  # the library raises kinds of its own
        console.warn(
            f"{place} can't be used ({(str(error).splitlines() or ['damaged'])[0][:120]}); the teacher's second head is"
            " fitted again"
        )
        return None
    console.info(f"teacher: its second head on {fitted.map_name}, fitted before: {place}")
    return state


def _new(
    fitted: Fitted, frames: FrameCache, size: tuple[int, int], device: torch.device, precision: torch.dtype | None
) -> dict[str, Tensor]:
    steps = min(MOST_STEPS, max(LEAST_STEPS, PASSES * math.ceil(frames.labelled / BATCH)))
    console.info(f"teacher: fitting a second head on {fitted.map_name} to the training frames, {steps} steps")
    with console.progress("second head", steps) as bar:
        state, loss = fit_head(fitted, frames, size, steps, device, precision, bar.advance)
    console.info(f"teacher: its second head is fitted, cross-entropy {loss:.3f} at the end")
    return state


def fit_head(
    fitted: Fitted, frames: FrameCache, size: tuple[int, int], steps: int, device: torch.device, precision: torch.dtype | None = None,
    advance: Callable[[int], None] = lambda _: None,
) -> tuple[dict[str, Tensor], float]:  # fmt: skip
    """Train the head with cross-entropy on whole frames with labels, half of them mirrored; everything else stays as it
    is.

    The same frames, teacher and device give the same weights.

    Returns:
        The head's state on the CPU, and the mean loss of the last tenth of the steps.

    Raises:
        WeightsError: the loss isn't finite, or no training pixel has a class.
    """
    teacher, head, loss_of = fitted.inner[0], fitted.head, TaskLoss()
    rng = np.random.default_rng(0)
    with torch.random.fork_rng(), torch.enable_grad(), alone():  # one process fits, or each for itself
        torch.manual_seed(0)
        for module in head.modules():
            if isinstance(module, (nn.Conv2d, nn.BatchNorm2d)):
                module.reset_parameters()
        head.to(device).train().requires_grad_(True)
        optimizer = torch.optim.AdamW(head.parameters(), lr=RATE, weight_decay=1e-2)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: min(1.0, (step + 1) / 20) * (1 - step / (steps + 1)) ** 0.9
        )
        order: list[int] = []
        losses: list[float] = []
        for _ in range(steps):
            while len(order) < BATCH:
                order += rng.permutation(frames.labelled).tolist()  # those behind them have no masks
            chosen, order = order[:BATCH], order[BATCH:]
            images, labels = _batch(frames, chosen, rng.random(BATCH) < 0.5, size, device)
            with torch.no_grad(), torch.autocast(device.type, dtype=precision, enabled=precision is not None):
                features = teacher.logits_at_stride(images, [fitted.map_name]).features[fitted.map_name].float()
            if not (labels != IGNORE).any():
                advance(1)
                continue
            with deterministic_layers(torch.are_deterministic_algorithms_enabled()):
                loss = loss_of(resized(head(features), labels.shape[-2:]), labels)
            if not loss.isfinite():
                raise WeightsError(
                    "the teacher's second head can't be fitted: the loss is NaN or infinite; choose another"
                    " teacher.second_map or teacher.second"
                )
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            losses.append(float(loss.detach()))
            advance(1)
        head.eval().requires_grad_(False)
    if not losses:
        raise WeightsError("the teacher's second head can't be fitted: no pixel of the training frames has a class")
    last = losses[-max(1, len(losses) // 10) :]
    return {name: value.detach().cpu().contiguous().clone() for name, value in head.state_dict().items()}, sum(
        last
    ) / len(last)


def _batch(
    frames: FrameCache, chosen: list[int], mirrored: np.ndarray, size: tuple[int, int], device: torch.device
) -> tuple[Tensor, Tensor]:  # type: ignore[type-arg]
    """Frames uint8 (N, 3, *size) as the teacher's cache sees them, and labels int64 at half of that size."""
    pairs = [frames[index] for index in chosen]
    images = stacked([np.ascontiguousarray(image.permute(1, 2, 0).numpy()) for image, _ in pairs], size)
    half = (max(1, size[0] // 2), max(1, size[1] // 2))
    labels = torch.from_numpy(np.stack([resize_labels(one.numpy(), half) for _, one in pairs])).long()
    turned = torch.from_numpy(mirrored)
    images = torch.where(turned[:, None, None, None], images.flip(-1), images)
    labels = torch.where(turned[:, None, None], labels.flip(-1), labels)
    return images.to(device), labels.to(device)
