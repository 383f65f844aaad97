"""A few optimiser steps of a real training on made-up batches, in one process or as one of several that have a part of
each batch.
"""

import os
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
import toys
from torch import nn

from rdd_deploy.data.loader import Batch
from rdd_deploy.errors import MachineError
from rdd_deploy.losses.config import Distillation
from rdd_deploy.losses.task import TaskLoss
from rdd_deploy.models.config import Network
from rdd_deploy.models.segmenter import Segmenter
from rdd_deploy.recipe_train import Train
from rdd_deploy.training.fabric import make_fabric
from rdd_deploy.training.objective import DistillationObjective, extra_losses, rdd_loss
from rdd_deploy.training.state import Objective, TrainState
from rdd_deploy.training.supervised import SupervisedObjective
from rdd_deploy.training.teacher import LiveTeacher

STEPS, IMAGES, SIDE = 5, 6, 64
CLASSES = len(toys.CLASSES)
PIXELS = torch.tensor([100, 1000, 300])
"""Of each class, for class weights."""


class Case(NamedTuple):
    """What is trained.

    Attributes:
        train: keys of the recipe's part. student: of the network. distillation: of that part; None: the network alone.
        progress: of the first and the last step.
        spare: give the student a layer that nothing depends on.
    """

    train: Mapping[str, Any] = MappingProxyType({})
    student: Mapping[str, Any] = MappingProxyType({})
    distillation: dict[str, Any] | None = None
    progress: tuple[float, float] = (0.0, 0.9)
    spare: bool = False


class Steps(NamedTuple):
    """What came of it. ``losses`` (and ``terms``, by name) are a process's own: their mean over all is the batch's."""

    losses: list[float]
    terms: list[dict[str, float]]
    masks: list[torch.Tensor]
    gradients: list[dict[str, torch.Tensor]]
    weights: dict[str, torch.Tensor]
    objective: dict[str, torch.Tensor]


def batch(step: int) -> Batch:
    """Stripes, the more void the later the image: the last one is void but for a corner, so that parts of the batch
    count differently.
    """
    pictures = [toys.picture(IMAGES * step + index, SIDE, SIDE) for index in range(IMAGES)]
    images = torch.stack([torch.from_numpy(image).permute(2, 0, 1) for image, _ in pictures])
    labels = torch.stack([torch.from_numpy(mask).long() for _, mask in pictures])
    for index in range(IMAGES):
        labels[index, : 12 * index] = 255
    return Batch(images, labels, torch.zeros(IMAGES, 5, dtype=torch.int64), torch.arange(IMAGES))


def trained(argument: tuple[int, int, Case]) -> Any:
    """The steps as process ``rank`` of ``ranks`` sees them."""
    rank, ranks, case = argument
    if ranks > 1:
        os.environ["LOCAL_RANK"] = str(rank)  # by which Fabric knows that it has nothing to start
    train = Train(
        **{"device": "cpu", "precision": "32-true", "devices": ranks, "batch": IMAGES, "lr": 0.005, **case.train}
    )
    fabric = make_fabric(train)
    fabric.launch()
    torch.manual_seed(train.seed)
    student = Segmenter(Network(**toys.network(**{"dropout": 0.3, **case.student})), CLASSES)
    if case.spare:
        student.spare = nn.Linear(2, 2)
    masks: list[torch.Tensor] = []
    state = TrainState(student, _objective(case, train, student, masks), train, fabric)
    student.train()
    steps = Steps([], [], masks, [], {}, {})
    for step in range(STEPS):
        whole, own = batch(step), slice(rank * IMAGES // ranks, (rank + 1) * IMAGES // ranks)
        first, last = case.progress
        signs, terms = state.update(
            Batch(*(one[own] for one in whole)), first + (last - first) * step / (STEPS - 1), compare=step == 2
        )
        steps.losses.append(float(signs[0]))
        steps.terms.append({name: float(value) for name, value in terms.items()})
        named = [*student.named_parameters(), *state.objective.named_parameters()]
        steps.gradients.append({name: one.grad.clone() for name, one in named if one.grad is not None})
    steps.weights.update(student.state_dict())
    steps.weights.update({f"average {name}": one for name, one in state.evaluated.state_dict().items()})
    steps.objective.update(state.objective.state_dict())
    return tuple(steps)


def refused(argument: tuple[int, int, Case, int]) -> str:
    """What a process says whose memory holds so many images, as a GPU says it that is full."""
    *told, fits = argument
    real = TaskLoss.forward

    def forward(self: TaskLoss, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        if len(logits) > fits:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has …")
        return real(self, logits, target)

    TaskLoss.forward = forward  # type: ignore[method-assign]
    try:
        trained(tuple(told))  # type: ignore[arg-type]
    except MachineError as error:
        return str(error)
    finally:
        TaskLoss.forward = real  # type: ignore[method-assign]
    return ""


def _objective(case: Case, train: Train, student: Segmenter, masks: list[torch.Tensor]) -> Objective:
    if case.distillation is None:
        return SupervisedObjective(train, PIXELS)
    config = Distillation(**case.distillation)
    teacher = Segmenter(Network(**toys.network(auxiliary=True, dropout=0.5)), CLASSES)
    for one in teacher.modules():  # its statistics are one batch's, or it would say the same everywhere
        if isinstance(one, nn.BatchNorm2d):
            one.momentum = 1.0
    teacher.train()(batch(STEPS).images)
    loss = rdd_loss(config, PIXELS, train)
    loss.register_forward_hook(lambda _, __, result: masks.append(result.weight))
    return DistillationObjective(
        loss, LiveTeacher(teacher), extra_losses(config, student, teacher), train.auxiliary_weight
    )
