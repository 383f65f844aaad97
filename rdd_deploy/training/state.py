"""Everything that changes while training: network, optimiser, moving average, progress; saved and restored as one
dictionary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from rdd_deploy import console
from rdd_deploy.data.base import Frame
from rdd_deploy.data.loader import Batch, Beside
from rdd_deploy.errors import RecipeError
from rdd_deploy.models.build import encoder_stages, without_gradient
from rdd_deploy.models.dilated import fast_dilated_gradients
from rdd_deploy.models.segmenter import Segmenter
from rdd_deploy.models.surgery import depthwise_in_float32
from rdd_deploy.outputs import Output
from rdd_deploy.recipe_train import Train
from rdd_deploy.training.average import MovingAverage
from rdd_deploy.training.compiling import HOW, CompilerError, choose_kernels, compiled, compiler_errors, is_compiled
from rdd_deploy.training.determinism import deterministic_layers, not_deterministic
from rdd_deploy.training.fabric import precision_of
from rdd_deploy.training.gradients import gradient_norms
from rdd_deploy.training.memory import says_what_fits
from rdd_deploy.training.whole_batch import one_dropout, synchronised


class Loss(NamedTuple):
    """Scalar with gradient, and its named terms (detached scalars) for the log.

    Attributes:
        parts: weighted scalars with gradient that add up to ``total``, ``task`` among them; where there are several,
            their gradients are compared once an epoch.
    """

    total: Tensor
    terms: dict[str, Tensor]
    parts: Mapping[str, Tensor] = {}


class Objective(nn.Module):
    """What a training minimises. Its parameters are optimised with the network's; they and its buffers are saved and
    resumed.

    Nothing of it is in the exported weights or their moving average. Under several processes buffers are the first
    one's.
    """

    maps: frozenset[str] = frozenset()
    """Names of the network's maps (``outputs.MAPS``) that it reads."""

    def forward(self, output: Output, batch: Batch, progress: float) -> Loss:
        """The loss of the network's output on a batch, at a progress in [0, 1); called outside autocast."""
        raise NotImplementedError


class Method(NamedTuple):
    """What differs between supervised training and distillation."""

    objective: Objective
    stage: Callable[[float], str]
    """Name of the stage at a progress in [0, 1)."""
    visualize: Callable[[Segmenter], Frame] | None
    """Draws the epoch's picture, uint8 (H, W, 3) RGB, given the network in eval mode."""
    beside: Beside | None = None
    """Reads what the objective needs beside each batch."""
    share: float = 0.0
    """Of each batch that frames without labels have."""


class _Step(nn.Module):
    """Network and objective as one forward, so that several processes synchronise the gradients of both."""

    def __init__(self, segmenter: Segmenter, objective: Objective) -> None:
        super().__init__()
        self.segmenter, self.objective = segmenter, objective
        self.plain()

    def plain(self) -> None:
        """Compute as it is written."""
        self.compiled = False
        self._encode, self._decode = self.segmenter.encoded, self.segmenter.decoded

    def compile_for(self, device: torch.device) -> None:
        """Compute by compiled graphs: two, for the gradient at what is handed from one to the other."""
        self.compiled = True
        self._encode, self._decode = compiled(self.segmenter.encoded, device), compiled(self.segmenter.decoded, device)
        torch._functorch.config.donated_buffer = (
            False  # or a compiled backward would reuse its inputs' memory, and couldn't run once a term
        )

    def forward(
        self, batch: Batch, progress: float, scale: Tensor | float | None = None
    ) -> tuple[Loss, dict[str, Tensor]]:
        """The loss and, where a ``scale`` for gradients is given, the norm of each part's gradient at the encoder's
        maps.
        """
        batch = batch._replace(labels=batch.labels.long())  # they travel as bytes, and only here they are indices
        if self.compiled and batch.images.is_cuda:  # what a graph said in the step before may be overwritten
            torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
        # Views, or the gradient at a map would hold what reaches it from the next one through the encoder.
        features = [one.view_as(one) for one in self._encode(batch.images)]
        output = self._decode(features, batch.images.shape[-2:], self.objective.maps)
        with torch.autocast(batch.images.device.type, enabled=False):
            loss: Loss = self.objective(output, batch, progress)
            norms = gradient_norms(loss.parts, features, scale) if scale is not None and len(loss.parts) > 1 else {}
        return Loss(loss.total, loss.terms), norms


def learning_rate_factor(progress: float, warmup: float, power: float) -> float:
    """Poly schedule with linear warm-up: (1 − progress)^power, times progress / warmup before that share is over."""
    return float((1 - progress) ** power * (min(1.0, progress / warmup) if warmup else 1.0))


class TrainState:
    """Everything that changes while training, so that saving and resuming it is one dictionary.

    Args:
        steps: of the whole run, by which ``train.compile: auto`` goes.
    """

    def __init__(
        self, segmenter: Segmenter, objective: Objective, train: Train, fabric: Fabric, steps: int = 0
    ) -> None:
        self.segmenter, self.objective, self.config, self.fabric = segmenter, objective, train, fabric
        if fabric.device.type == "cpu" and precision_of(fabric) == "bf16-mixed":
            depthwise_in_float32(segmenter)
        if fabric.device.type == "cpu":
            fast_dilated_gradients(segmenter)
        segmenter = segmenter.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if fabric.world_size > 1:
            _freeze_unused(segmenter, objective.maps)
        step = _Step(segmenter, objective)
        one_dropout(step)
        if fabric.world_size > 1:
            synchronised(step)
        self._step = step
        if is_compiled(train, fabric, steps):
            step.compile_for(fabric.device)
        choose_kernels(fabric)
        optimizer = _optimizer(segmenter, objective, train, _is_fused(train, fabric))
        self.model, self.optimizer = fabric.setup(step, optimizer)
        self.average = MovingAverage(segmenter, train.ema) if train.ema else None
        self.lrs = [group["lr"] for group in optimizer.param_groups]
        self.step, self.best, self.best_epoch = 0, -1.0, 0
        self.seconds = 0.0
        self.gradients: dict[str, Tensor] = {}
        """Norm of each term's gradient at the encoder's maps in the last step, where it was asked for and there are several."""

    @property
    def best_weights_note(self) -> str:
        """What a diverging run ends with: where there are weights of before, that they are still there."""
        return ". The best weights so far are kept" if self.best_epoch else ""

    @property
    def evaluated(self) -> Segmenter:
        """The network that is measured and saved: the average where there is one."""
        return self.average.module if self.average is not None else self.segmenter  # type: ignore[return-value]

    @says_what_fits
    def update(self, batch: Batch, progress: float, compare: bool = False) -> tuple[Tensor, dict[str, Tensor]]:
        """One optimiser step; returns its loss (and the gradient's norm where it is clipped) and the loss's terms,
        still on the device.

        Args:
            compare: take the norm of each term's gradient into ``gradients``, too; the step itself stays the same.
        """
        factor = learning_rate_factor(progress, self.config.warmup, self.config.power)
        for group, lr in zip(self.optimizer.param_groups, self.lrs, strict=True):
            group["lr"] = lr * factor
        scale = self._gradient_scale if compare else None
        try:
            loss = self._pulled(batch, progress, scale)
        except CompilerError as error:
            if self.config.compile != "auto":
                raise
            console.warn(f"{error}; this run goes on without it")
            self._step.plain()
            loss = self._pulled(batch, progress, scale)
        signs = [loss.total.detach()]
        if self.config.clip:
            norm = self.fabric.clip_gradients(
                self.model, self.optimizer, max_norm=self.config.clip, error_if_nonfinite=False
            )
            # There the loss scale finds its way by overflowing.
            if norm is not None and precision_of(self.fabric) != "16-mixed":
                signs.append(norm.detach().to(signs[0]))
        self.optimizer.step()
        if self.average is not None:
            self.average.update()
        self.step += 1
        return torch.stack(signs), loss.terms

    def _pulled(self, batch: Batch, progress: float, scale: Tensor | float | None) -> Loss:
        """Forward and backward."""
        with compiler_errors() if self._step.compiled else nullcontext():
            try:
                loss, self.gradients = self._loss(batch, progress, scale)
                self.optimizer.zero_grad(set_to_none=True)
                self.fabric.backward(loss.total)
            except RuntimeError as error:
                if (told := not_deterministic(error)) is None:
                    raise
                raise told from error
        return loss

    @property
    def _gradient_scale(self) -> Tensor | float:
        """That of the loss in 16-mixed, where small gradients vanish."""
        scaler = getattr(self.fabric._precision, "scaler", None)
        return 1.0 if scaler is None else scaler.scale(torch.ones((), device=self.fabric.device))  # type: ignore[no-any-return]

    def _loss(self, batch: Batch, progress: float, scale: Tensor | float | None) -> tuple[Loss, dict[str, Tensor]]:
        try:
            with deterministic_layers(self.config.deterministic):
                return self.model(batch, progress, scale)  # type: ignore[no-any-return]
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            raise RecipeError(
                f"a batch of {len(batch.images)} crop of {batch.images.shape[-2]}x{batch.images.shape[-1]} leaves"
                " BatchNorm a single value per channel; set train.batch to 2 or more (with as many frames), or choose"
                " the head lraspp or pspnet and a larger augment.crop"
            ) from error

    def state(self, alone: bool = False) -> dict[str, Any]:
        """Tensors, numbers and strings only, so that it loads with ``weights_only``.

        Args:
            alone: with this process's random numbers only, so that the others needn't take part.
        """
        of_all = (lambda value, _: [value]) if alone else _of_every_process
        return {
            "format": 4, "model": self.segmenter.state_dict(), "objective": self.objective.state_dict(), "optimizer": self.optimizer.state_dict(), "step": self.step, "best": self.best,
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
        self.objective.load_state_dict(state["objective"])
        for saved, own in zip(state["optimizer"]["param_groups"], self.optimizer.param_groups, strict=True):
            saved |= {key: own[key] for key in HOW if key in own}  # as this device computes it
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.step, self.best, self.best_epoch, self.seconds = (
            state["step"],
            state["best"],
            state["best_epoch"],
            state["seconds"],
        )
        self.fabric._precision.load_state_dict(state["precision"])  # the loss scale of 16-mixed
        # All processes draw the same numbers, so that a state of another number of them will do.
        rank = self.fabric.global_rank if len(state["rng"]) == self.fabric.world_size else 0
        torch.set_rng_state(state["rng"][rank].cpu())
        if self._on_cuda and state["rng_cuda"]:
            torch.cuda.set_rng_state(state["rng_cuda"][rank].cpu(), self.fabric.device)


def _freeze_unused(segmenter: Segmenter, maps: frozenset[str]) -> None:
    """Freeze the parameters that nothing depends on: where several processes train, each waits for the gradients of all
    others.
    """
    if unused := without_gradient(segmenter, maps):
        for name in unused:
            segmenter.get_parameter(name).requires_grad_(False)
        first = ", ".join(unused[:3])
        console.info(
            f"{len(unused)} of the network's parameter tensors reach none of its outputs and are left as they are:"
            f" {first}" + (", …" if len(unused) > 3 else "")
        )


def _of_every_process(value: Tensor, fabric: Fabric) -> list[Tensor]:
    """A tensor of each process, by rank. All processes must call this together."""
    if fabric.world_size == 1:
        return [value]
    value = value.to(fabric.device)
    gathered = [torch.empty_like(value) for _ in range(fabric.world_size)]
    torch.distributed.all_gather(gathered, value)
    return [one.cpu() for one in gathered]


def _is_fused(train: Train, fabric: Fabric) -> bool:
    """One kernel for all parameters, on a GPU. Fabric clips no scaled gradients of such an optimizer."""
    return str(fabric.device.type) == "cuda" and not (train.clip and precision_of(fabric) == "16-mixed")


def _optimizer(segmenter: Segmenter, objective: Objective, train: Train, fused: bool) -> torch.optim.Optimizer:
    rates = _learning_rates(segmenter, train)
    groups: dict[tuple[float, bool, bool], list[nn.Parameter]] = {}
    for parameter in (*segmenter.parameters(), *objective.parameters()):
        # Norms and biases have one dimension; decaying them only shrinks activations.
        inside = id(parameter) in rates
        lr = rates.get(id(parameter), train.lr * train.head_lr_factor)
        groups.setdefault((lr, inside, parameter.ndim > 1), []).append(parameter)
    options = [
        {"params": params, "lr": lr, "weight_decay": train.weight_decay if decays else 0.0}
        for (lr, _, decays), params in groups.items()
    ]
    if train.optimizer == "adamw":
        return torch.optim.AdamW(options, lr=train.lr, fused=fused or None)
    return torch.optim.SGD(options, lr=train.lr, momentum=train.momentum, fused=fused or None)


def _learning_rates(segmenter: Segmenter, train: Train) -> dict[int, float]:
    """The learning rate of each of the encoder's parameters, by its id."""
    if train.layer_decay == 1:
        return {id(parameter): train.lr for parameter in segmenter.encoder.parameters()}
    stages = encoder_stages(segmenter)
    last = max(stages.values())
    return {
        id(segmenter.get_parameter(name)): train.lr * train.layer_decay ** (1 + last - stage)
        for name, stage in stages.items()
    }
