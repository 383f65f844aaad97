"""The training loop: one place for schedule, precision, devices, averaging, saving and resuming; the loss is the caller's."""

from __future__ import annotations

import io
import logging
import math
import time
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from rdd_deploy import console, files, launchers
from rdd_deploy.cores import has_native_bf16
from rdd_deploy.data.base import Split
from rdd_deploy.data.loader import Batch, Crops, Frames, LoadingError, StepSampler, batches, training_loader
from rdd_deploy.data.transforms import RandomScaleCrop
from rdd_deploy.errors import DeviceError, DiskError, DivergedError, RddError, RecipeError
from rdd_deploy.evaluate import evaluate_split
from rdd_deploy.logbook import Logbook
from rdd_deploy.models.predict import torch_predictor
from rdd_deploy.models.segmenter import Output, Segmenter
from rdd_deploy.models.surgery import depthwise_in_float32
from rdd_deploy.models.weights import save_segmenter
from rdd_deploy.recipe import Recipe, Train
from rdd_deploy.resuming import ORIGIN, read_state
from rdd_deploy.run import RunFolder
from rdd_deploy.signals import StopRequest


class Loss(NamedTuple):
    """Scalar with gradient, and its named terms (detached scalars) for the log."""

    total: Tensor
    terms: dict[str, Tensor]


Objective = Callable[[Output, Batch, float], Loss]
"""(network's output on the batch, batch, progress in [0, 1)) -> loss."""


class Story(NamedTuple):
    """What differs between supervised training and distillation."""

    objective: Objective
    stage: Callable[[float], str]
    """Name of the stage at a progress in [0, 1)."""
    picture: Callable[[Path, Segmenter], None] | None
    """Draws the epoch's picture, given its path and the network in eval mode."""


class Interrupted(RddError):
    """A signal asked to stop; the state is saved."""

    def __init__(self, sentence: str, number: int) -> None:
        super().__init__(sentence)
        self.number, self.exit_code = number, 128 + number


def make_fabric(train: Train) -> Fabric:
    """Fabric for the recipe's device and precision; DeviceError where what was asked for isn't there."""
    accelerator = "cuda" if train.device == "gpu" else train.device
    if accelerator == "cuda" and not torch.cuda.is_available():
        raise DeviceError(
            f"train.device is '{train.device}' but torch {torch.__version__} finds no CUDA device; install a driver, or set train.device=cpu"
        )
    if accelerator == "auto":
        accelerator = "cuda" if torch.cuda.is_available() else "cpu"
    precision = resolve_precision(train.precision, accelerator)
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    try:
        strategy = "ddp" if train.devices * train.nodes > 1 else "auto"
        with warnings.catch_warnings():  # Fabric warns where it takes another precision than asked for; here that is an error
            warnings.simplefilter("ignore")
            fabric = Fabric(accelerator=accelerator, devices=train.devices, num_nodes=train.nodes, strategy=strategy, precision=precision)
    except (ValueError, RuntimeError, TypeError, ImportError) as error:
        raise DeviceError(
            f"can't train on {train.devices} x '{train.device}' in {train.precision}: {str(error).splitlines()[0]}"
        ) from error
    except Exception as error:  # Fabric's MisconfigurationException is of no public family
        if type(error).__name__ != "MisconfigurationException":
            raise
        raise DeviceError(f"can't train on {train.devices} x '{train.device}': {str(error).splitlines()[0]}") from error
    if fabric._precision.precision != precision:
        raise DeviceError(f"train.precision is {precision}, which '{accelerator}' can't compute in; set train.precision=auto")
    _check_launched(fabric, train)
    return fabric


def _check_launched(fabric: Fabric, train: Train) -> None:
    """Raise DeviceError where Fabric takes this process for another one than ``console.process_rank`` does: two would write, or none."""
    found, cluster = launchers.launched(), getattr(fabric._strategy, "cluster_environment", None)
    if found is None or cluster is None or train.devices * train.nodes == 1:
        return
    if (cluster.global_rank(), cluster.world_size()) != (found.rank, found.size):
        raise DeviceError(
            f"{found.launcher} says that this is process {found.rank} of {found.size}, the training library takes it for "
            f"{cluster.global_rank()} of {cluster.world_size()}; start it by {launchers.KNOWN}"
        )


def resolve_precision(precision: str, accelerator: str) -> Any:
    """``auto`` is bf16 where the device itself computes in it (GPUs since Ampere, CPUs with AVX512-BF16 or AMX), fp16 on older GPUs, else
    float32."""
    if precision != "auto":
        if is_emulated(precision, accelerator):
            _warn_of_emulation()
        return precision
    if accelerator == "cuda":
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "16-mixed"
    return "32-true" if is_emulated("bf16-mixed", accelerator) else "bf16-mixed"


def is_emulated(precision: str, accelerator: str) -> bool:
    """Whether this is bf16 on a CPU that doesn't multiply in it; PyTorch says that it is supported wherever there is AVX512."""
    return precision == "bf16-mixed" and accelerator == "cpu" and not (has_native_bf16() and torch.ops.mkldnn._is_mkldnn_bf16_supported())


@cache
def _warn_of_emulation() -> None:
    """Once, however many networks are trained in turn."""
    if launchers.process_rank() == 0:
        console.warn("train.precision is bf16-mixed, which this CPU only emulates: slower than float32; set train.precision=auto")


def learning_rate_factor(progress: float, warmup: float, power: float) -> float:
    """Poly schedule with linear warm-up: (1 − progress)^power, times progress / warmup before that share is over."""
    return float((1 - progress) ** power * (min(1.0, progress / warmup) if warmup else 1.0))


class Trainee:
    """Everything that changes while training, so that saving and resuming it is one dictionary."""

    def __init__(self, segmenter: Segmenter, train: Train, fabric: Fabric) -> None:
        self.segmenter, self.config, self.fabric = segmenter, train, fabric
        if fabric.world_size > 1 and fabric.device.type == "cuda":
            segmenter = nn.SyncBatchNorm.convert_sync_batchnorm(segmenter)  # type: ignore[no-untyped-call]
        if fabric.device.type == "cpu" and fabric._precision.precision == "bf16-mixed":
            depthwise_in_float32(segmenter)
        segmenter = segmenter.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        optimizer = _optimizer(segmenter, train)
        self.model, self.optimizer = fabric.setup(segmenter, optimizer)
        self.forward = torch.compile(self.model) if train.compile else self.model
        self.average = AveragedModel(segmenter, multi_avg_fn=_ema(train.ema), use_buffers=True) if train.ema else None
        self.lrs = [group["lr"] for group in optimizer.param_groups]
        self.step, self.best, self.best_epoch = 0, -1.0, 0
        self.seconds = 0.0

    @property
    def kept(self) -> str:
        """What a diverging run ends with: where there are weights of before, that they are still there."""
        return ". The best weights so far are kept" if self.best_epoch else ""

    @property
    def evaluated(self) -> Segmenter:
        """The network that is measured and saved: the average where there is one."""
        return self.average.module if self.average is not None else self.segmenter  # type: ignore[return-value]

    def update(self, batch: Batch, story: Story, progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        """One optimiser step; returns its loss (and the gradient's norm where it is clipped) and the loss's terms, still on the device."""
        factor = learning_rate_factor(progress, self.config.warmup, self.config.power)
        for group, lr in zip(self.optimizer.param_groups, self.lrs, strict=True):
            group["lr"] = lr * factor
        loss = story.objective(self._outputs(batch.images), batch, progress)
        self.optimizer.zero_grad(set_to_none=True)
        self.fabric.backward(loss.total)
        signs = [loss.total.detach()]
        if self.config.clip:
            norm = self.fabric.clip_gradients(self.model, self.optimizer, max_norm=self.config.clip, error_if_nonfinite=False)
            if norm is not None and self.fabric._precision.precision != "16-mixed":  # there the loss scale finds its way by overflowing
                signs.append(norm.detach().to(signs[0]))
        self.optimizer.step()
        if self.average is not None:
            self.average.update_parameters(self.segmenter)
        self.step += 1
        return torch.stack(signs), loss.terms

    def _outputs(self, images: Tensor) -> Output:
        try:
            return self.forward(images)  # type: ignore[no-any-return]
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            raise RecipeError(
                f"a batch of {len(images)} crop of {images.shape[-2]}x{images.shape[-1]} leaves BatchNorm a single value per channel; "
                "set train.batch to 2 or more (with as many frames), or choose the head lraspp or pspnet and a larger augment.crop"
            ) from error

    def state(self, alone: bool = False) -> dict[str, Any]:
        """Tensors, numbers and strings only, so that it loads with ``weights_only``.

        Args:
            alone: with this process's random numbers only, so that the others needn't take part.
        """
        of_all = (lambda value, _: [value]) if alone else _of_every_process
        return {
            "format": 4, "model": self.segmenter.state_dict(), "optimizer": self.optimizer.state_dict(), "step": self.step, "best": self.best,
            "best_epoch": self.best_epoch, "seconds": self.seconds,
            "average": self.average.state_dict() if self.average is not None else {},
            "rng": of_all(torch.get_rng_state(), self.fabric),
            "rng_cuda": of_all(torch.cuda.get_rng_state(self.fabric.device), self.fabric) if self._on_cuda else [],
            "precision": self.fabric._precision.state_dict(),
        }  # fmt: skip

    @property
    def _on_cuda(self) -> bool:
        return str(self.fabric.device.type) == "cuda"

    def restore(self, state: dict[str, Any]) -> None:
        """Go on exactly where ``state`` was taken."""
        self.segmenter.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.step, self.best, self.best_epoch, self.seconds = state["step"], state["best"], state["best_epoch"], state["seconds"]
        self.fabric._precision.load_state_dict(state["precision"])  # the loss scale of 16-mixed
        rank = self.fabric.global_rank
        torch.set_rng_state(state["rng"][rank].cpu())
        if self._on_cuda and state["rng_cuda"]:
            torch.cuda.set_rng_state(state["rng_cuda"][rank].cpu(), self.fabric.device)


def _of_every_process(value: Tensor, fabric: Fabric) -> list[Tensor]:
    """A tensor of each process, by rank. All processes must call this together."""
    if fabric.world_size == 1:
        return [value]
    value = value.to(fabric.device)
    gathered = [torch.empty_like(value) for _ in range(fabric.world_size)]
    torch.distributed.all_gather(gathered, value)
    return [one.cpu() for one in gathered]


def _optimizer(segmenter: Segmenter, train: Train) -> torch.optim.Optimizer:
    encoder = {id(p) for p in segmenter.encoder.parameters()}
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for parameter in segmenter.parameters():
        # Norms and biases have one dimension; decaying them only shrinks activations.
        groups.setdefault((id(parameter) in encoder, parameter.ndim > 1), []).append(parameter)
    options = [
        {"params": params, "lr": train.lr * (1 if inside else train.head_lr_factor), "weight_decay": train.weight_decay if decays else 0.0}
        for (inside, decays), params in groups.items()
    ]
    if train.optimizer == "adamw":
        return torch.optim.AdamW(options, lr=train.lr)
    return torch.optim.SGD(options, lr=train.lr, momentum=train.momentum)


def _ema(decay: float) -> Callable[[Any, Any, Any], None]:
    def average(averages: list[Tensor], current: list[Tensor], count: Tensor | int) -> None:
        # Early on the average follows quickly, or it would carry the random start for a thousand steps.
        weight = 1 - min(decay, (1 + int(count)) / (10 + int(count)))
        if averages[0].is_floating_point():  # torch hands over one dtype at a time; BatchNorm's step counters stay as they are
            torch._foreach_lerp_(averages, current, weight)

    return average


def fit(
    recipe: Recipe, segmenter: Segmenter, frames: Frames, validation: Split, story: Story, folder: RunFolder, weights: Path, facts: dict[str, Any],
    fabric: Fabric, resume: bool,
) -> dict[str, Any]:  # fmt: skip
    """Train ``segmenter`` in place by ``story``; the best on validation goes to ``weights``.

    Args:
        facts: written into the checkpoint's metadata beside the figures; what ``ORIGIN`` names of them is the state's, too.
        resume: go on from ``folder.state`` where there is one.

    Returns:
        Summary values: best and last mIoU, epochs, seconds.

    Raises:
        DivergedError: the loss isn't finite; names the batch's samples.
        Interrupted: Ctrl-C, SIGTERM or SIGHUP, after saving the state.
    """
    train = recipe.train
    trainee = Trainee(segmenter, train, fabric)
    origin = {key: facts[key] for key in ORIGIN if key in facts}
    resumed = read_state(folder, trainee, origin, len(frames)) if resume and folder.state.is_file() else None
    # Every process sees the whole batch order and takes its share; a resumed run starts in the middle of it.
    order = {"count": len(frames), "batch": train.batch, "epochs": train.epochs, "seed": train.seed}
    sampler = StepSampler(**order, start=trainee.step, rank=fabric.global_rank, ranks=fabric.world_size)
    crops = Crops(frames, RandomScaleCrop(recipe.augment, recipe.data.size), train.seed)
    loader = fabric.setup_dataloaders(
        training_loader(crops, sampler, recipe.data.workers, fabric.device.type == "cuda"), use_distributed_sampler=False
    )
    total, per_epoch = train.epochs * sampler.steps_per_epoch, sampler.steps_per_epoch
    measured: dict[str, Any] | None = None
    rows = resumed.rows if resumed else []
    with Logbook(folder, train.epochs, total, rows, trainee.step, fabric.is_global_zero) as book, StopRequest() as stop:
        if resumed:
            book.restore(resumed.sums)
        segmenter.train()
        since, pending = time.perf_counter(), None
        for batch in _until_lost(batches(loader), lambda: _save(trainee, folder, book, fabric, origin), trainee):
            progress = trainee.step / total
            signs, terms = trainee.update(batch, story, progress)
            # The loss of the step before is looked at, so that a GPU is never waited for while it has nothing queued.
            _check_finite(pending, frames.split, trainee.kept)
            pending = (signs, batch.indices)
            book.step(story.stage(progress), terms, len(batch.images))
            epoch, inside = divmod(trainee.step, per_epoch)
            if inside == 0:
                _check_finite(pending, frames.split, trainee.kept)
                trainee.seconds += time.perf_counter() - since
                last = epoch == train.epochs
                measured = None
                if epoch % recipe.evaluation.every == 0 or last:
                    measured = _measure(recipe, trainee, validation)
                    _keep_best(trainee, measured, folder, weights, facts, epoch)
                if fabric.is_global_zero:
                    _check_there(folder)
                if story.picture and fabric.is_global_zero and train.pictures_every and (epoch % train.pictures_every == 0 or last):
                    story.picture(folder.pictures / f"epoch_{epoch:03d}.png", trainee.evaluated.eval())
                segmenter.train()
                book.epoch(
                    epoch,
                    story.stage(progress),
                    trainee.lrs[0] * learning_rate_factor(progress, train.warmup, train.power),
                    measured,
                    trainee.seconds,
                )
                since = time.perf_counter()
            stopping = _agreed(stop.number, trainee.step, inside == 0, fabric)
            if stopping or (inside == 0 and (epoch % train.save_every == 0 or epoch == train.epochs)):
                _check_finite(pending, frames.split, trainee.kept)
                trainee.seconds += time.perf_counter() - since
                since = time.perf_counter()
                _save(trainee, folder, book, fabric, origin)
            if stopping:
                raise Interrupted(
                    f"interrupted at step {trainee.step} of {total}; the state is saved, go on with the same command and --resume",
                    stopping,
                )
    return {"best": {"epoch": trainee.best_epoch, "miou_pct": trainee.best}, "last": measured or _measure(recipe, trainee, validation), "epochs": train.epochs, "steps": total,
            "train_seconds": round(trainee.seconds, 1), "precision": str(fabric._precision.precision),
            "emulated": is_emulated(str(fabric._precision.precision), fabric.device.type)}  # fmt: skip


def _until_lost(loading: Iterator[Batch], save: Callable[[], None], trainee: Trainee) -> Iterator[Batch]:
    """The batches; where one can't be loaded, the state that was reached is saved first. Of several processes the others couldn't save theirs."""
    begun = trainee.step
    try:
        yield from loading
    except LoadingError as error:
        if trainee.step == begun or trainee.fabric.world_size > 1:
            raise
        save()
        raise LoadingError(f"{error}. The state at step {trainee.step} is saved: go on with the same command and --resume") from error


def _check_there(folder: RunFolder) -> None:
    """Raise DiskError where the run's folder was taken away: written again, it would lack what was there."""
    if not folder.recipe.is_file():
        raise DiskError(
            f"the run's folder {folder.path} was moved or deleted while it was being trained; put it back and go on with the same command and "
            "--resume, or train again"
        )


def _save(trainee: Trainee, folder: RunFolder, book: Logbook, fabric: Fabric, origin: dict[str, str]) -> None:
    _check_weights(trainee.segmenter, trainee.kept)
    state = trainee.state()
    if fabric.is_global_zero:
        _check_there(folder)
        buffer = io.BytesIO()
        torch.save(state | {"origin": origin, "rows": book.rows, "sums": book.sums}, buffer)
        files.write_bytes(folder.state, buffer.getvalue())
    fabric.barrier()


def _measure(recipe: Recipe, trainee: Trainee, validation: Split) -> dict[str, Any]:
    """mIoU on validation; DivergedError where the weights aren't finite."""
    network = trainee.evaluated.eval()
    _check_weights(network, trainee.kept)
    predict = torch_predictor(network, recipe.data.size, trainee.fabric.device, str(trainee.fabric._precision.precision))
    return evaluate_split(predict, validation, recipe.evaluation.batch).summary()


def _check_weights(network: Segmenter, kept: str) -> None:
    """Raise DivergedError where the last step left weights that aren't finite; its loss, computed before it, can't tell."""
    if broken := [name for name, value in network.named_parameters() if not value.isfinite().all()]:
        raise DivergedError(f"the weights are no longer finite (e.g. {broken[0]}); lower train.lr or lengthen train.warmup{kept}")


def _keep_best(trainee: Trainee, measured: dict[str, Any], folder: RunFolder, weights: Path, facts: dict[str, Any], epoch: int) -> None:
    """Save the network where it is the best so far."""
    miou = float(measured["miou_pct"] or 0.0)
    if miou > trainee.best:
        trainee.best, trainee.best_epoch = miou, epoch
        if trainee.fabric.is_global_zero:
            _check_there(folder)
            save_segmenter(weights, trainee.evaluated, facts | {"epoch": epoch, "miou_pct": miou})


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


def seed_everything(seed: int) -> None:
    """Seed torch and numpy: initial weights, dropout."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
