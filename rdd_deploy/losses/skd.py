"""Pair-wise structured distillation (Liu, Chen, Liu, Qin, Luo, Wang, "Structured Knowledge Distillation for Semantic
Segmentation", CVPR 2019); its adversarial (holistic) term isn't here.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from rdd_deploy.losses import Void
from rdd_deploy.losses.checks import count, void_rule
from rdd_deploy.losses.maps import map_pair, max_pooled, unit
from rdd_deploy.losses.processes import mean_images
from rdd_deploy.outputs import Output


class PairWise(nn.Module):
    """(a^s_jk − a^t_jk)², mean over an image's pairs of nodes (j, k), then over images.

    A node is a window of ``head``, max-pooled and then scaled to length 1 over the channels; a_jk = ĝ_j · ĝ_k.

    Args:
        window: side of a node in pixels of the map, 1 or more; the last ones may be smaller.
        void: ``skip``: a node pools over its valid pixels, those without any don't count, and neither do images without
            nodes; ``keep``: all pixels count.

    Shape:
        - ``head`` (N, D, h, w) of the student, (N, E, h', w') of the teacher, any widths; target int (N, H, W) ->
          float32 scalar, 0 where all is void. M nodes take 4 · M² bytes three times, for one image at a time.

    Raises:
        ValueError: an option isn't as above.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"head"})

    def __init__(self, window: int = 2, void: Void = "skip") -> None:
        super().__init__()
        self.window, self.void = count("window", window), void_rule(void)

    def forward(self, student: Output, teacher: Output, target: Tensor) -> Tensor:
        pair = map_pair(student, teacher, "head", target, self.void)
        with torch.autocast(target.device.type, enabled=False):
            own, some = max_pooled(pair.student, pair.valid, self.window)
            other, _ = max_pooled(pair.teacher, pair.valid, self.window)
            # (N, D, M); nodes that don't count are 0 in both.
            own, other = (
                unit(own, 1).flatten(2),
                unit(other, 1).flatten(2),
            )
            pairs = some.flatten(1).sum(1).clamp(min=1).square()  # (N,)
            sums = torch.stack([_Difference.apply(s, t) for s, t in zip(own, other, strict=True)])
            return (sums / pairs).sum() / mean_images(some)


class _Difference(torch.autograd.Function):
    """Σ_jk (s_j · s_k − t_j · t_k)² of s (D, M) and t (E, M). No M×M matrix outlives it: the gradient is made with the
    value.
    """

    @staticmethod
    def forward(ctx: Any, own: Tensor, other: Tensor) -> Tensor:
        difference = (own.T @ own).sub_(other.T @ other)  # (M, M), symmetric
        ctx.save_for_backward(4 * own @ difference)
        return difference.square_().sum()

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (own,) = ctx.saved_tensors
        return gradient * own, None
