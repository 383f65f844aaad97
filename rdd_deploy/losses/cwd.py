"""Channel-wise distillation (Shu, Liu, Gao, Yan, Shen, "Channel-Wise Knowledge Distillation for Dense Prediction", ICCV
2021).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from rdd_deploy.losses import Void
from rdd_deploy.losses.checks import above_zero, void_rule
from rdd_deploy.losses.maps import map_pair, pixel_log_softmax, same_classes
from rdd_deploy.losses.processes import mean_images
from rdd_deploy.outputs import Output


class ChannelWise(nn.Module):
    """T² / (N · C) · Σ_n Σ_c KL(φ_t ‖ φ_s) of ``logits``, with φ the softmax of z / T of image n and class c over the
    pixels.

    Args:
        temperature: T > 0.
        void: ``skip``: the softmax is over the valid pixels, and images without any don't count in N; ``keep``: over
            all.

    Shape:
        - ``logits`` (N, C, h, w) of the student, (N, C, h', w') of the teacher; target int (N, H, W) -> float32 scalar,
          0 where all is void.

    Raises:
        ValueError: an option isn't as above; student and teacher differ in classes.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"logits"})

    def __init__(self, temperature: float = 4.0, void: Void = "skip") -> None:
        super().__init__()
        self.temperature, self.void = above_zero("temperature", temperature), void_rule(void)

    def forward(self, student: Output, teacher: Output, target: Tensor) -> Tensor:
        pair = same_classes(map_pair(student, teacher, "logits", target, self.void), "cwd")
        with torch.autocast(target.device.type, enabled=False):
            return channel_divergence(pair.student, pair.teacher, pair.valid, self.temperature)


class ChannelWiseFeatures(nn.Module):
    """``ChannelWise`` of W f_s and f_t of ``head``, over the teacher's D channels; W: a 1×1 convolution without bias,
    trained.

    Code that divides by the student's width takes other weights: λ by the student's width is λ · (teacher's width /
    student's) here.

    Args:
        temperature: T > 0.
        void: as ``ChannelWise``.
        student_channels, teacher_channels: width of each network's ``head``.

    Shape:
        - ``head`` (N, D, h, w) of the student, (N, E, h', w') of the teacher; target int (N, H, W) -> float32 scalar, 0
          where all is void.

    Raises:
        ValueError: an option isn't as above.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"head"})

    def __init__(
        self,
        temperature: float = 4.0,
        void: Void = "skip",
        *,
        student_channels: Mapping[str, int],
        teacher_channels: Mapping[str, int],
    ) -> None:
        super().__init__()
        self.temperature, self.void = above_zero("temperature", temperature), void_rule(void)
        self.project = nn.Conv2d(student_channels["head"], teacher_channels["head"], 1, bias=False)

    def forward(self, student: Output, teacher: Output, target: Tensor) -> Tensor:
        pair = map_pair(student, teacher, "head", target, self.void)
        with torch.autocast(target.device.type, enabled=False):
            return channel_divergence(self.project(pair.student), pair.teacher, pair.valid, self.temperature)


def channel_divergence(own: Tensor, other: Tensor, valid: Tensor, temperature: float) -> Tensor:
    """T² · KL(φ_t ‖ φ_s) of ``other`` and ``own`` (N, D, h, w), mean over the channels and over the batch's images with
    valid pixels.
    """
    log_s, log_t = (pixel_log_softmax(values / temperature, valid) for values in (own, other))
    divergence = (log_t.exp() * (log_t - log_s)).sum()  # void pixels: 1 · (0 − 0)
    return temperature**2 * divergence / (own.shape[1] * mean_images(valid))
