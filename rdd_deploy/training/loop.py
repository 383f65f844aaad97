"""The training loop: one place for schedule, precision, devices, averaging, saving and resuming; the loss is the
caller's.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from lightning_fabric import Fabric
from torch import distributed

from rdd_deploy.data.base import Split, Subset
from rdd_deploy.data.loader import Batch, FrameCache, LoadingError
from rdd_deploy.data.sampler import ResumableBatchSampler
from rdd_deploy.errors import DataError, RddError
from rdd_deploy.models.predict import torch_predictor
from rdd_deploy.models.segmenter import Segmenter
from rdd_deploy.models.weights import save_segmenter
from rdd_deploy.recipe import Recipe
from rdd_deploy.training.budget import within_budget
from rdd_deploy.training.class_bias import fit_class_bias
from rdd_deploy.training.crops import TrainingCrops
from rdd_deploy.training.fabric import evaluate_together, is_emulated, precision_of
from rdd_deploy.training.finite import FiniteCheck, check_weights
from rdd_deploy.training.gradients import shares
from rdd_deploy.training.logger import TrainLogger
from rdd_deploy.training.resume import ORIGIN, read_state
from rdd_deploy.training.run_folder import RunFolder
from rdd_deploy.training.saving import Agreement, StateWriter, check_there
from rdd_deploy.training.state import Method, TrainState, learning_rate_factor
from rdd_deploy.training.visualize import write_picture
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
        metadata: written into the checkpoint's metadata beside the figures; what ``ORIGIN`` names of them is the
            state's, too.
        resume: go on from ``folder.state`` where there is one.

    Returns:
        Summary values: best and last mIoU, epochs, seconds.

    Raises:
        DataError: there are fewer frames than processes.
        DivergedError: the loss isn't finite; names the batch's samples.
        DiskError: a state can't be written.
        Interrupted: Ctrl-C, SIGTERM or SIGHUP, after saving the state.
    """
    crops = TrainingCrops(recipe, frames, method, fabric)
    resumes, budget = resume and folder.state.is_file(), recipe.train.budget
    recipe = within_budget(recipe, segmenter, crops, validation, method, folder, fabric, resumes)
    train = recipe.train
    origin = {key: metadata[key] for key in ORIGIN if key in metadata}
    # Every process sees the whole batch order and takes its share; a resumed run starts in the middle of it.
    sampler = ResumableBatchSampler(
        frames.labelled, train.batch, train.epochs, train.seed, rank=fabric.global_rank, ranks=fabric.world_size,
        others=len(frames) - frames.labelled, share=method.share,
    )  # fmt: skip
    if (images := sampler.batch + sampler.others_of) < fabric.world_size:
        raise DataError(
            f"{frames.labelled} training frames make batches of {images}, which {fabric.world_size} processes can't"
            " share; use more frames, or lower train.devices and train.nodes"
        )
    train_state = TrainState(segmenter, method.objective, train, fabric, train.epochs * sampler.steps_per_epoch)
    resumed = read_state(folder, train_state, origin, sampler.steps_per_epoch) if resumes else None
    sampler.start = train_state.step
    total, per_epoch = train.epochs * sampler.steps_per_epoch, sampler.steps_per_epoch
    measured: dict[str, Any] | None = None
    rows = resumed.rows if resumed else []
    finite, agreed = FiniteCheck(frames.split, lambda: train_state.best_weights_note), Agreement(fabric)
    with (
        TrainLogger(folder, recipe, total, rows, train_state.step, fabric.is_global_zero) as book,
        StateWriter(folder, train.save_minutes, resumed is not None, fabric.device.type == "cuda") as writer,
        StopRequest() as stop,
    ):
        if resumed:
            book.restore(resumed.sums)

        def save(wait: bool = False) -> None:
            finite.flush()
            for module in (segmenter, method.objective):
                check_weights(module, train_state.best_weights_note)
            state = train_state.state() | {"origin": origin, "rows": book.rows, "sums": book.sums()}
            if fabric.is_global_zero:
                check_there(folder)
                writer.write(state)
            if wait:
                writer.wait()
                fabric.barrier()

        segmenter.train()
        since = time.perf_counter()
        for batch in _until_lost(crops.batches(sampler), lambda: save(wait=True), train_state):
            progress = train_state.step / total
            ends = (train_state.step + 1) % per_epoch == 0
            signs, terms = train_state.update(batch, progress, compare=ends)
            finite.add(signs, batch.indices)
            writer.check()
            book.step(method.stage(progress), terms, len(batch.images))
            epoch, inside = divmod(train_state.step, per_epoch)
            if inside == 0:
                finite.flush()
                train_state.seconds += time.perf_counter() - since
                last = epoch == train.epochs
                measured = None
                if epoch % recipe.evaluation.every == 0 or last:
                    measured = _measure(recipe, train_state, validation)
                    _keep_best(train_state, measured, folder, weights, metadata, epoch)
                if fabric.is_global_zero:
                    check_there(folder)
                if (
                    method.visualize
                    and fabric.is_global_zero
                    and train.pictures_every
                    and (epoch % train.pictures_every == 0 or last)
                ):
                    picture = method.visualize(train_state.evaluated.eval())
                    write_picture(folder.pictures / f"epoch_{epoch:03d}.png", picture)
                    book.picture(picture, epoch)
                segmenter.train()
                book.epoch(
                    epoch,
                    method.stage(progress),
                    train.lr * learning_rate_factor(progress, train.warmup, train.power),
                    measured,
                    train_state.seconds,
                    shares(train_state.gradients),
                )
                since = time.perf_counter()
            wanted = STOP + stop.number if stop.number else int(writer.due(inside == 0) and fabric.is_global_zero)
            decided = agreed(wanted, train_state.step, inside == 0)
            if decided or train_state.step == total:
                train_state.seconds += time.perf_counter() - since
                since = time.perf_counter()
                save(wait=decided >= STOP or train_state.step == total)
            if decided >= STOP:
                raise Interrupted(
                    f"interrupted at step {train_state.step} of {total}; the state is saved, go on with the same"
                    " command and --resume",
                    decided - STOP,
                )
    fitted = _class_bias(recipe, frames, validation, weights, train_state)
    best = fitted["miou_pct_with"] if fitted.get("kept") else train_state.best
    return {"best": {"epoch": train_state.best_epoch, "miou_pct": best}, **({"class_bias": fitted} if fitted else {}), "last": measured or _measure(recipe, train_state, validation), "epochs": train.epochs, **({"budget": budget} if budget else {}), "steps": total,
            "train_seconds": round(train_state.seconds, 1), "precision": precision_of(fabric),
            "emulated": is_emulated(precision_of(fabric), fabric.device.type)}  # fmt: skip


def _class_bias(
    recipe: Recipe, frames: FrameCache, validation: Split, weights: Path, train_state: TrainState
) -> dict[str, Any]:
    """Fit ``train.class_bias`` to the best weights; what the summary says of it, empty where there is none."""
    if not recipe.train.class_bias or not train_state.best_epoch:
        return {}
    fabric, fitted = train_state.fabric, {}
    if fabric.is_global_zero:
        fitted = fit_class_bias(recipe, Subset(frames.split, range(frames.labelled)), validation, weights, fabric)
    fabric.barrier()
    return fitted


def _until_lost(loading: Iterator[Batch], save: Callable[[], None], train_state: TrainState) -> Iterator[Batch]:
    """The batches; where one can't be loaded, the state that was reached is saved first. Of several processes the
    others couldn't save theirs.
    """
    begun = train_state.step
    try:
        yield from loading
    except LoadingError as error:
        if train_state.step == begun or train_state.fabric.world_size > 1:
            raise
        save()
        raise LoadingError(
            f"{error}. The state at step {train_state.step} is saved: go on with the same command and --resume"
        ) from error


STOP = 100
"""Added to the number of a signal: of what processes want, stopping counts more than saving, which is 1."""


def _measure(recipe: Recipe, train_state: TrainState, validation: Split) -> dict[str, Any]:
    """mIoU on validation, of which each process labels some batches; DivergedError where the weights aren't finite."""
    network, fabric = train_state.evaluated.eval(), train_state.fabric
    check_weights(network, train_state.best_weights_note)
    # BatchNorm's statistics may be each process's own; the first one's network is what is saved.
    if fabric.world_size > 1:
        for value in network.state_dict().values():
            distributed.broadcast(value, 0)
    predict = torch_predictor(network, recipe.data.size, fabric.device, precision_of(fabric))
    return evaluate_together(predict, validation, recipe.evaluation.batch, fabric).summary()


def _keep_best(
    train_state: TrainState,
    measured: dict[str, Any],
    folder: RunFolder,
    weights: Path,
    metadata: dict[str, Any],
    epoch: int,
) -> None:
    """Save the network where it is the best so far."""
    miou = float(measured["miou_pct"] or 0.0)
    if miou > train_state.best:
        train_state.best, train_state.best_epoch = miou, epoch
        if train_state.fabric.is_global_zero:
            check_there(folder)
            save_segmenter(weights, train_state.evaluated, metadata | {"epoch": epoch, "miou_pct": miou})
