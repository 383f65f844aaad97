"""Your own data: images and masks as a tool or a person left them, with any names and any classes."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from rdd_deploy.data.colours import LabelMap, find_label_map, read_label_map
from rdd_deploy.data.config import DataOptions, Plain
from rdd_deploy.data.folder.keys import ColourTable, IdsByClass, Lists, MaskValue, Names, SplitByShare, file_rules
from rdd_deploy.data.folder.meaning import VOID, Meaning, Problems, Said, as_named, meaning_of
from rdd_deploy.data.label_space import LARGEST_ID, LabelSpace
from rdd_deploy.errors import DataError
from rdd_deploy.schema import Byte, Place
from rdd_deploy.utils.files import parse_json

if TYPE_CHECKING:
    from rdd_deploy.data.base import FileSplit
    from rdd_deploy.runtime import Manifest


class FolderOptions(DataOptions):
    """A folder of images and masks, with the classes that the recipe names."""

    name: Literal["folder"] = "folder"
    root: Place = Field("data/camvid", description="its folder, beside the recipe's file or in the current directory")
    images: str | None = Field(
        None,
        description=(
            "pattern of the images below it, e.g. `images/**/*.jpg` or `{split}/*.png`; default: train/, val/ and test/"
            " with masks in trainannot/, valannot/ and testannot/"
        ),
    )
    masks: str | None = Field(
        None,
        description=(
            "pattern of an image's mask, e.g. `masks/{stem}_mask.png`; `{path}`: its folders and stem, `{parent}`,"
            " `{name}`, `{split}`"
        ),
    )
    lists: Lists | None = Field(None, description="list files")
    split: SplitByShare | None = Field(None, description="shares")
    classes: list[str] | None = Field(None, max_length=255, description="class names in the order of their ids")
    palette: list[tuple[Byte, Byte, Byte]] | None = Field(None, description="one RGB colour a class")
    ids: IdsByClass | None = Field(
        None,
        description=(
            "per class the mask value that means it, or a list of several; or the same by name, {road: 7, car: [26,"
            " 27], void: 0}; default: 0, 1, 2, …"
        ),
    )
    colours: ColourTable | None = Field(
        None,
        description=(
            "where masks hold colours: {road: [128, 64, 128]}, or a file below the folder (labelmap.txt; _classes.csv"
            " for ids); default: such a file in the folder"
        ),
    )
    merge: dict[str, Names] | None = Field(
        None,
        min_length=1,
        description="names in ids or colours that are one class, or void: {car: [car, van], void: [unlabelled]}",
    )
    background: Literal["class", "void"] | None = Field(
        None, description="what the value 0, or what is named background, means: the class 'background', or void"
    )
    void_ids: list[MaskValue] = Field([255], max_length=LARGEST_ID + 1, description="mask values that mean void")
    others_void: bool = Field(
        False, description="every other mask value or colour means void, too; else it is an error"
    )

    def open(self, split: str) -> FileSplit:
        from rdd_deploy.data.folder import files

        root = Path(self.root)
        meaning, pictures = self._meaning(), self._of_pictures()
        ids = files.ids_of(
            meaning, self.palette or (), self._where(), *((pictures[0], str(pictures[1])) if pictures else ())
        )
        if self.lists is not None:
            return files.list_split(root, split, self.lists.model_dump(), self.images, self.masks, meaning, ids)
        if self.images is None or self.masks is None:
            return files.folder_split(root, split, meaning, ids)
        if self.split is None:
            return files.pattern_split(root, split, self.images, self.masks, meaning, ids)
        shares = {"train": 1 - self.split.val - self.split.test, "val": self.split.val, "test": self.split.test}
        drawn = self.split.seed, self.split.by, self.split.digest
        return files.shared_split(root, split, self.images, self.masks, shares, *drawn, meaning, ids)

    def space_of_imports(self) -> LabelSpace:
        meaning = self._meaning()
        if not meaning.is_plain:
            raise DataError("the masks of the recipe's data hold other values than 0, 1, 2 … and 255 for void")
        return LabelSpace(meaning.classes, meaning.palette)

    def provenance(self) -> dict[str, Plain]:
        meaning, pictures = self._meaning(), self._of_pictures()
        split = self.split.model_dump() if self.split else None
        if split and split["digest"] is None:
            from rdd_deploy.data.folder.files import frames_digest

            split["digest"] = frames_digest(Path(self.root), self.images or "", self.masks or "")
        return {
            **DataOptions(name=self.name, root=self.root, size=self.size).provenance(),
            "data_ids": (
                " ".join(",".join(map(str, values)) for values in meaning.ids) if meaning.ids is not None else None
            ),
            "data_void_ids": " ".join(map(str, meaning.void_ids)),
            "data_others_void": int(self.others_void),
            "data_colours": json.dumps(as_named(meaning)) if meaning.colours else None,
            "data_picture_colours": json.dumps(as_named(pictures[0])) if pictures else None,
            "data_images": self.images,
            "data_masks": self.masks,
            "data_lists": json.dumps(self.lists.model_dump(exclude_none=True)) if self.lists else None,
            "data_split": json.dumps(split) if split else None,
        }

    @classmethod
    def own_recorded(cls, manifest: Manifest) -> dict[str, Any]:
        recorded = manifest.provenance
        colours = _json(recorded, "data_colours")
        ids = {**_recorded_ids(recorded), **({"ids": None} if colours else {})}
        found = {
            **{key: recorded.get(f"data_{key}") for key in ("images", "masks")},
            **{key: _json(recorded, f"data_{key}") for key in ("lists", "split")},
        }
        return {
            "classes": list(manifest.classes),
            "palette": list(manifest.palette),
            **ids,
            **({"colours": colours} if colours else {}),
            **{key: value for key, value in found.items() if value is not None},
        }

    @classmethod
    def _of_bundle(cls, manifest: Manifest | None) -> dict[str, Any]:
        if manifest is None:
            raise DataError(
                "--data-name folder takes its classes from the bundles, and none of them has a readable manifest; give"
                " another bundle"
            )
        return {"classes": list(manifest.classes), "palette": list(manifest.palette)}

    @classmethod
    def label_ids(cls, manifest: Manifest) -> dict[str, Any]:
        recorded = manifest.provenance
        found = {**_recorded_ids(recorded), "colours": manifest.palette}
        table, pictures = _json(recorded, "data_colours"), _json(recorded, "data_picture_colours")
        if table or pictures:
            from rdd_deploy.data.folder.files import map_of

            data = cls.model_validate(
                {"classes": list(manifest.classes), "colours": table or pictures, "others_void": found["others_void"]}
            )
            found["colour_map"] = map_of(data._meaning(), "the bundle's manifest", always=bool(table))
        return found

    def rules(self) -> Iterator[tuple[str, str]]:
        """The classes are named, each with one colour, each mask value means one thing, and the files are named in one
        way.
        """
        yield from file_rules(self.images, self.masks, self.lists, self.split)
        yield from self._id_rules()
        if self.classes and (
            not all(name.strip() for name in self.classes) or len(set(self.classes)) < len(self.classes)
        ):
            yield (
                "classes",
                f"data.classes is {self.classes}; expected names that differ from each other, none of them empty",
            )
        elif self.classes and VOID in self.classes and (self.merge or self.colours or isinstance(self.ids, dict)):
            yield (
                "classes",
                (
                    "data.classes names 'void', which means no class where masks are described by name; call the class"
                    " something else"
                ),
            )
        else:
            yield from self._problems()

    def _problems(self) -> Problems:
        """What is wrong in what is said of the masks, as far as files that are there tell."""
        try:
            named, _ = self._named()
        except DataError as error:
            return (
                [("colours", f"data.colours: {error}" if self.colours else f"data.classes: {error}")]
                if os.path.isdir(self.root)
                else []
            )
        if not self.classes and named is None:
            # A run may name its classes by a table in a folder that has moved since, which opening it tells.
            moved = (self.images or self.lists) and not os.path.isdir(self.root)
            return [] if moved else [("classes", self._classless())]
        if named is None and isinstance(self.ids, list) and len(self.ids) != len(self.classes or ()):
            return []  # told already
        return meaning_of(self._said(named))[1]

    def _named(self) -> tuple[LabelMap | None, bool]:
        """The values or colours by name, if they are; and whether it was the recipe that named them. Raises DataError:
        a file isn't readable.
        """
        if isinstance(self.colours, str):
            return read_label_map(Path(self.root) / self.colours), True
        if self.colours is not None:
            return (
                LabelMap(Path("data.colours"), colours={name: list(found) for name, found in self.colours.items()}),
                True,
            )
        if isinstance(self.ids, dict):
            return LabelMap(Path("data.ids"), ids=self.ids), True
        path = find_label_map(Path(self.root)) if self.ids is None else None
        table = read_label_map(path) if path else None
        return (None, False) if table is None or (table.colours and self.classes and not self.merge) else (table, False)

    def _of_pictures(self) -> tuple[Meaning, Path] | None:
        """What colours mean where the masks hold numbers but some are pictures, by a table in the folder that fits the
        classes.
        """
        path = (
            find_label_map(Path(self.root)) if self.classes and not (self.ids or self.colours or self.merge) else None
        )
        if path is None or not (table := read_label_map(path)).colours:
            return None
        meaning, _ = meaning_of(self._said(table))
        return (meaning, path) if meaning else None

    def _said(self, named: LabelMap | None) -> Said:
        ids = self.ids if isinstance(self.ids, list) else None
        merge = self.merge or {}
        where = str(named.path) if named else ""
        return Said(
            self.classes, self.palette, ids, self.void_ids, self.others_void, merge, self.background, named, where
        )

    def _where(self) -> str:
        named, _ = self._named()
        return str(named.path) if named else ""

    def _classless(self) -> str:
        table = (
            f", and {self.root} holds no labelmap.txt or _classes.csv that names them"
            if self.images or self.lists
            else ""
        )
        return f"data.classes is missing; a 'folder' data set needs its class names in the order of their ids{table}"

    def _meaning(self) -> Meaning:
        """What the masks mean. Raises DataError."""
        by_file = isinstance(self.colours, str) or not (self.classes or self.colours or isinstance(self.ids, dict))
        if by_file and not os.path.isdir(self.root):
            raise DataError(
                f"there is no folder {self.root}; expected the data set in it, or say where it lies (data.root, --data)"
            )
        named, _ = self._named()
        if named is None and not self.classes:
            raise DataError(self._classless())
        meaning, problems = meaning_of(self._said(named))
        if meaning is None:
            raise DataError("; ".join(sentence for _, sentence in problems))
        return meaning

    def _id_rules(self) -> Iterator[tuple[str, str]]:
        if self.colours is not None and self.ids is not None:
            yield (
                "ids colours",
                (
                    "data.ids and data.colours both say what the masks hold; keep data.ids for numbers, data.colours"
                    " for colours"
                ),
            )
        if (
            self.classes
            and self.ids is None
            and self.colours is None
            and self.background is None
            and (taken := sorted({i for i in self.void_ids if i < len(self.classes)}))
            and not self._named_by_file()
        ):
            yield (
                "classes ids void_ids",
                (
                    f"data.void_ids is {self.void_ids}, of which {taken} are ids of classes; expected ids from"
                    f" {len(self.classes)} on, or drop the class; where the masks' own values differ, data.ids says"
                    f" which value is which class, e.g. data.ids={self._example()}"
                ),
            )
        if self.ids is None:
            return
        named = self.ids if isinstance(self.ids, dict) else {}
        entries = list(named.values()) if isinstance(self.ids, dict) else self.ids
        joined = self.background == "class" and "background" not in (self.classes or ())
        if self.classes and not named and len(self.ids) != len(self.classes):
            yield (
                "classes ids",
                f"data.ids has {len(self.ids)} entries for {len(self.classes)} classes; give one value, or list of"
                " values, a class" + ("; that of background is 0 and isn't among them" if joined else ""),
            )
        values = [value for entry in entries for value in entry]
        if twice := sorted({value for value in values if values.count(value) > 1}):
            yield (
                "ids",
                f"data.ids gives {twice} to more than one class, or twice to one; expected each mask value once",
            )
        if not named and (both := sorted(set(values) & set(self.void_ids))):
            void = sorted(set(self.void_ids) - set(values))
            yield (
                "ids void_ids",
                (
                    f"data.ids and data.void_ids both hold {both}; where these values are classes, set"
                    f" data.void_ids={void}"
                ),
            )

    def _named_by_file(self) -> bool:
        try:
            return self._named()[0] is not None
        except DataError:
            return False

    def _example(self) -> list[int]:
        """Ids for the classes that leave the void ones alone."""
        free = (value for value in range(LARGEST_ID) if value not in self.void_ids)
        return [next(free) for _ in self.classes or ()]


def _json(recorded: Mapping[str, Any], key: str) -> Any:
    value = recorded.get(key)
    return None if value is None else parse_json(str(value).encode())


def _recorded_ids(recorded: Mapping[str, Any]) -> dict[str, Any]:
    """``ids``, ``void_ids`` and ``others_void`` as ``provenance`` wrote them; bundles made before the first and last
    key lack them.
    """
    ids = recorded.get("data_ids")
    return {
        "ids": None if ids is None else [[int(value) for value in entry.split(",")] for entry in str(ids).split()],
        "void_ids": [int(value) for value in str(recorded.get("data_void_ids") or "").split()],
        "others_void": bool(recorded.get("data_others_void")),
    }
