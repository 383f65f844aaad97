"""The folder that holds an export: its files, by safe names only; whatever an export names, nothing outside of the
folder is read.
"""

from __future__ import annotations

import json
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote

from rdd_deploy import console
from rdd_deploy.data.listing import IMAGES
from rdd_deploy.errors import DataError, RddError
from rdd_deploy.utils import files
from rdd_deploy.utils.yaml_file import parse_yaml

MOST_FILES = 5_000_000
LARGEST_TEXT = 2**31
"""Bytes of a JSON, XML or text file; COCO's largest has 450 MB."""
_PEEKED = 40
"""JSON files that are looked into to tell the format."""
_ARCHIVES = (".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".7z", ".rar")
_SPLITS = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val", "test": "test", "testing": "test",
}  # fmt: skip


class NotFoundError(Exception):
    """Why an image isn't there; it is left out and told."""


class Source:
    """An export's folder.

    Args:
        path: the folder, or one annotation file in it, which then is the only one that is read.

    Attributes:
        files: relative names, with ``/``. links: folders that are links; they aren't looked into.

    Raises:
        DataError: it isn't there, is an archive, or holds too many files.
    """

    def __init__(self, path: Path) -> None:
        if not path.exists():
            raise DataError(f"no export in {path}; expected the folder that the annotation tool's archive unpacks to")
        if path.is_file() and path.suffix.lower() in _ARCHIVES:
            raise DataError(
                f"{path} is an archive; unpack it into a folder (unzip {path.name} -d {path.stem}) and give that folder"
            )
        self.only: str | None = None
        self.root = Path(os.path.realpath(path))
        if self.root.is_file():  # COCO's and CVAT's lie in a folder beside those of the images
            top = (
                self.root.parent.parent if self.root.parent.name.lower() in ("annotations", "ann") else self.root.parent
            )
            self.only, self.root = self.root.relative_to(top).as_posix(), top
        if not self.root.is_dir():
            raise DataError(f"{path} is neither a folder nor a file; expected the folder of an export")
        self.files: list[str] = []
        self.links: list[str] = []
        for folder, below, names in os.walk(self.root):
            below[:] = sorted(name for name in below if not _is_hidden(name))
            inside = PurePosixPath(os.path.relpath(folder, self.root)).as_posix()
            self.links += [os.path.join(folder, name) for name in below if os.path.islink(os.path.join(folder, name))]
            self.files += [
                name if inside == "." else f"{inside}/{name}" for name in sorted(names) if not _is_hidden(name)
            ]
            if len(self.files) > MOST_FILES:
                raise DataError(f"{path} holds more than {MOST_FILES} files; give the folder of one export")
        self._parsed: tuple[str, Any] = ("", None)
        self._kinds: dict[str, str] = {}

    def named(self, *suffixes: str) -> list[str]:
        """Files with one of some endings, in either case; where one annotation file was given, no other of its kind."""
        found = [name for name in self.files if name.lower().endswith(suffixes)]
        if self.only and self.only.lower().endswith(suffixes):
            return [self.only]
        return found

    @cached_property
    def images(self) -> list[str]:
        """Files of kinds that are read as images."""
        return [name for name in self.files if os.path.splitext(name)[1].lower() in IMAGES]

    @cached_property
    def _by_name(self) -> dict[str, list[str]]:
        """Images by their name, and by it without its ending, as CVAT calls the frames of videos."""
        found = defaultdict(list)
        for name in self.images:
            found[_key(PurePosixPath(name).name)].append(name)
            stem = PurePosixPath(name).stem
            if os.path.splitext(stem)[1].lower() not in IMAGES:  # a.jpg.png is a mask of a.jpg, not the image
                found[_key(stem)].append(name)
        return found

    @cached_property
    def _all(self) -> set[str]:
        return set(self.files)

    def path(self, name: str) -> Path:
        """A file's path. Raises DataError for a link that leads out of the folder."""
        path = Path(os.path.realpath(self.root / name))
        if not path.is_relative_to(self.root):
            raise DataError(
                f"{self.root / name} is a link that leads out of the export, to {path}; put the file itself there (cp"
                " -rL copies an export with what its links lead to)"
            )
        return path

    def has(self, name: str) -> bool:
        """Whether there is such a file."""
        return name in self._all

    def image(self, name: str, *folders: str) -> tuple[str, Path]:
        """The image that an export names, however: relative to one of some folders, with another computer's path, as an
        address.

        Returns:
            its name in the export, and its path.

        Raises:
            NotFoundError: there is none, or more than one that may be meant. DataError: a link that leads out of the
                folder.
        """
        wanted = _cleaned(name)
        for folder in (*folders, ""):
            relative = _inside(f"{folder}/{wanted}" if folder else wanted)
            if relative is not None and self.has(relative):
                return relative, self.path(relative)
        last = PurePosixPath(wanted).name
        near = self._by_name.get(_key(last), [])
        if os.path.splitext(last)[1].lower() not in IMAGES:
            exact = {_inside(f"{folder}/{wanted}" if folder else wanted) for folder in folders}
            near = [one for one in near if os.path.splitext(one)[0] in exact] or near
        # Label Studio's prefix of uploaded files.
        if not near and (without := re.sub(r"^[0-9a-f]{8}-", "", last)) != last:
            near = self._by_name.get(_key(without), [])
        if len(near) > 1:
            below = [
                one
                for one in near
                if f"/{one}".endswith(f"/{wanted.lstrip('/')}") or any(one.startswith(f"{f}/") for f in folders if f)
            ]
            longest = [one for one in near if _shared_end(one, wanted) == max(_shared_end(two, wanted) for two in near)]
            near = below if len(below) == 1 else longest
        if len(near) == 1:
            return near[0], self.path(near[0])
        if near:
            raise NotFoundError("several files have the image's name")
        raise NotFoundError("the image isn't in the export")

    def read(self, name: str, at_most: int = LARGEST_TEXT) -> bytes:
        """A file's bytes. Raises DataError."""
        try:
            return files.read_file(self.path(name), at_most)
        except OSError as error:
            raise DataError(f"can't read {self.root / name}: {error.strerror or error}") from error

    def text(self, name: str) -> str:
        """A text file. Raises DataError for what isn't UTF-8."""
        try:
            return self.read(name).decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise DataError(
                f"{self.root / name} isn't UTF-8 text ({error.reason} at byte {error.start}); export it again"
            ) from error

    def lines(self, name: str) -> list[str]:
        """The lines of a text file that aren't empty, without space around."""
        return [line.strip() for line in self.text(name).splitlines() if line.strip()]

    def json(self, name: str) -> Any:
        """A JSON file's content. Raises DataError."""
        if self._parsed[0] != name:
            text = self.text(name)
            try:
                tree = json.loads(text, parse_constant=_no_number)
            except RecursionError:
                raise DataError(f"{self.root / name} is nested too deep; export it again") from None
            except ValueError as error:
                raise DataError(
                    f"{self.root / name} isn't valid JSON: {error}; export it again, or copy it again if it was cut off"
                ) from error
            self._parsed = (name, tree)
        return self._parsed[1]

    def yaml(self, name: str) -> Any:
        """A YAML file's content; keys that are numbers are given as text. Raises DataError."""
        try:
            text = re.sub(
                r"((?:^|[{,])\s*)(\d+)(\s*:\s)",
                r'\1"\2"\3',
                self.read(name, 1 << 20).decode("utf-8-sig"),
                flags=re.MULTILINE,
            )
            return parse_yaml(text, str(self.root / name))
        except UnicodeDecodeError as error:
            raise DataError(f"{self.root / name} isn't UTF-8 text; export it again") from error
        except RddError as error:
            raise DataError(str(error)) from error

    def of_kind(self, kind: str) -> Iterator[str]:
        """All JSON files of one kind. Raises DataError for one that is none."""
        for name in self.named(".json"):
            if (self._kinds.get(name) or kind_of_json(self.json(name))) == kind:
                yield name

    def each(self, names: Sequence[str]) -> Iterator[str]:
        """Names one after the other, with a progress bar."""
        with console.progress("annotations", len(names)) as bar:
            for name in names:
                yield name
                bar.advance()

    @cached_property
    def kinds(self) -> dict[str, list[str]]:
        """What the first JSON files hold: kind -> names. Files that aren't JSON are left to the reader, which says what
        is wrong.
        """
        found = defaultdict(list)
        for name in sorted(self.named(".json"), key=lambda name: (name.count("/"), name))[:_PEEKED]:
            try:
                kind = kind_of_json(self.json(name))
            except DataError:
                kind = "broken"
            found[kind].append(name)
            self._kinds[name] = kind
        return found


def kind_of_json(tree: Any) -> str:
    """Which tool writes such JSON; empty where it is none that is known."""
    if isinstance(tree, list):
        first = tree[0] if tree and isinstance(tree[0], dict) else {}
        regions = [
            value for value in first.values() if isinstance(value, list) and value and isinstance(value[0], dict)
        ]
        is_min = any("original_width" in value[0] for value in regions)
        return (
            "label-studio" if is_min or ({"annotations", "completions", "data"} & set(first) and "id" in first) else ""
        )
    if not isinstance(tree, dict):
        return ""
    keys = set(tree)
    if {"images", "annotations", "categories"} <= keys:
        first = tree["annotations"][0] if isinstance(tree["annotations"], list) and tree["annotations"] else {}
        return "coco-panoptic" if isinstance(first, dict) and "segments_info" in first else "coco"
    for kind, needed in (
        ("labelme", {"shapes", "imagePath"}), ("cityscapes", {"objects", "imgHeight", "imgWidth"}), ("supervisely", {"objects", "size"}),
        ("label-studio", {"annotations", "data"}),
    ):  # fmt: skip
        if needed <= keys:
            return kind
    classes = tree.get("classes")
    return "supervisely-meta" if isinstance(classes, list) and "tags" in keys else ""


def split_of(*names: str) -> str | None:
    """train, val or test, where a word of a file's or folder's name says so; the last name that does counts."""
    for name in reversed(names):
        for part in reversed(PurePosixPath(name).parts):
            words = re.findall(r"[a-z]+", os.path.splitext(part)[0].lower())
            if found := [_SPLITS[word] for word in words if word in _SPLITS]:
                return found[-1]
    return None


def folder_of(name: str) -> str:
    """The folder of a file in the export, empty for the top."""
    folder = PurePosixPath(name).parent.as_posix()
    return "" if folder == "." else folder


def _cleaned(name: str) -> str:
    """A name with ``/`` only; of an address the path, or what ``?d=`` names."""
    name = name.replace("\\", "/").replace("\0", "")
    if re.match(r"[a-z][a-z0-9+.-]*://", name, re.IGNORECASE) or name.startswith("/data/"):
        name, _, query = name.partition("?")
        local = re.search(r"(?:^|&)d=([^&]+)", query)
        name = unquote(local[1] if local else name)
    return re.sub(r"^[A-Za-z]:/", "/", name)


def _inside(name: str) -> str | None:
    """A relative path in its plain form; None for one that leads out."""
    parts: list[str] = []
    if name.startswith("/"):
        return None
    for part in name.split("/"):
        if part == "..":
            if not parts:
                return None
            parts.pop()
        elif part not in ("", "."):
            parts.append(part)
    return "/".join(parts) or None


def _key(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _shared_end(name: str, wanted: str) -> int:
    """How many parts two paths have in common at their ends."""
    count = 0
    for one, other in zip(reversed(name.split("/")), reversed(wanted.split("/")), strict=False):
        if one != other:
            break
        count += 1
    return count


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX" or name.lower() in ("thumbs.db", "desktop.ini")


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is no number")
