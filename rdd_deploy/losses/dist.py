"""Correlations of predictions (Huang, You, Wang, Qian, Xu, "Knowledge Distillation from A Stronger Teacher", NeurIPS
2022).
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from rdd_deploy.losses import Void
from rdd_deploy.losses.checks import not_negative, void_rule
from rdd_deploy.losses.correlation import batch_correlation, channel_correlation
from rdd_deploy.losses.maps import map_pair, same_classes
from rdd_deploy.losses.processes import mean_count, mean_pixels
from rdd_deploy.outputs import Output

EPSILON = 1e-8
"""Added to the product of the two norms, so that a class which nobody predicts has no correlation."""


class DIST(nn.Module):
    """β · (1 − ⟨ρ(p^s_i·, p^t_i·)⟩_i) + γ · (1 − ⟨ρ(p^s_·c, p^t_·c)⟩_c) of the softmax p of ``logits``, ρ Pearson's.

    The first term correlates the classes of each pixel i, the second each class c over the pixels of the whole batch.
    What is constant has ρ = 0 and no gradient; with two classes the first term is a sign.

    Args:
        beta, gamma: of the first and the second term, 0 or more.
        void: ``skip``: void pixels don't count; ``keep``: they do.

    Shape:
        - ``logits`` (N, C, h, w) of the student, (N, C, h', w') of the teacher; target int (N, H, W) -> float32 scalar,
          0 where all is void.

    Raises:
        ValueError: an option isn't as above; student and teacher differ in classes.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"logits"})

    def __init__(self, beta: float = 1.0, gamma: float = 1.0, void: Void = "skip") -> None:
        super().__init__()
        self.beta, self.gamma, self.void = not_negative("beta", beta), not_negative("gamma", gamma), void_rule(void)

    def forward(self, student: Output, teacher: Output, target: Tensor) -> Tensor:
        pair = same_classes(map_pair(student, teacher, "logits", target, self.void), "dist")
        with torch.autocast(target.device.type, enabled=False):
            own, other = pair.student.softmax(1), pair.teacher.softmax(1)
            of_pixels = torch.where(pair.valid, 1 - channel_correlation(own, other, EPSILON), 0).sum() / mean_pixels(
                pair.valid
            )
            of_classes = (1 - batch_correlation(own, other, pair.valid, EPSILON)).mean()
            return self.beta * of_pixels + self.gamma * torch.where(mean_count(pair.valid.sum()) > 0, of_classes, 0)
