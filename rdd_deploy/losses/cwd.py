"""Channel-wise distillation (Shu, Liu, Gao, Yan, Shen, "Channel-wise Knowledge Distillation for Dense Prediction", ICCV 2021)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rdd_deploy.losses.kd import checked_temperature
from rdd_deploy.outputs import Output


class ChannelWise(nn.Module):
    """T² / C · Σ_c KL(softmax over the pixels of the teacher's map c ‖ the student's), mean over the batch; T = 4 (paper, Eq. 4-6).

    Shape: student and teacher logits (N, C, H, W), target (N, H, W) unused (the paper's loss knows no void) -> float32 scalar.
    """

    needs: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, temperature: float = 4.0) -> None:
        super().__init__()
        self.temperature = checked_temperature(temperature)

    def forward(self, student: Output, teacher: Output, target: Tensor) -> Tensor:
        with torch.autocast(student.primary.device.type, enabled=False):
            own = F.log_softmax(student.primary.float().flatten(2) / self.temperature, 2)  # (N, C, HW)
            other = F.log_softmax(teacher.primary.detach().float().flatten(2) / self.temperature, 2)
            divergence = (other.exp() * (other - own)).sum(2)  # (N, C)
            return self.temperature**2 * divergence.mean()
