"""Recipe sections of the distillation's losses."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from rdd_deploy.losses import LOSSES
from rdd_deploy.schema import Part, Positive, Share


class TeacherFull(Part):
    """Stage 1 of RDD (TFE): the teacher's two classifiers weigh each pixel; easy ones count most (paper, Eq. 6-8)."""

    divergence: Literal["main_aux", "aux_main"] = Field(
        "main_aux", description="KL(main‖aux), the paper's, or KL(aux‖main)"
    )


class TeacherStudent(Part):
    """Stage 2 of RDD (TSE): pixels that exactly one of the two networks finds hard (paper, Eq. 9)."""

    rule: Literal["xor", "and", "or", "lead", "student"] = Field(
        "xor",
        description=(
            "a pixel counts if it is hard for exactly one, both, either, the student and not the teacher, or the"
            " student"
        ),
    )
    threshold: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.7, description="a pixel is hard up to this probability of its true class"
    )
    min_kept: Annotated[float | int, Field(ge=0, le=2**40)] = Field(
        0.05, description="share of the whole batch's pixels (0 to 1) or a count (integer)"
    )
    min_kept_per_class: Annotated[float | int, Field(ge=0, le=2**40)] = Field(
        0,
        description=(
            "at least so many of the student's hardest pixels of each class in the whole batch count, whatever the rule"
            " says: a count (integer) or a share of the class's pixels (0 to 1)"
        ),
    )
    reduction: Literal["kept", "all"] = Field(
        "kept", description="mean over the kept pixels, or their sum over all valid pixels"
    )
    class_weights: Literal["none", "balanced"] = Field(
        "none",
        description=(
            "balanced: rare classes weigh more, as in train.task_loss: balanced; the mean divides by the weights"
        ),
    )

    def rules(self) -> Iterator[tuple[str, str]]:
        """A share is one."""
        for key in ("min_kept", "min_kept_per_class"):
            if isinstance(value := getattr(self, key), float) and value > 1:
                yield key, f"{key} is {value}; expected a share from 0 to 1, or a whole number of pixels"


class ExtraLoss(Part):
    """A further distillation loss beside the plain KD term."""

    name: Literal[tuple(LOSSES)] = Field(description="which loss")  # type: ignore[valid-type]
    weight: Positive = Field(1.0, description="factor in the sum of losses")
    options: dict[str, Any] = Field(default_factory=dict, description="the loss's own")

    def rules(self) -> Iterator[tuple[str, str]]:
        """The options are the loss's own."""
        for problem in LOSSES[self.name].problems(self.options, f"the loss '{self.name}'"):
            yield "name options", problem


class WithoutLabels(Part):
    """How frames without labels (``data.unlabelled``) join: KD at all of their pixels, the task loss on the teacher's
    labels where it is sure.
    """

    share: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.5, description="of each batch; 0: none join. An epoch stays a pass over the labelled frames"
    )
    threshold: Share = Field(0.9, description="the teacher is sure from this probability of its likeliest class on")
    quantile: Share = Field(
        0.5,
        description=(
            "a class that the teacher is less sure of has a lower threshold: this quantile of its probability over the"
            " pixels that it gives to the class; 1: all have the same"
        ),
    )
    thresholds: dict[str, Share] = Field(
        default_factory=dict, description="by class name, for some classes in place of both"
    )


class Distillation(Part):
    """Two-stage Relative Difficulty Distillation and the distillation losses beside it."""

    renamed: ClassVar[dict[str, str]] = {
        "stage_share": "tfe_fraction", "hand_over": "transition", "hand_over: switch": "transition: hard", "teacher_full": "tfe",
        "teacher_student": "tse", "task_weight": "ce_weight",
    }  # fmt: skip
    method: Literal["rdd", "kd"] = Field("rdd", description="rdd weights the task loss; kd leaves it plain")
    tfe_fraction: Share = Field(0.1, description="share of the iterations in stage 1; 0: TSE only, 1: TFE only")
    transition: Literal["hard", "linear"] = Field(
        "hard", description="linear fades stage 1 out from tfe_fraction to the end of the run"
    )
    tfe: TeacherFull = TeacherFull()
    tse: TeacherStudent = TeacherStudent()
    ce_weight: Annotated[float, Field(ge=0)] = Field(
        0.0, description="plain cross-entropy added beside the weighted one (0: the paper's)"
    )
    kd_weight: Annotated[float, Field(ge=0)] = Field(1.0, description="λ of the pixel-wise KD term")
    temperature: Positive = Field(1.0, description="of the KD term")
    unlabelled: WithoutLabels = WithoutLabels()
    losses: list[ExtraLoss] = Field(default_factory=list, max_length=16, description="further distillation losses")

    def clashes(self, task_loss: str) -> Iterator[str]:
        """What a distillation can't do with ``train.task_loss``, in sentences; a student alone can."""
        if self.method == "rdd" and task_loss == "ohem":
            yield (
                "train.task_loss is ohem, but RDD's stages choose the pixels; expected ce or balanced, or"
                " distillation.method=kd: for OHEM's pixels in stage 2 set distillation.tse.rule=student"
            )
        if task_loss == "balanced" and self.tse.class_weights == "balanced":
            yield (
                "train.task_loss and distillation.tse.class_weights are both balanced; expected one of them: the first"
                " holds in all stages and in plain KD, the second in stage 2 of RDD"
            )

    def unused(self) -> Iterator[str]:
        """Keys of stages that this distillation hasn't, where they aren't at their defaults, each with the reason."""
        whole = {"tfe": self.tfe_fraction == 0, "tse": self.tfe_fraction == 1}
        for stage, never in whole.items():
            part: Part = getattr(self, stage)
            names = [
                name for name in type(part).model_fields if getattr(part, name) != type(part).model_fields[name].default
            ]
            if names and (never or self.method == "kd"):
                why = "distillation.method is kd" if self.method == "kd" else f"tfe_fraction is {self.tfe_fraction:g}"
                keys = ", ".join(f"distillation.{stage}.{name}" for name in names)
                yield f"{keys} {'does' if len(names) == 1 else 'do'} nothing here: {why}"
