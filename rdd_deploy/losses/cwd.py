"""Channel-wise distillation (Shu, Liu, Gao, Yan, Shen, "Channel-wise Knowledge Distillation for Dense Prediction", ICCV 2021)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rdd_deploy.losses.kd import checked_temperature


class ChannelWise(nn.Module):
    """T² / C · Σ_c KL(softmax over the pixels of the teacher's map c ‖ the student's), mean over the batch; T = 4 (paper, Eq. 4-6).

    Shape: student and teacher logits (N, C, H, W), target (N, H, W) unused (the paper's loss knows no void) -> float32 scalar.
    """

    def __init__(self, temperature: float = 4.0) -> None:
        super().__init__()
        self.temperature = checked_temperature(temperature)

    def forward(self, student_logits: Tensor, teacher_logits: Tensor, target: Tensor) -> Tensor:
        with torch.autocast(student_logits.device.type, enabled=False):
            student = F.log_softmax(student_logits.float().flatten(2) / self.temperature, 2)  # (N, C, HW)
            teacher = F.log_softmax(teacher_logits.detach().float().flatten(2) / self.temperature, 2)
            divergence = (teacher.exp() * (teacher - student)).sum(2)  # (N, C)
            return self.temperature**2 * divergence.mean()
