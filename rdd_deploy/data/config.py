"""Recipe sections of the data: which frames at which size, and how they are augmented."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from rdd_deploy.data import DATASETS
from rdd_deploy.data.ids import LARGEST_ID
from rdd_deploy.schema import Byte, Count, Part, Place, Scale, Seed, Share, Size

MaskValue = Annotated[int, Field(ge=0, le=LARGEST_ID)]
"""Of a mask of 8 or 16 bits."""


def _several(value: Any) -> Any:
    return [value] if isinstance(value, int) else value


ClassIds = Annotated[list[MaskValue], Field(min_length=1), BeforeValidator(_several)]


class Data(Part):
    """Which frames, at which size. Frames of other sizes are resized to ``size`` for evaluation and export."""

    name: Literal[DATASETS] = "camvid"  # type: ignore[valid-type]
    root: Place = Field(
        "data/camvid",
        description="folder of the data set, beside the recipe's file or in the current directory; a missing CamVid is downloaded there",
    )
    size: Size = Field((360, 480), description="[height, width] that the deployed network sees")
    classes: list[str] | None = Field(None, max_length=255, description="folder: class names in the order of their ids")
    palette: list[tuple[Byte, Byte, Byte]] | None = Field(None, description="folder: one RGB colour a class")
    ids: list[ClassIds] | None = Field(
        None, max_length=255, description="folder: per class the mask value that means it, or a list of several; default: 0, 1, 2, …"
    )
    void_ids: list[MaskValue] = Field([255], max_length=LARGEST_ID + 1, description="folder: mask values that mean void")
    others_void: bool = Field(False, description="folder: every other mask value means void, too; else it is an error")
    count: Count | None = Field(None, description="streets: number of training scenes")
    seed: Seed = Field(0, description="streets: seed of the scenes")
    workers: Annotated[int, Field(ge=0, le=256)] | None = Field(
        None, description="loader processes; default: 0 on up to 2 cores, else up to 8"
    )
    memory: bool = Field(True, description="keep decoded frames in memory (uint8)")

    def rules(self) -> Iterator[tuple[str, str]]:
        """Folders alone are described by the recipe, streets alone are counted and seeded."""
        if self.name == "folder" and not self.classes:
            yield "name classes", "data.classes is missing; a 'folder' data set needs its class names in the order of their ids"
        if self.name != "folder" and (self.classes or self.palette):
            yield "name classes palette", f"data.classes and data.palette belong to the 'folder' data set, not to '{self.name}'"
        # A run's recipe.yaml spells every default out, so only another value than that was meant to have an effect.
        for key, default in (("void_ids", [255]), ("ids", None), ("others_void", False)):
            if self.name != "folder" and getattr(self, key) != default:
                yield f"name {key}", f"data.{key} belongs to the 'folder' data set, '{self.name}' has its own; leave it out"
        yield from self._id_rules()
        if self.name != "streets" and (self.count is not None or self.seed):
            yield "name count seed", f"data.count and data.seed belong to the 'streets' data set, not to '{self.name}'; leave them out"
        if self.classes and (not all(name.strip() for name in self.classes) or len(set(self.classes)) < len(self.classes)):
            yield "classes", f"data.classes is {self.classes}; expected names that differ from each other, none of them empty"
        if self.classes and self.palette and len(self.palette) != len(self.classes):
            yield (
                "classes palette",
                f"data.palette has {len(self.palette)} colours for {len(self.classes)} classes; give one colour a class",
            )

    def _id_rules(self) -> Iterator[tuple[str, str]]:
        """Each mask value means one thing."""
        if self.classes and self.ids is None and (taken := sorted({i for i in self.void_ids if i < len(self.classes)})):
            yield (
                "classes ids void_ids",
                f"data.void_ids is {self.void_ids}, of which {taken} are ids of classes; expected ids from {len(self.classes)} on, or drop the "
                f"class; where the masks' own values differ, data.ids says which value is which class, e.g. data.ids={self._example()}",
            )
        if self.ids is None:
            return
        if self.classes and len(self.ids) != len(self.classes):
            yield (
                "classes ids",
                f"data.ids has {len(self.ids)} entries for {len(self.classes)} classes; give one value, or list of values, a class",
            )
        values = [value for entry in self.ids for value in entry]
        if twice := sorted({value for value in values if values.count(value) > 1}):
            yield "ids", f"data.ids gives {twice} to more than one class, or twice to one; expected each mask value once"
        if both := sorted(set(values) & set(self.void_ids)):
            void = sorted(set(self.void_ids) - set(values))
            yield "ids void_ids", f"data.ids and data.void_ids both hold {both}; where these values are classes, set data.void_ids={void}"

    def _example(self) -> list[int]:
        """Ids for the classes that leave the void ones alone."""
        free = (value for value in range(LARGEST_ID) if value not in self.void_ids)
        return [next(free) for _ in self.classes or ()]


class Augment(Part):
    """Random scale, crop, flip and colour jitter, on uint8 tensors."""

    crop: Size = Field((360, 360), description="[height, width] of the training crops")
    scale: tuple[Scale, Scale] = Field((0.5, 2.0), description="least and largest scale relative to data.size")
    flip: Share = 0.5
    jitter: Annotated[float, Field(ge=0, le=1)] = Field(
        0.3, description="strength of brightness, contrast and saturation; hue a tenth of it"
    )

    def rules(self) -> Iterator[tuple[str, str]]:
        """Scales in their order."""
        if self.scale[0] > self.scale[1]:
            yield "scale", f"augment.scale is {list(self.scale)}; expected [least, largest]"
