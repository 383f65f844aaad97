"""What a remote (a browser, say) asks of a run while it plays, and how it is handed to the main thread."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from rdd_deploy.live.stats import BundleStats
from rdd_deploy.live.types import Result
from rdd_deploy.runtime import Segmenter
from rdd_deploy.utils.text import shown

State = dict[str, Any]
"""How the run stands, as JSON can hold it; see docs/web.md."""


class Wish(BaseModel):
    """What should be so from now on; None leaves a thing as it is. Unlike a key it may be asked twice and still mean
    the same.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    bundle: Annotated[int, Field(ge=1, le=9)] | None = None
    """Number of the bundle to show, from 1."""
    split: bool | None = None
    opacity: Annotated[float, Field(ge=0, le=1)] | None = None
    paused: bool | None = None


@dataclass(frozen=True)
class Ask:
    """A wish and the place for its answer: the state after it, or the RddError that says why it can't be.

    Attributes:
        picture: the newest picture is wanted once more, though nothing has changed.
    """

    wish: Wish = field(default_factory=Wish)
    picture: bool = False
    answer: Future[State] = field(default_factory=Future)


def shown_bundle(index: int, segmenter: Segmenter, result: Result | None, stats: BundleStats) -> State:
    """A bundle that is shown: the share of each class in the newest labels, in percent, at the network's size; None
    before it has labelled any.
    """
    labels = (
        next((one.labels for one in result.predictions if one.bundle == index), None) if result is not None else None
    )
    shares = None
    if labels is not None:
        counts = np.bincount(labels.reshape(-1), minlength=len(segmenter.classes))
        shares = {
            shown(name): round(100 * int(count) / labels.size, 2)
            for name, count in zip(segmenter.classes, counts, strict=True)
        }
    miou = round(100 * stats.confusion.miou, 2) if stats.confusion.matrix.any() else None
    return {"bundle": index + 1, "name": shown(segmenter.manifest.name), "shares_pct": shares, "miou_pct": miou}
