"""Frames and masks by patterns: ``images/**/*.jpg`` and ``masks/{path}_mask.png``."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rdd_deploy.data.listing import IMAGES, OTHERS, is_hidden, plural
from rdd_deploy.errors import DataError

PLACES = {
    "split": "train, val or test",
    "stem": "the image's name without its ending, or what stands there in data.images",
    "name": "its whole name",
    "parent": "the folders between the pattern's fixed part and the image",
    "path": "parent and stem",
}
"""What braces can hold, with its meaning."""
_WILD = {"stem": "*", "name": "*", "parent": "**", "path": "**/*"}
"""What stands for it where files are listed."""
SPLITS = {"train": ("train", "training"), "val": ("val", "valid", "validation"), "test": ("test", "testing")}
"""Folders of a split, in the order in which they are looked for."""


def problems_of(key: str, pattern: str) -> Iterator[str]:
    """What is wrong with a pattern of the recipe, as sentences."""
    parts = pattern.replace("\\", "/").split("/")
    if not pattern.strip() or pattern.startswith(("/", "~")) or "\\" in pattern or ".." in parts or "\0" in pattern:
        yield f"{key} is {pattern!r:.80}; expected a path inside data.root, e.g. {_EXAMPLES[key]}"
    unknown = [
        name
        for name in re.findall(r"\{([^{}]*)\}", pattern)
        if name not in PLACES or (key == "data.images" and name not in _IN_IMAGES)
    ]
    if unknown or pattern.count("{") != pattern.count("}"):
        allowed = _IN_IMAGES if key == "data.images" else list(PLACES)
        yield (
            f"{key} is {pattern!r:.80}, which holds {'{' + unknown[0] + '}' if unknown else 'a lone brace'}; allowed:"
            f" {', '.join(f'{{{name}}}' for name in allowed)}"
        )


_IN_IMAGES = ["split", "stem"]
_EXAMPLES = {"data.images": "images/*.jpg", "data.masks": "masks/{stem}.png"}


@dataclass(frozen=True)
class Found:
    """A frame as a pattern found it.

    Attributes:
        key: its path below the data set's folder, with slashes, composed (NFC).
        fields: what the mask's pattern is filled with.
    """

    path: Path
    key: str
    fields: Mapping[str, str] = field(repr=False)

    @property
    def group_path(self) -> str:
        """What sequences are told apart by: the folders, and the name without its ending."""
        return self.fields["path"]


def key_of(path: str) -> str:
    """A relative path as keys have it: composed, with slashes, the ending in lower case."""
    stem, suffix = os.path.splitext(unicodedata.normalize("NFC", path.replace(os.sep, "/")))
    return stem + suffix.lower()


@dataclass
class Layout:
    """The files of a data set that patterns name.

    Args:
        root: its folder.
        images, masks: the patterns, relative to it.
    """

    root: Path
    images: str
    masks: str
    notes: list[str] = field(default_factory=list)

    def frames(self, split: str) -> tuple[list[Found], str]:
        """A split's frames in the order of their keys, and the name that the split has in the folder. Raises DataError
        where there are none.
        """
        if not os.path.isdir(self.root):
            raise DataError(
                f"there is no folder {self.root}; expected the data set in it, or say where it lies (data.root, --data)"
            )
        names = SPLITS.get(split, (split,)) if "{split}" in self.images else (split,)
        for name in names:
            pattern = self.images.replace("{split}", name)
            found, others = self._frames(pattern)
            if found:
                if others:
                    kinds = ", ".join(sorted({os.path.splitext(other)[1].lower() for other in others}))
                    self.notes.append(
                        f"{plural(len(others), 'file')} of other kinds ({kinds}) match data.images, the first is"
                        f" {others[0]}: left out"
                    )
                self._tell_other_names(split, name, names)
                return found, name
        tried = f" (nor any with {' or '.join(names[1:])} in place of {split})" if len(names) > 1 else ""
        raise DataError(
            f"no {split} images in {self.root}: nothing there matches data.images ="
            f" {self.images.replace('{split}', names[0])}{tried}"
        )

    def _tell_other_names(self, split: str, taken: str, names: Sequence[str]) -> None:
        """A sentence about images in folders that could be this split's as well."""
        for name in names[names.index(taken) + 1 :]:
            if found := self._frames(self.images.replace("{split}", name))[0]:
                self.notes.append(
                    f"{plural(len(found), 'image')} of {name} left out, as {taken} is there and read for {split}, the"
                    f" first is {found[0].key}"
                )

    def _frames(self, pattern: str) -> tuple[list[Found], list[str]]:
        fixed = fixed_part(pattern)
        found, others = [], []
        for key, path, match in _matches(self.root, pattern):
            suffix = path.suffix.lower()
            if suffix not in IMAGES:
                others += [key] if suffix in OTHERS else []
                continue
            inside = key[len(fixed) + 1 :] if fixed else key
            parent, _, name = inside.rpartition("/")
            stem = match.groupdict().get("stem") or os.path.splitext(name)[0]
            fields = {"stem": stem, "name": unicodedata.normalize("NFC", path.name), "parent": parent}
            found.append(Found(path, key, {**fields, "path": f"{parent}/{stem}" if parent else stem}))
        return sorted(found, key=lambda one: one.key), sorted(others)

    def pairs(self, frames: list[Found], split: str, whole: bool = True) -> list[tuple[Path, Path]]:
        """(frame, mask) of each frame, in their order.

        Args:
            split: the split's name in the folder.
            whole: whether the frames are all that there are, so that masks without one are told.

        Raises:
            DataError: frames without a mask, or two of one mask.
        """
        pattern = self.masks.replace("{split}", split)
        for name, wild in _WILD.items():
            pattern = pattern.replace(f"{{{name}}}", wild)
        masks: dict[str, Path] = {}
        for key, path, _ in _matches(self.root, pattern):
            if (twin := masks.setdefault(key, path)) != path:
                raise DataError(
                    f"{self.root}: the masks {twin.name} and {path.name} have the same name but for its case; rename or"
                    " remove one"
                )
        wanted = {frame.key: self._mask_key(frame, split) for frame in frames}
        if selves := [frame.key for frame in frames if wanted[frame.key] == frame.key]:
            raise DataError(
                f"{selves[0]} would be its own mask by data.masks = {self.masks}; expected a pattern that names other"
                " files"
            )
        taken = set(wanted.values())
        # Masks that lie beside the images and match their pattern.
        frames[:] = [frame for frame in frames if frame.key not in taken]
        owners: dict[str, Found] = {}
        for frame in frames:
            if (other := owners.setdefault(wanted[frame.key], frame)) is not frame:
                raise DataError(
                    f"{self.root}: {other.key} and {frame.key} have the same mask {wanted[frame.key]}; rename or remove"
                    " one, or tell masks apart by {path} or {name} in data.masks"
                )
        if lost := [frame for frame in frames if wanted[frame.key] not in masks]:
            raise DataError(
                f"{len(lost)} of {plural(len(frames), 'frame')} in {self.root} have no mask, e.g. {lost[0].key} needs"
                f" {wanted[lost[0].key]}; nothing of that name is there (data.masks = {self.masks})"
            )
        lonely = sorted(masks.keys() - owners.keys() - {frame.key for frame in frames})
        if whole and lonely:
            self.notes.append(
                f"{plural(len(lonely), 'mask')} in {self.root} without a frame, the first is {lonely[0]}: left out"
            )
        return [(frame.path, masks[wanted[frame.key]]) for frame in frames]

    def _mask_key(self, frame: Found, split: str) -> str:
        filled = re.sub(
            r"\{(\w+)\}", lambda place: split if place[1] == "split" else frame.fields[place[1]], self.masks
        )
        return key_of(re.sub("/{2,}", "/", filled.removeprefix("/")))


def fixed_part(pattern: str) -> str:
    """The folders before the first that holds a wildcard or a place."""
    parts = pattern.split("/")[:-1]
    fixed = [part for i, part in enumerate(parts) if not any(set("*?{") & set(one) for one in parts[: i + 1])]
    return "/".join(part for part in fixed if part not in ("", "."))


def _matches(root: Path, pattern: str) -> Iterator[tuple[str, Path, re.Match[str]]]:
    """Files below a folder that match a pattern, with their keys, in no order. Links to folders are followed, but not
    in circles.
    """
    pattern = "/".join(part for part in unicodedata.normalize("NFC", pattern).split("/") if part not in ("", "."))
    fixed = fixed_part(pattern)
    depth = None if "**" in pattern else pattern.count("/") - (fixed.count("/") + 1 if fixed else 0)
    regex = _regex(pattern)
    seen: set[tuple[int, int]] = set()
    start = root / fixed
    for place, folders, names in os.walk(start, followlinks=True, onerror=_refuse):
        status = os.stat(place)
        new = (status.st_dev, status.st_ino) not in seen
        seen.add((status.st_dev, status.st_ino))
        level = len(Path(place).relative_to(start).parts)
        folders[:] = (
            sorted(name for name in folders if not is_hidden(name)) if new and (depth is None or level < depth) else []
        )
        for name in names if new else ():
            relative = os.path.relpath(os.path.join(place, name), root)
            key = key_of(relative)
            if not is_hidden(name) and (match := regex.fullmatch(key)):
                yield key, root / relative, match


def _refuse(error: OSError) -> None:
    """Raise DataError for a folder that can't be read; one that isn't there holds nothing."""
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise DataError(
            f"can't read the folder {error.filename}: {error.strerror}; give yourself the permission to, or take it out"
            " of the data set"
        ) from error


def _regex(pattern: str) -> re.Pattern[str]:
    """Of keys. ``**`` stands for any number of folders, also none; ``*`` and ``?`` stay within a name."""
    stem, suffix = os.path.splitext(pattern)
    pattern = stem + suffix.lower() if "*" not in suffix and "{" not in suffix else pattern
    text, named = "", False
    for token in re.findall(r"\*\*/|\*\*|\*|\?|\{stem\}|[^*?{]+|.", pattern):
        if token == "{stem}":
            text += "(?P=stem)" if named else "(?P<stem>[^/]+?)"
            named = True
        else:
            text += {"**/": "(?:[^/]+/)*", "**": ".*", "*": "[^/]*", "?": "[^/]"}.get(token, re.escape(token))
    return re.compile(text)
