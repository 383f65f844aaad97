"""Which file of an export is the image that it names: by its path, else by its name where no folder speaks against it."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Sequence
from functools import cached_property
from pathlib import PurePosixPath

from rdd_deploy.data.imports.names import cleaned, folder_of, inside, key, shared_end, split_of
from rdd_deploy.data.listing import IMAGES

_PLAIN = {
    "image", "images", "img", "imgs", "jpegimages", "data", "default", "ann", "annotation", "annotations", "label", "labels", "json",
}  # fmt: skip
"""Folders that many exports have: they don't tell one data set from another."""
_OF_MASKS = re.compile(
    r"(.*[_-])?masks?([_-].*)?|segmentation.*|.*annot|annotations?|labels?|gt([A-Z_].*)?|ground_?truth"
)


class NotFoundError(Exception):
    """Why an image isn't there; it is left out and told."""


class Lookup:
    """The images of an export.

    Args:
        files: relative names of all files, with ``/``.

    Attributes:
        images: those of kinds that are read as images.
        guessed: those that were found by their name alone.
    """

    def __init__(self, files: Sequence[str]) -> None:
        self._files = files
        self.images = [name for name in files if os.path.splitext(name)[1].lower() in IMAGES]
        self.guessed: list[str] = []

    @cached_property
    def _all(self) -> dict[str, str]:
        return {key(name): name for name in self._files}

    @cached_property
    def _by_name(self) -> dict[str, list[str]]:
        """Images by their name, and by it without its ending, as CVAT calls the frames of videos."""
        found = defaultdict(list)
        for name in self.images:
            found[key(PurePosixPath(name).name)].append(name)
            stem = PurePosixPath(name).stem
            if os.path.splitext(stem)[1].lower() not in IMAGES:  # a.jpg.png is a mask of a.jpg, not the image
                found[key(stem)].append(name)
        return found

    @cached_property
    def _known(self) -> set[str]:
        return {part for name in self.images for part in _folders(name)}

    @cached_property
    def _annotated(self) -> set[str]:
        """Folders that hold annotations, at any depth."""
        places = {str(PurePosixPath(name).parent) for name in self._files if name.lower().endswith((".json", ".xml"))}
        return {str(one) for place in places for one in (PurePosixPath(place), *PurePosixPath(place).parents)}

    def find(self, name: str, folders: Sequence[str], by_name: bool = True, masks: bool = False) -> str:
        """The image of a name, however an export gives it: relative to a folder, with another computer's path, as an
        address.

        Args:
            folders: that it may be relative to, the first is the annotations' own.
            by_name: whether a file elsewhere will do that has its name; it is then among ``guessed``.
            masks: whether it may lie in a folder of masks.

        Raises:
            NotFoundError: there is none, or more than one that may be meant.
        """
        wanted, foreign = cleaned(name), _is_foreign(name)
        places = [
            inside(f"{folder}/{wanted}" if folder else wanted) for folder in (*folders, *([""] if by_name else []))
        ]
        for place in places:
            if place is not None and (found := self._all.get(key(place))):
                return found
        last = PurePosixPath(wanted).name
        near = self._by_name.get(key(last), [])
        if os.path.splitext(last)[1].lower() not in IMAGES:
            near = [one for one in near if os.path.splitext(one)[0] in places] or near
        # Label Studio's prefix of uploaded files.
        if not near and (without := re.sub(r"^[0-9a-f]{8}-", "", last)) != last:
            near = self._by_name.get(key(without), [])
        own = [f"{folder}/x" for folder in folders] if foreign else [place for place in places[: len(folders)] if place]
        at_place = [one for one in near if _folders(one) in map(_folders, own) and not _is_of_masks(one)]
        fitting = at_place or [one for one in near if self._may_be(one, wanted, foreign, folders, masks)]
        if len(fitting) > 1:
            below = [
                one
                for one in fitting
                if f"/{one}".endswith(f"/{wanted.lstrip('/')}") or any(one.startswith(f"{f}/") for f in folders if f)
            ]
            most = max(shared_end(one, wanted) for one in fitting)
            fitting = below if len(below) == 1 else [one for one in fitting if shared_end(one, wanted) == most]
        if len(fitting) > 1:
            raise NotFoundError("several files have the image's name")
        if not fitting or not (at_place or by_name):
            others = " (files of its name belong to other folders)" if near else ""
            raise NotFoundError(f"the image isn't in the export{others}")
        if not at_place and shared_end(fitting[0], wanted) < 2:
            self.guessed.append(fitting[0])
        return fitting[0]

    def _may_be(self, one: str, wanted: str, foreign: bool, folders: Sequence[str], masks: bool) -> bool:
        """Whether nothing speaks against an image that has the right name: the folders in the name that was given,
        those of the annotations, or a folder of masks.
        """
        lies, said = _folders(one), _folders(wanted)
        if foreign:  # another computer's folders count as far as the export has them, too
            known = [part for part in said if part in self._known]
            fits = not known or known[-1] in lies
        else:
            below = [one[len(folder) + 1 :] for folder in folders if one.startswith(f"{folder}/")]
            fits = any(_ends(place, said) or _ends(said, place) for place in (lies, *map(_folders, below)))
        split = next(filter(None, map(split_of, (*(() if foreign else (folder_of(wanted),)), *folders))), None)
        other_split = split is not None and split_of(folder_of(one)) not in (split, None)
        return fits and not other_split and (masks or not _is_of_masks(one)) and not self._is_of_others(one, folders)

    def _is_of_others(self, one: str, folders: Sequence[str]) -> bool:
        """Whether an image lies beside the annotations' folder in one that has annotations of its own."""
        lies, own = one.split("/")[:-1], folders[0].split("/") if folders and folders[0] else []
        common = sum(lies[: at + 1] == own[: at + 1] for at in range(min(len(lies), len(own))))
        return (
            bool(_folders("/".join((*own[common:], "x"))))
            and len(lies) > common
            and "/".join(lies[: common + 1]) in self._annotated
        )


def _is_foreign(name: str) -> bool:
    """Whether a name's folders are those of another computer."""
    name = name.replace("\\", "/")
    return name.startswith(("/", "../")) or "?d=" in name or re.match(r"[A-Za-z][A-Za-z0-9+.-]*:", name) is not None


def _is_of_masks(name: str) -> bool:
    return any(_OF_MASKS.fullmatch(part) or _OF_MASKS.fullmatch(part.lower()) for part in name.split("/")[:-1])


def _folders(name: str) -> list[str]:
    """The folders of a file, without those that many exports have."""
    parts = [part.casefold() for part in name.split("/")[:-1]]
    return [part for part in parts if part not in _PLAIN and part not in ("", ".", "..")]


def _ends(parts: Sequence[str], end: Sequence[str]) -> bool:
    return not end or list(parts[-len(end) :]) == list(end)
