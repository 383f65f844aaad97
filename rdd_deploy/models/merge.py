"""Encoders that train with parallel branches (RepViT, FastViT, MobileOne, RepVGG) as they are deployed: one convolution
for each bundle of branches.
"""

from __future__ import annotations

import copy

import torch
from timm.utils import reparameterize_model

from rdd_deploy import console
from rdd_deploy.models.segmenter import Segmenter

TOLERANCE = 1e-3
"""Largest difference of the logits between the trained and the merged network, in their largest one."""
TRIAL = (64, 96)
"""Frame size at which the two are compared."""


def has_branches(segmenter: Segmenter) -> bool:
    """Whether timm can merge anything in the encoder."""
    ways = ("fuse", "reparameterize", "switch_to_deploy")
    return not segmenter.merged and any(hasattr(module, way) for module in segmenter.encoder.modules() for way in ways)


def merge(segmenter: Segmenter) -> None:
    """Merge the encoder's branches, in place; the segmenter is in eval mode after it and can't be trained as before."""
    segmenter.eval()
    segmenter.encoder = reparameterize_model(segmenter.encoder)
    segmenter.merged = True


def merge_checked(segmenter: Segmenter) -> float | None:
    """Merge the encoder's branches in place where that leaves the logits of a frame as they are.

    Returns:
        The largest difference of the logits, in their largest one; None where there is nothing to merge, or where
        merging isn't exact (then there is a warning, and the segmenter stays as it was).
    """
    if not has_branches(segmenter):
        return None
    merged = copy.deepcopy(segmenter)
    try:
        merge(merged)
        error = _difference(segmenter, merged)
        problem = f"their logits differ by {error:.1e} of the largest one, expected at most {TOLERANCE:g}"
    except (RuntimeError, AttributeError, TypeError, ValueError, AssertionError) as failure:
        error, problem = float("nan"), (str(failure).splitlines() or [type(failure).__name__])[0]
    if not error <= TOLERANCE:
        console.warn(
            f"encoder '{segmenter.network.encoder}' is exported as it was trained, its branches can't be merged:"
            f" {problem}"
        )
        return None
    segmenter.encoder, segmenter.merged = merged.encoder, True
    return error


def merge_error(segmenter: Segmenter) -> float | None:
    """What ``merge_checked`` would return; the segmenter stays as it is."""
    return merge_checked(copy.deepcopy(segmenter).eval().cpu()) if has_branches(segmenter) else None


def _difference(trained: Segmenter, merged: Segmenter) -> float:
    frames = torch.randint(0, 256, (1, 3, *TRIAL), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    with torch.inference_mode():
        before, after = (network.eval()(frames).primary for network in (trained, merged))
    return float((before - after).abs().max() / before.abs().max())
