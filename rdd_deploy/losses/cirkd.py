"""Pixel relations across a batch's images (Yang, Zhou, An, Jiang, Xu, Zhang, "Cross-Image Relational Knowledge Distillation for Semantic
Segmentation", CVPR 2022, pp. 12319-12328)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from rdd_deploy.losses import Void
from rdd_deploy.losses.checks import above_zero, count, void_rule
from rdd_deploy.losses.maps import map_pair, mean_pooled, unit
from rdd_deploy.losses.processes import gathered, gathered_with_gradient, mean_count, safe
from rdd_deploy.losses.relations import relation_kl
from rdd_deploy.outputs import Output


class CrossImage(nn.Module):
    """For every ordered pair of images (n, m), n = m included: S = F̂_n F̂_mᵀ / τ of the ``head`` maps' unit vectors over the channels;
    ⟨KL(softmax(S^t_row) ‖ softmax(S^s_row))⟩ over rows, mean over pairs. No factor τ².

    Pairs are of the whole batch's images, also where several processes hold a part of them each: every process compares its own images with
    all. Time grows with the square of all images' pixels, memory doesn't: a window of 2 is 16 times cheaper.

    Args:
        temperature: τ > 0.
        window: maps are mean-pooled by it first, before they are scaled to unit length.
        void: ``skip``: void pixels are neither rows nor columns, and images without others pair with none. ``keep``: they are both.

    Shape: ``head`` maps float (N, D, h, w), any widths; target int (N, H, W) -> float32 scalar; 0 with a zero gradient where all is void.

    Raises:
        ValueError: the map is missing, or an option is none of those above.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"head"})

    def __init__(self, temperature: float = 0.1, window: int = 1, void: Void = "skip") -> None:
        super().__init__()
        self.temperature, self.window, self.void = above_zero("temperature", temperature), count("window", window), void_rule(void)

    def forward(self, student: Output, teacher: Output, target: Tensor) -> Tensor:
        pair = map_pair(student, teacher, "head", target, self.void)
        with torch.autocast(target.device.type, enabled=False):
            own, valid = mean_pooled(pair.student, pair.valid, self.window)
            other, _ = mean_pooled(pair.teacher, pair.valid, self.window)
            rows = _Nodes.of(own, other, valid)
            columns = rows.of_all_processes()
            # All void: a gradient of 0, not none; and every process takes part in the others' gradients.
            loss = 0 * (own.sum() + columns.own.sum())
            for s, t in rows.images():
                for s_other, t_other in columns.images():
                    loss = loss + relation_kl(s, t, s_other, t_other, self.temperature) / len(s)
            pairs = torch.tensor(len(rows.lengths) * len(columns.lengths), device=target.device)
            return loss / safe(mean_count(pairs)).float()


class _Nodes(NamedTuple):
    """Unit vectors at the valid pixels of images that have any: of the student (R, D), of the teacher (R, E), and how many each image has."""

    own: Tensor
    other: Tensor
    lengths: list[int]

    @classmethod
    def of(cls, own: Tensor, other: Tensor, valid: Tensor) -> _Nodes:
        """Those of maps (N, D, h, w) and (N, E, h, w) with valid pixels (N, h, w)."""
        rows, others = (unit(values.permute(0, 2, 3, 1)[valid], 1) for values in (own, other))
        return cls(rows, others, [length for length in valid.flatten(1).sum(1).tolist() if length])

    def of_all_processes(self) -> _Nodes:
        """One process after the other, by rank."""
        lengths = gathered(torch.tensor(self.lengths, dtype=torch.int64, device=self.own.device)).tolist()
        return _Nodes(gathered_with_gradient(self.own), gathered(self.other), lengths)

    def images(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Both networks' vectors of one image at a time."""
        return zip(torch.split(self.own, self.lengths), torch.split(self.other, self.lengths), strict=True)
