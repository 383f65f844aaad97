"""The distillation losses that a recipe can add beside RDD, by their names; torch is imported when one is made.

A new loss is a file here and a line in ``LOSSES``. It is an ``nn.Module`` called as ``loss(student_logits, teacher_logits, target)``.
"""

from __future__ import annotations

from rdd_deploy.schema import Positive
from rdd_deploy.utils.tables import Entry

LOSSES = {
    "kd": Entry("rdd_deploy.losses.kd:PixelKD", {"temperature": Positive}),
    "cwd": Entry("rdd_deploy.losses.cwd:ChannelWise", {"temperature": Positive}),
}
