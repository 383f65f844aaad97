"""How hard each term of a loss pulls at the encoder: its gradient's share of the task's."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from rdd_deploy.losses.processes import everywhere

COLUMN = "grad_share_"
"""Prefix of the log's columns."""
MOST, LEAST = 10.0, 0.01
"""Shares of the task's gradient beyond which a term rules the training, or does nothing in it."""
KEYS = {"kd": "distillation.kd_weight", "ce": "distillation.ce_weight", "region": "train.region_weight"}
"""Where a recipe sets a term's weight; that of all others is in ``distillation.losses``."""


def gradient_norms(
    parts: Mapping[str, Tensor], maps: Sequence[Tensor], scale: Tensor | float = 1.0
) -> dict[str, Tensor]:
    """Norm of each part's gradient with respect to maps, over all maps and all processes.

    It costs a backward from the loss to the maps for each part, leaves no gradient anywhere and draws no random
    numbers. Of several processes all must call it.

    Args:
        parts: scalars, of a graph that is kept. maps: float (N, C, h, w), what the encoder hands to the heads.
        scale: factor inside, so that a float16 gradient doesn't vanish.

    Returns:
        float32 scalars by the parts' names, but for one common factor.
    """
    wanted = [one for one in maps if one.requires_grad]
    if not wanted:
        return {}
    squares = [_square(scale * part, wanted) for part in parts.values()]
    norms = everywhere(torch.stack(squares)).sqrt() / scale
    return dict(zip(parts, norms, strict=True))


def _square(part: Tensor, maps: Sequence[Tensor]) -> Tensor:
    if not part.requires_grad:
        return torch.zeros((), device=part.device)
    gradients = torch.autograd.grad(part, maps, retain_graph=True, allow_unused=True)
    squares = [one.float().square().sum() for one in gradients if one is not None]
    return torch.stack(squares).sum() if squares else torch.zeros((), device=part.device)


def shares(norms: Mapping[str, Tensor]) -> dict[str, float]:
    """Each other term's norm divided by the task's; a term is left out where that isn't a number, all where the task
    has no gradient.
    """
    values = dict(zip(norms, torch.stack(list(norms.values())).tolist(), strict=True)) if norms else {}
    task = values.pop("task", 0.0)
    if not 0 < task < math.inf:
        return {}
    return {name: value / task for name, value in values.items() if math.isfinite(value / task)}


def columns(found: Mapping[str, float]) -> dict[str, float]:
    """Shares as columns of the log."""
    return {COLUMN + name: share for name, share in found.items()}


def warnings(row: Mapping[str, Any], before: Sequence[Mapping[str, Any]]) -> list[str]:
    """A sentence for each term whose share in an epoch's row is out of bounds, and wasn't in a row before."""
    return [
        _sentence(name.removeprefix(COLUMN), row[name], row["epoch"])
        for name in row
        if _is_out(name, row) and not any(_is_out(name, one) for one in before)
    ]


def _is_out(name: str, row: Mapping[str, Any]) -> bool:
    return name.startswith(COLUMN) and isinstance(row.get(name), float) and not LEAST <= row[name] <= MOST


def _sentence(name: str, share: float, epoch: int) -> str:
    key = KEYS.get(name, "distillation.losses")
    advice = (
        f"lower its weight ({key}) if the student doesn't learn"
        if share > MOST
        else f"raise its weight ({key}), or leave it out"
    )
    return f"the gradient of '{name}' is {share:.2g} times the task's in epoch {epoch}; {advice}"
