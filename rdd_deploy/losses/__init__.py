"""The distillation losses that a recipe can add beside RDD, by their names; torch is imported when one is made.

A new loss is a file here and a line in ``LOSSES``. It is an ``nn.Module``:

- ``forward(student: Output, teacher: Output, target) -> scalar``: ``primary`` logits (N, C, H, W) at the target's size,
  the teacher's without gradient; target int (N, H, W).
- ``needs``, a class attribute: names of the maps (``rdd_deploy.outputs.MAPS``) that it reads from both ``features``,
  each network's at its own stride and width; ``maps.map_pair`` gives both at one size. ``wants``, likewise, where it
  has one: maps that it reads where both networks have them; then the attribute ``needs`` of the module made says which
  it reads.
- It may own parameters and buffers, which are trained, saved and resumed. Its constructor gets those of
  ``student_channels``, ``teacher_channels`` (map -> width), ``classes`` and ``device`` that it names, beside the
  recipe's options.
- It is the bare term: the recipe has its weight. ``tests/losses/test_methods.py`` holds what all of the table have in
  common.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from rdd_deploy.schema import Count, Positive, Seed
from rdd_deploy.utils.tables import Entry

Void = Literal["skip", "keep"]
"""``skip``: void pixels are inert, whatever the networks say there. ``keep``: they count like all others, as in the methods' public code."""
NotNegative = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]


def _without_parts(options: Mapping[str, Any]) -> str:
    """What is wrong with options of cirkd_memory that leave both its parts out."""
    return (
        "pixel and region are both 0; give one of them a weight"
        if options.get("pixel") == options.get("region") == 0
        else ""
    )


LOSSES = {
    "kd": Entry(
        "rdd_deploy.losses.kd:PixelKD",
        {"temperature": Positive, "standardize": bool, "edge_weight": Positive, "edge_width": Count, "void": Void},
    ),
    "at": Entry("rdd_deploy.losses.at:AttentionTransfer", {"void": Void}),
    "fitnet": Entry("rdd_deploy.losses.fitnet:FitNet", {"void": Void}),
    "skd": Entry("rdd_deploy.losses.skd:PairWise", {"window": Count, "void": Void}),
    "ifvd": Entry("rdd_deploy.losses.ifvd:IntraClassVariation", {"void": Void}),
    "cwd": Entry("rdd_deploy.losses.cwd:ChannelWise", {"temperature": Positive, "void": Void}),
    "cwd_features": Entry("rdd_deploy.losses.cwd:ChannelWiseFeatures", {"temperature": Positive, "void": Void}),
    "dist": Entry("rdd_deploy.losses.dist:DIST", {"beta": NotNegative, "gamma": NotNegative, "void": Void}),
    "pearson": Entry("rdd_deploy.losses.pearson:PearsonFeatures", {"void": Void}),
    "dsd_pixel": Entry("rdd_deploy.losses.dsd:PixelSimilarity", {"void": Void}),
    "dsd_category": Entry(
        "rdd_deploy.losses.dsd:CategorySimilarity",
        {"form": Literal["paper", "benchmark"], "temperature": Positive, "window": Count, "void": Void},
    ),
    "cirkd_batch": Entry(
        "rdd_deploy.losses.cirkd:CrossImage", {"temperature": Positive, "window": Count, "void": Void}
    ),
    "cirkd_memory": Entry(
        "rdd_deploy.losses.cirkd_memory:MemoryBank",
        {
            "pixel": NotNegative,
            "region": NotNegative,
            "pixels": Count,
            "regions": Count,
            "temperature": Positive,
            "contrast_temperature": Positive,
            "seed": Seed,
        },
        _without_parts,
    ),
}
