"""The distillation losses that a recipe can add beside RDD, by their names; torch is imported when one is made.

A new loss is a file here and a line in ``LOSSES``. It is an ``nn.Module``:

- ``forward(student: Output, teacher: Output, target) -> scalar``: ``primary`` logits (N, C, H, W) at the target's size, the teacher's without
  gradient; target int (N, H, W).
- ``needs``, a class attribute: names of the maps (``rdd_deploy.outputs.MAPS``) that it reads from both ``features``.
- It may own parameters and buffers, which are trained, saved and resumed. Its constructor gets those of ``student_channels``,
  ``teacher_channels`` (map -> width) and ``classes`` that it names, beside the recipe's options.
"""

from __future__ import annotations

from rdd_deploy.schema import Positive
from rdd_deploy.utils.tables import Entry

LOSSES = {
    "kd": Entry("rdd_deploy.losses.kd:PixelKD", {"temperature": Positive}),
    "cwd": Entry("rdd_deploy.losses.cwd:ChannelWise", {"temperature": Positive}),
}
