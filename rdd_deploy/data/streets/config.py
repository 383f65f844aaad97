"""The options of the procedural streets."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from rdd_deploy.data.config import DataOptions
from rdd_deploy.schema import Count, Place, Seed

if TYPE_CHECKING:
    from rdd_deploy.data.base import Split


class StreetsOptions(DataOptions):
    """Streets that are made as they are needed."""

    in_folder: ClassVar[bool] = False

    name: Literal["streets"] = "streets"
    root: Place = Field("", description="not used")
    count: Count | None = Field(None, description="number of training scenes")
    seed: Seed = Field(0, description="seed of the scenes")

    def open(self, split: str) -> Split:
        from rdd_deploy.data.streets.dataset import open_streets

        count = self.count if split == "train" else None
        return open_streets(split, height=self.size[0], width=self.size[1], count=count, seed=self.seed)
