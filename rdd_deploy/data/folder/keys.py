"""Keys of a ``folder`` data set that have values of their own, and the rules between those that name its files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag

from rdd_deploy.data.folder.patterns import problems_of
from rdd_deploy.data.label_space import LARGEST_ID
from rdd_deploy.schema import Byte, Part, Seed

MaskValue = Annotated[int, Field(ge=0, le=LARGEST_ID)]
"""Of a mask of 8 or 16 bits."""


def _several(value: Any) -> Any:
    return [value] if isinstance(value, int) else value


def _several_names(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _several_colours(value: Any) -> Any:
    return [value] if isinstance(value, list | tuple) and value and not isinstance(value[0], list | tuple) else value


def _kind_of_colours(value: Any) -> str:
    return "text" if isinstance(value, str) else "mapping"


def _kind_of_ids(value: Any) -> str:
    return "mapping" if isinstance(value, Mapping) else "list"


ClassIds = Annotated[list[MaskValue], Field(min_length=1), BeforeValidator(_several)]
Colours = Annotated[list[tuple[Byte, Byte, Byte]], Field(min_length=1), BeforeValidator(_several_colours)]
Names = Annotated[list[str], Field(min_length=1), BeforeValidator(_several_names)]
IdsByClass = Annotated[
    Annotated[Annotated[list[ClassIds], Field(max_length=255)], Tag("list")]
    | Annotated[Annotated[dict[str, ClassIds], Field(min_length=1)], Tag("mapping")],
    Discriminator(_kind_of_ids),
]
ColourTable = Annotated[
    Annotated[Annotated[dict[str, Colours], Field(min_length=1)], Tag("mapping")] | Annotated[str, Tag("text")],
    Discriminator(_kind_of_colours),
]
SplitShare = Annotated[float, Field(ge=0, lt=1)]


class Lists(Part):
    """List files, a frame a line: a name, a path below the folder, or a frame's and its mask's path."""

    train: str | None = Field(None, min_length=1, description="list of the training frames, below data.root")
    val: str | None = Field(None, min_length=1, description="of the validation frames")
    test: str | None = Field(None, min_length=1, description="of the test frames")


class SplitByShare(Part):
    """Shares of the frames, drawn by a seed so that each class has its share in each split; the rest is
    for training.
    """

    val: SplitShare = Field(0.2, description="share for validation")
    test: SplitShare = Field(0.0, description="share for testing")
    seed: Seed = Field(0, description="of the draw; the same on every machine")
    by: Literal["sequence", "folder", "frame"] = Field(
        "sequence",
        description=(
            "what stays together: frames whose names differ in their trailing number alone, those of a folder, or"
            " nothing"
        ),
    )
    digest: str | None = Field(
        None, description="of the frames' names, written by bundles, which warn where there are others"
    )

    def rules(self) -> Iterator[tuple[str, str]]:
        """Something is left to train on."""
        if self.val + self.test >= 1:
            yield (
                "val test",
                (
                    f"data.split gives {self.val} to val and {self.test} to test; expected a sum below 1, the rest is"
                    " for training"
                ),
            )


def file_rules(
    images: str | None, masks: str | None, lists: Lists | None, split: SplitByShare | None
) -> Iterator[tuple[str, str]]:
    """What is wrong in how files are named, as rules of the options."""
    if (images is None) != (masks is None):
        given, missing = ("images", "masks") if images is not None else ("masks", "images")
        yield (
            "images masks",
            (
                f"data.{given} is given without data.{missing}; expected both patterns, e.g. images/*.jpg and"
                " masks/{stem}.png"
            ),
        )
    for key, pattern in (("data.images", images), ("data.masks", masks)):
        for sentence in problems_of(key, pattern) if pattern is not None else ():
            yield key.removeprefix("data."), sentence
    if masks is not None and not masks.lower().endswith(".png"):
        yield (
            "masks",
            (
                f"data.masks is {masks!r}; expected a pattern that ends in .png, the one kind that keeps ids and"
                " colours as they are"
            ),
        )
    if masks is not None and ("*" in masks or "?" in masks):
        yield (
            "masks",
            (
                f"data.masks is {masks!r}, which holds a wildcard; expected the name of one file for each image:"
                " {path} or {parent} stands for its folders"
            ),
        )
    if masks is not None and not any(f"{{{name}}}" in masks for name in ("stem", "name", "path")):
        yield (
            "masks",
            f"data.masks is {masks!r}, the same mask for every image; expected {{stem}}, {{path}} or {{name}} in it",
        )
    if lists and split:
        yield "lists split", "data.lists and data.split both say which frames belong to which split; drop one"
    if lists and not (lists.train or lists.val or lists.test):
        yield "lists", "data.lists names no list; give data.lists.train and data.lists.val"
    if split and not images:
        yield (
            "split images",
            (
                "data.split needs data.images and data.masks, the patterns of all frames and masks, e.g. images/*.jpg"
                " and masks/{stem}.png"
            ),
        )
    if images and split and "{split}" in images:
        yield (
            "images split",
            (
                "data.images holds {split}, so folders say which frames belong to which split; drop data.split, or put"
                " * there"
            ),
        )
    if images and not split and not lists and "{split}" not in images:
        yield (
            "images lists split",
            (
                f"data.images = {images} finds the same frames for every split; put {{split}} into it, or give"
                " data.split, e.g. {val: 0.2}, or data.lists"
            ),
        )
