"""The training loop: one place for schedule, precision, devices, averaging, saving and resuming; the loss is the caller's."""

from __future__ import annotations

import io
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from rdd_deploy.data.base import Split, Subset
from rdd_deploy.data.loader import Batch, CropDataset, FrameCache, LoadingError, ResumableBatchSampler, batches, training_loader
from rdd_deploy.data.transforms import RandomScaleCrop
from rdd_deploy.errors import DataError, DiskError, DivergedError, RddError
from rdd_deploy.metrics import evaluate_split
from rdd_deploy.models.predict import torch_predictor
from rdd_deploy.models.segmenter import Segmenter
from rdd_deploy.models.weights import save_segmenter
from rdd_deploy.recipe import Recipe
from rdd_deploy.training.class_bias import fit_class_bias
from rdd_deploy.training.fabric import is_emulated, precision_of
from rdd_deploy.training.gradients import shares
from rdd_deploy.training.logger import TrainLogger
from rdd_deploy.training.resume import ORIGIN, read_state
from rdd_deploy.training.run_folder import RunFolder
from rdd_deploy.training.state import Method, TrainState, learning_rate_factor
from rdd_deploy.training.visualize import write_picture
from rdd_deploy.utils import files
from rdd_deploy.utils.signals import StopRequest


class Interrupted(RddError):
    """A signal asked to stop; the state is saved."""

    def __init__(self, sentence: str, number: int) -> None:
        super().__init__(sentence)
        self.number, self.exit_code = number, 128 + number


def fit(
    recipe: Recipe, segmenter: Segmenter, frames: FrameCache, validation: Split, method: Method, folder: RunFolder, weights: Path, metadata: dict[str, Any],
    fabric: Fabric, resume: bool,
) -> dict[str, Any]:  # fmt: skip
    """Train ``segmenter`` in place by ``method``; the best on validation goes to ``weights``.

    Args:
        metadata: written into the checkpoint's metadata beside the figures; what ``ORIGIN`` names of them is the state's, too.
        resume: go on from ``folder.state`` where there is one.

    Returns:
        Summary values: best and last mIoU, epochs, seconds.

    Raises:
        DataError: there are fewer frames than processes.
        DivergedError: the loss isn't finite; names the batch's samples.
        Interrupted: Ctrl-C, SIGTERM or SIGHUP, after saving the state.
    """
    train = recipe.train
    train_state = TrainState(segmenter, method.objective, train, fabric)
    origin = {key: metadata[key] for key in ORIGIN if key in metadata}
    # Every process sees the whole batch order and takes its share; a resumed run starts in the middle of it.
    sampler = ResumableBatchSampler(
        frames.labelled, train.batch, train.epochs, train.seed, rank=fabric.global_rank, ranks=fabric.world_size,
        others=len(frames) - frames.labelled, share=method.share,
    )  # fmt: skip
    if (images := sampler.batch + sampler.others_of) < fabric.world_size:
        raise DataError(
            f"{frames.labelled} training frames make batches of {images}, which {fabric.world_size} processes can't share; use more frames, or "
            "lower train.devices and train.nodes"
        )
    resumed = read_state(folder, train_state, origin, sampler.steps_per_epoch) if resume and folder.state.is_file() else None
    sampler.start = train_state.step
    crops = CropDataset(frames, RandomScaleCrop(recipe.augment, recipe.data.size), train.seed)
    loader = fabric.setup_dataloaders(
        training_loader(crops, sampler, recipe.data.workers, fabric.device.type == "cuda", method.beside), use_distributed_sampler=False
    )
    total, per_epoch = train.epochs * sampler.steps_per_epoch, sampler.steps_per_epoch
    measured: dict[str, Any] | None = None
    rows = resumed.rows if resumed else []
    with TrainLogger(folder, recipe, total, rows, train_state.step, fabric.is_global_zero) as book, StopRequest() as stop:
        if resumed:
            book.restore(resumed.sums)
        segmenter.train()
        since, pending = time.perf_counter(), None
        for batch in _until_lost(batches(loader), lambda: _save(train_state, folder, book, fabric, origin), train_state):
            progress = train_state.step / total
            ends = (train_state.step + 1) % per_epoch == 0
            signs, terms = train_state.update(batch, progress, compare=ends)
            # The loss of the step before is looked at, so that a GPU is never waited for while it has nothing queued.
            _check_finite(pending, frames.split, train_state.best_weights_note)
            pending = (signs, batch.indices)
            book.step(method.stage(progress), terms, len(batch.images))
            epoch, inside = divmod(train_state.step, per_epoch)
            if inside == 0:
                _check_finite(pending, frames.split, train_state.best_weights_note)
                train_state.seconds += time.perf_counter() - since
                last = epoch == train.epochs
                measured = None
                if epoch % recipe.evaluation.every == 0 or last:
                    measured = _measure(recipe, train_state, validation)
                    _keep_best(train_state, measured, folder, weights, metadata, epoch)
                if fabric.is_global_zero:
                    _check_there(folder)
                if method.visualize and fabric.is_global_zero and train.pictures_every and (epoch % train.pictures_every == 0 or last):
                    picture = method.visualize(train_state.evaluated.eval())
                    write_picture(folder.pictures / f"epoch_{epoch:03d}.png", picture)
                    book.picture(picture, epoch)
                segmenter.train()
                book.epoch(
                    epoch,
                    method.stage(progress),
                    train_state.lrs[0] * learning_rate_factor(progress, train.warmup, train.power),
                    measured,
                    train_state.seconds,
                    shares(train_state.gradients),
                )
                since = time.perf_counter()
            stopping = _agreed(stop.number, train_state.step, inside == 0, fabric)
            if stopping or (inside == 0 and (epoch % train.save_every == 0 or epoch == train.epochs)):
                _check_finite(pending, frames.split, train_state.best_weights_note)
                train_state.seconds += time.perf_counter() - since
                since = time.perf_counter()
                _save(train_state, folder, book, fabric, origin)
            if stopping:
                raise Interrupted(
                    f"interrupted at step {train_state.step} of {total}; the state is saved, go on with the same command and --resume",
                    stopping,
                )
    fitted: dict[str, Any] = {}
    if train.class_bias and train_state.best_epoch:
        if fabric.is_global_zero:
            split = Subset(frames.split, range(frames.labelled))
            fitted = {"class_bias": fit_class_bias(recipe, split, validation, weights, fabric)}
        fabric.barrier()
    best = fitted["class_bias"]["miou_pct_with"] if fitted and fitted["class_bias"]["kept"] else train_state.best
    return {"best": {"epoch": train_state.best_epoch, "miou_pct": best}, **fitted, "last": measured or _measure(recipe, train_state, validation), "epochs": train.epochs, "steps": total,
            "train_seconds": round(train_state.seconds, 1), "precision": precision_of(fabric),
            "emulated": is_emulated(precision_of(fabric), fabric.device.type)}  # fmt: skip


def _until_lost(loading: Iterator[Batch], save: Callable[[], None], train_state: TrainState) -> Iterator[Batch]:
    """The batches; where one can't be loaded, the state that was reached is saved first. Of several processes the others couldn't save theirs."""
    begun = train_state.step
    try:
        yield from loading
    except LoadingError as error:
        if train_state.step == begun or train_state.fabric.world_size > 1:
            raise
        save()
        raise LoadingError(f"{error}. The state at step {train_state.step} is saved: go on with the same command and --resume") from error


def _check_there(folder: RunFolder) -> None:
    """Raise DiskError where the run's folder was taken away: written again, it would lack what was there."""
    if not folder.recipe.is_file():
        raise DiskError(
            f"the run's folder {folder.path} was moved or deleted while it was being trained; put it back and go on with the same command and "
            "--resume, or train again"
        )


def _save(train_state: TrainState, folder: RunFolder, book: TrainLogger, fabric: Fabric, origin: dict[str, str]) -> None:
    _check_weights(train_state.segmenter, train_state.best_weights_note)
    _check_weights(train_state.objective, train_state.best_weights_note)
    state = train_state.state() | {"origin": origin, "rows": book.rows, "sums": book.sums()}
    if fabric.is_global_zero:
        _check_there(folder)
        buffer = io.BytesIO()
        torch.save(state, buffer)
        files.write_bytes(folder.state, buffer.getvalue())
    fabric.barrier()


def _measure(recipe: Recipe, train_state: TrainState, validation: Split) -> dict[str, Any]:
    """mIoU on validation; DivergedError where the weights aren't finite."""
    network = train_state.evaluated.eval()
    _check_weights(network, train_state.best_weights_note)
    predict = torch_predictor(network, recipe.data.size, train_state.fabric.device, precision_of(train_state.fabric))
    return evaluate_split(predict, validation, recipe.evaluation.batch).summary()


def _check_weights(module: nn.Module, kept: str) -> None:
    """Raise DivergedError where the last step left weights that aren't finite; its loss, computed before it, can't tell."""
    if broken := [name for name, value in module.named_parameters() if not value.isfinite().all()]:
        raise DivergedError(f"the weights are no longer finite (e.g. {broken[0]}); lower train.lr or lengthen train.warmup{kept}")


def _keep_best(
    train_state: TrainState, measured: dict[str, Any], folder: RunFolder, weights: Path, metadata: dict[str, Any], epoch: int
) -> None:
    """Save the network where it is the best so far."""
    miou = float(measured["miou_pct"] or 0.0)
    if miou > train_state.best:
        train_state.best, train_state.best_epoch = miou, epoch
        if train_state.fabric.is_global_zero:
            _check_there(folder)
            save_segmenter(weights, train_state.evaluated, metadata | {"epoch": epoch, "miou_pct": miou})


def _check_finite(pending: tuple[Tensor, Tensor] | None, split: Split, kept: str) -> None:
    if pending is None:
        return
    signs = pending[0].tolist()
    if all(math.isfinite(sign) for sign in signs):
        return
    names = [split.names[int(i)] for i in pending[1].cpu()]
    what = f"the gradient's norm is {signs[1]}" if math.isfinite(signs[0]) else f"the loss is {signs[0]}"
    raise DivergedError(
        f"{what} on the batch of {', '.join(names)}; lower train.lr, lengthen train.warmup, or set train.precision=32-true{kept}"
    )


AGREE_EVERY = 10
"""Steps between two questions to the other processes whether to stop; asking at each step would make a GPU wait."""


def _agreed(asked: int | None, step: int, epoch_ends: bool, fabric: Fabric) -> int:
    """The signal to stop by after this step, or 0: for all processes at the same one, though it may reach only one of them, or each at another step."""
    if fabric.world_size == 1:
        return asked or 0
    if step % AGREE_EVERY and not epoch_ends:
        return 0
    return int(fabric.all_reduce(torch.tensor(float(asked or 0), device=fabric.device), reduce_op="max"))  # type: ignore[arg-type]
