"""Your own data: images and index masks in the same layout as CamVid (train/, trainannot/, …), any names, any classes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from rdd_deploy.data.colours import spread_colours
from rdd_deploy.data.config import DataOptions, Plain
from rdd_deploy.data.label_space import LARGEST_ID, LabelSpace
from rdd_deploy.errors import DataError
from rdd_deploy.schema import Byte, Place

if TYPE_CHECKING:
    from rdd_deploy.data.base import FileSplit
    from rdd_deploy.runtime import Manifest

MaskValue = Annotated[int, Field(ge=0, le=LARGEST_ID)]
"""Of a mask of 8 or 16 bits."""


def _several(value: Any) -> Any:
    return [value] if isinstance(value, int) else value


ClassIds = Annotated[list[MaskValue], Field(min_length=1), BeforeValidator(_several)]


class FolderOptions(DataOptions):
    """A folder of images and index masks, with the classes that the recipe names."""

    name: Literal["folder"] = "folder"
    root: Place = Field("data/camvid", description="its folder, beside the recipe's file or in the current directory")
    classes: list[str] | None = Field(None, max_length=255, description="class names in the order of their ids")
    palette: list[tuple[Byte, Byte, Byte]] | None = Field(None, description="one RGB colour a class")
    ids: list[ClassIds] | None = Field(
        None, max_length=255, description="per class the mask value that means it, or a list of several; default: 0, 1, 2, …"
    )
    void_ids: list[MaskValue] = Field([255], max_length=LARGEST_ID + 1, description="mask values that mean void")
    others_void: bool = Field(False, description="every other mask value means void, too; else it is an error")

    def open(self, split: str) -> FileSplit:
        return open_folder(Path(self.root), split, self.classes or (), self.palette, self.ids, self.void_ids, self.others_void)

    def provenance(self) -> dict[str, Plain]:
        own: dict[str, Plain] = {
            "data_ids": " ".join(",".join(map(str, values)) for values in self.ids) if self.ids is not None else None,
            "data_void_ids": " ".join(map(str, self.void_ids)),
            "data_others_void": int(self.others_void),
        }
        return {key: value for key, value in super().provenance().items() if key not in ("data_classes", "data_palette")} | own

    @classmethod
    def own_recorded(cls, manifest: Manifest) -> dict[str, Any]:
        return {"classes": list(manifest.classes), "palette": list(manifest.palette), **_recorded_ids(manifest.provenance)}

    @classmethod
    def _of_bundle(cls, manifest: Manifest | None) -> dict[str, Any]:
        if manifest is None:
            raise DataError(
                "--data-name folder takes its classes from the bundles, and none of them has a readable manifest; give another bundle"
            )
        return {"classes": list(manifest.classes), "palette": list(manifest.palette)}

    @classmethod
    def label_ids(cls, manifest: Manifest) -> dict[str, Any]:
        return {**_recorded_ids(manifest.provenance), "colours": manifest.palette}

    def rules(self) -> Iterator[tuple[str, str]]:
        """The classes are named, each with one colour, and each mask value means one thing."""
        if not self.classes:
            yield "classes", "data.classes is missing; a 'folder' data set needs its class names in the order of their ids"
        yield from self._id_rules()
        if self.classes and (not all(name.strip() for name in self.classes) or len(set(self.classes)) < len(self.classes)):
            yield "classes", f"data.classes is {self.classes}; expected names that differ from each other, none of them empty"
        if self.classes and self.palette and len(self.palette) != len(self.classes):
            yield (
                "classes palette",
                f"data.palette has {len(self.palette)} colours for {len(self.classes)} classes; give one colour a class",
            )

    def _id_rules(self) -> Iterator[tuple[str, str]]:
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


def _recorded_ids(recorded: Mapping[str, Any]) -> dict[str, Any]:
    """``ids``, ``void_ids`` and ``others_void`` as ``provenance`` wrote them; bundles made before the first and last key lack them."""
    ids = recorded.get("data_ids")
    return {
        "ids": None if ids is None else [[int(value) for value in entry.split(",")] for entry in str(ids).split()],
        "void_ids": [int(value) for value in str(recorded.get("data_void_ids") or "").split()],
        "others_void": bool(recorded.get("data_others_void")),
    }


def open_folder(
    root: Path,
    split: str,
    classes: Sequence[str],
    palette: Sequence[tuple[int, int, int]] | None = None,
    ids: Sequence[Sequence[int]] | None = None,
    void_ids: Sequence[int] = (255,),
    others_void: bool = False,
) -> FileSplit:
    """Open one split of a folder data set: ``root/<split>/`` holds frames, ``root/<split>annot/`` one PNG index mask of the same stem each.

    Args:
        classes: names in the order of their ids.
        palette: RGB colours; default: evenly spread hues.
        ids: per class the mask values that mean it; default: class 0 is 0, class 1 is 1, …
        void_ids: mask values that don't count.
        others_void: whether all other values don't count either.

    Raises:
        DataError: folders or masks missing.
    """
    from rdd_deploy.data.base import FileSplit
    from rdd_deploy.data.ids import Ids
    from rdd_deploy.data.listing import pair_up

    frames, masks = root / split, root / f"{split}annot"
    if not frames.is_dir() or not masks.is_dir():
        raise DataError(
            f"no {split} split in {root}: expected the folders {split}/ (frames) and {split}annot/ (PNG index masks of the same stem)"
        )
    pairs, notes = pair_up(frames, masks)
    colours = tuple(palette) if palette else spread_colours(len(classes))
    meaning = Ids(len(classes), ids, void_ids, others_void, colours=palette or ())
    return FileSplit(LabelSpace(tuple(classes), colours), pairs, meaning, notes)
