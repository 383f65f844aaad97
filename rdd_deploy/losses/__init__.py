"""Pure tensor functions and small modules. ``EXTRA`` names the distillation losses that a recipe can add beside RDD."""

from __future__ import annotations

from torch import nn

from rdd_deploy.losses.cwd import ChannelWise
from rdd_deploy.losses.difficulty import RelativeDifficultyLoss, teacher_full_evaluated, teacher_student_evaluated
from rdd_deploy.losses.kd import PixelKD, pixel_kd
from rdd_deploy.losses.task import TaskLoss

__all__ = [
    "EXTRA",
    "ChannelWise",
    "PixelKD",
    "RelativeDifficultyLoss",
    "TaskLoss",
    "pixel_kd",
    "teacher_full_evaluated",
    "teacher_student_evaluated",
]

EXTRA: dict[str, type[nn.Module]] = {"kd": PixelKD, "cwd": ChannelWise}
"""Each is a module called as ``loss(student_logits, teacher_logits, target)``."""
