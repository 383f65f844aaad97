"""Recipe sections of a training: its schedule, its devices, how it is measured."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from rdd_deploy.schema import Batch, Count, Nodes, Part, Positive, Seed, Share, Size
from rdd_deploy.utils.tables import Entry

DEVICES = ("auto", "cpu", "cuda", "gpu", "mps", "tpu")
"""Fabric's accelerators."""

LOGGERS = {
    "csv": Entry("rdd_deploy.training.loggers.csv_table:CsvLog"),
    "tensorboard": Entry("rdd_deploy.training.loggers.tensorboard:TensorBoardLog"),
    "wandb": Entry("rdd_deploy.training.loggers.wandb:WandbLog"),
    "mlflow": Entry("rdd_deploy.training.loggers.mlflow:MlflowLog"),
}
"""Where a run's figures and pictures go, by the names in ``train.loggers``; see ``rdd_deploy.training.loggers``."""


def _kind_of_device(device: str) -> str:
    kind = device.partition(":")[0]
    if device in DEVICES:
        return device
    if kind in DEVICES:
        raise ValueError(
            f"train.device is '{device}', expected a kind of device; set train.device={kind}, train.devices to how"
            " many, and CUDA_VISIBLE_DEVICES to which"
        )
    near = difflib.get_close_matches(device, DEVICES, 1, 0.5)
    raise ValueError(
        f"got '{device}', expected {', '.join(DEVICES[:-1])} or {DEVICES[-1]}"
        + (f"; did you mean '{near[0]}'?" if near else "")
    )


Device = Annotated[str, AfterValidator(_kind_of_device)]


MOST_EPOCHS = 1_000_000
UNITS = {"s": 1.0, "min": 60.0, "h": 3600.0}


def seconds_of(budget: str) -> float:
    """A time such as 90s, 60min or 1.5h in seconds. Raises ValueError."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?(s|min|h)", budget)
    seconds = float(found[1]) * UNITS[found[2]] if found else 0.0
    if not 0 < seconds <= 3.6e7:
        raise ValueError(f"got '{budget:.40}', expected a time such as 90s, 60min or 3h")
    return seconds


def _is_time(budget: Any) -> str:
    """A number is told as a text without a unit is: quotes alone wouldn't mend it."""
    seconds_of(str(budget))
    return str(budget)


def _squared(size: Any) -> Any:
    return [size, size] if isinstance(size, int) else size


CropSize = Annotated[Size, BeforeValidator(_squared)]


class Train(Part):
    """Schedule and optimiser: poly learning rate with warm-up, as in the paper."""

    renamed: ClassVar[dict[str, str]] = {"save_every": "save_minutes"}

    epochs: Count = Field(60, description="passes over the training frames")
    budget: Annotated[str, BeforeValidator(_is_time)] | None = Field(
        None,
        description=(
            "time for the training, such as 90s, 60min or 3h, in place of epochs: as many as fit, by steps that are"
            " measured when the run begins"
        ),
    )
    progressive: list[tuple[Share, CropSize]] = Field(
        default_factory=list,
        max_length=16,
        description=(
            "crops of other sizes than augment.crop: [[0.0, 160], [0.5, 240]] has crops of 160x160 from the beginning"
            " and of 240x240 from half of the steps on; a size may be [height, width]"
        ),
    )
    batch: Batch = Field(16, description="over all devices together")
    optimizer: Literal["sgd", "adamw"] = Field("sgd", description="the paper's, or the one for short schedules")
    lr: Positive = Field(0.02, description="highest learning rate, of the encoder")
    head_lr_factor: Positive = Field(1.0, description="learning rate of the heads relative to the encoder's")
    layer_decay: Annotated[float, Field(gt=0, le=1)] = Field(
        1.0,
        description=(
            "the learning rate of an encoder's stage is lr · layer_decay^n, n its place below the heads: 1 for the"
            " deepest stage; 1 leaves all alike"
        ),
    )
    momentum: Share = Field(0.9, description="of sgd")
    weight_decay: Annotated[float, Field(ge=0)] = Field(5e-4, description="of the optimiser")
    warmup: Share = Field(0.02, description="share of the iterations with a linear warm-up")
    power: Positive = Field(0.9, description="of the poly decay: lr · (1 − progress)^power")
    clip: Annotated[float, Field(ge=0)] = Field(10.0, description="largest gradient norm; 0 switches clipping off")
    ema: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0, description="decay of the weight average that is evaluated and saved; 0: none"
    )
    task_loss: Literal["ce", "ohem", "balanced"] = Field(
        "ce",
        description=(
            "cross-entropy: plain, of hard pixels only, or class-balanced; also what a distillation weighs, where RDD"
            " refuses ohem, since it chooses the pixels"
        ),
    )
    region_loss: Literal["none", "dice", "lovasz"] = Field(
        "none",
        description=(
            "added to the task loss and not weighed by RDD: each class by its overlap, however few pixels it has"
        ),
    )
    region_weight: Positive = Field(1.0, description="of the region loss")
    min_kept_per_class: Annotated[float | int, Field(ge=0, le=2**40)] = Field(
        0,
        description=(
            "of ohem: at least so many of the hardest pixels of each class in the batch, a count (integer) or a share of"
            " the class's pixels (0 to 1)"
        ),
    )
    auxiliary_weight: Annotated[float, Field(ge=0)] = Field(0.4, description="of the auxiliary head's loss")
    class_bias: bool = Field(
        False,
        description=(
            "at the end, fit an offset of each class's logits for the highest mIoU on training frames and fold all or"
            " half of it into the classifier, whichever mIoU on validation rises most by; left out where it doesn't rise."
            " Of the best weights: the last epoch's figure is without"
        ),
    )
    seed: Seed = Field(0, description="of weights, crops and order")
    device: Device = Field("auto", description=f"{', '.join(DEVICES)}; an unavailable one is an error")
    devices: Nodes = Field(1, description="number of GPUs (or processes on a CPU)")
    nodes: Nodes = Field(1, description="number of machines")
    precision: Literal["auto", "32-true", "bf16-mixed", "16-mixed"] = Field(
        "auto", description="auto: bf16 where the device multiplies in it, else float32"
    )
    tf32: bool = Field(
        False, description="GPUs may multiply float32 numbers in TensorFloat-32, of 10 bits: faster, and not float32"
    )
    deterministic: bool = Field(
        False, description="the same run twice is the same to the bit on a GPU, too; slower there"
    )
    compile: bool | Literal["auto"] = Field(
        "auto",
        description="torch.compile, with CUDA graphs on a GPU; auto: there, for one process from 20 000 steps on, unless deterministic",
    )
    save_minutes: Annotated[float, Field(ge=0, le=1_000_000)] = Field(
        5.0,
        description=(
            "minutes between resumable states, beside those after the first and the last epoch; 0: after each epoch"
        ),
    )
    pictures_every: Annotated[int, Field(ge=0, le=1_000_000)] = Field(
        10, description="epochs between pictures; 0: none"
    )
    loggers: list[Literal[tuple(LOGGERS)]] = Field(  # type: ignore[valid-type]
        ["csv", "tensorboard"], description="where figures and pictures go; csv (metrics.csv) is always written"
    )

    @model_validator(mode="before")
    @classmethod
    def _left_to_the_budget(cls, tree: Any) -> Any:
        """``epochs: null`` is as if they weren't there: so an override leaves a file's to the budget."""
        if isinstance(tree, dict) and "epochs" in tree and tree["epochs"] is None:
            return {key: value for key, value in tree.items() if key != "epochs"}
        return tree

    @model_serializer(mode="wrap")
    def _one_of_both(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        tree: dict[str, Any] = handler(self)
        if self.budget is not None:
            tree.pop("epochs", None)
        return tree

    @classmethod
    def presence(cls, given: set[str]) -> Iterator[str]:
        """A length of one kind."""
        if {"epochs", "budget"} <= given:
            yield (
                "train.epochs and train.budget are both given; the budget chooses the epochs, so leave out one of them"
                " (train.epochs=null takes a file's away)"
            )

    def rules(self) -> Iterator[tuple[str, str]]:
        """Each device takes an equal share of the batch; what can't be the same to the bit is refused; only ohem
        keeps pixels; sizes follow each other.
        """
        begins = [share for share, _ in self.progressive]
        if begins and (begins[0] != 0 or begins[-1] == 1 or begins != sorted(set(begins))):
            yield (
                "progressive",
                f"train.progressive begins its sizes at {begins}; expected rising shares of the steps, the first 0, the"
                " last below 1",
            )
        if isinstance(self.min_kept_per_class, float) and self.min_kept_per_class > 1:
            yield (
                "min_kept_per_class",
                f"train.min_kept_per_class is {self.min_kept_per_class}; expected a share from 0 to 1, or a whole number"
                " of pixels",
            )
        if self.min_kept_per_class and self.task_loss != "ohem":
            yield (
                "min_kept_per_class task_loss",
                f"train.min_kept_per_class is for train.task_loss: ohem, which is {self.task_loss} here; for RDD set"
                " distillation.tse.min_kept_per_class",
            )
        if self.batch % (self.devices * self.nodes):
            yield (
                "batch devices nodes",
                (
                    f"train.batch is {self.batch}, which {self.devices * self.nodes} devices can't share evenly;"
                    " expected a multiple"
                ),
            )
        if self.deterministic and self.compile is True:
            yield (
                "deterministic compile",
                (
                    "train.deterministic and train.compile are both true, but torch's compiler chooses its kernels by"
                    " timing them; expected one of the two, or train.compile=auto, which compiles nothing then"
                ),
            )


def crop_sizes(train: Train, crop: tuple[int, int]) -> list[tuple[float, tuple[int, int]]]:
    """From which share of the steps on crops have which (height, width).

    Args:
        crop: ``augment.crop``, which they have without ``train.progressive``.
    """
    return list(train.progressive) or [(0.0, crop)]


class Evaluation(Part):
    """How mIoU is measured: labels at the size of the annotation, one confusion matrix over the split."""

    split: Literal["val", "test"] = Field(
        "val", description="never train: mIoU on frames that were learned would mean nothing"
    )
    every: Count = Field(5, description="epochs between evaluations")
    batch: Batch = Field(8, description="frames at a time")
