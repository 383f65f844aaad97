"""The folder that holds an export: its files, by safe names only; whatever an export names, nothing outside of the
folder is read.
"""

from __future__ import annotations

import json
import os
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from rdd_deploy import console
from rdd_deploy.data.imports.lookup import Lookup
from rdd_deploy.errors import DataError, RddError
from rdd_deploy.utils import files
from rdd_deploy.utils.yaml_file import parse_yaml

MOST_FILES = 5_000_000
LARGEST_TEXT = 2**31
"""Bytes of a JSON, XML or text file; COCO's largest has 450 MB."""
_PEEKED = 40
"""JSON files that are looked into to tell the format."""
_ARCHIVES = (".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".7z", ".rar")


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
        for folder, below, names in os.walk(self.root, onerror=_refuse):
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

    @property
    def images(self) -> list[str]:
        """Files of kinds that are read as images."""
        return self._lookup.images

    @property
    def guessed(self) -> list[str]:
        """Images that were found by their name alone."""
        return self._lookup.guessed

    @cached_property
    def _lookup(self) -> Lookup:
        return Lookup(self.files)

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

    def image(self, name: str, *folders: str, by_name: bool = True, masks: bool = False) -> tuple[str, Path]:
        """The image that an export names; see ``Lookup.find``.

        Returns:
            its name in the export, and its path.

        Raises:
            NotFoundError: there is none, or more than one that may be meant. DataError: a link that leads out of the
                folder.
        """
        found = self._lookup.find(name, folders, by_name, masks)
        return found, self.path(found)

    def only_one(self, names: Sequence[str]) -> str:
        """The image that has a mask's name. Raises DataError where there are more."""
        if len(names) > 1:
            raise DataError(
                f"{self.root}: {names[0]} and {names[1]} have the same name but for the ending, and there is one mask"
                " for them; rename or remove one"
            )
        return names[0]

    def read(self, name: str, at_most: int = LARGEST_TEXT) -> bytes:
        """A file's bytes. Raises DataError."""
        try:
            return files.read_file(self.path(name), at_most)
        except OSError as error:
            raise DataError(f"can't read {self.root / name}: {error.strerror or error}") from error

    def head(self, name: str, count: int) -> bytes:
        """A file's first bytes. Raises DataError."""
        try:
            return files.read_head(self.path(name), count)
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

    def numbered(self, name: str) -> list[str]:
        """The lines of a list in which a line's number counts. Raises DataError for an empty one between others."""
        lines = [line.strip() for line in self.text(name).rstrip().splitlines()]
        if "" in lines:
            raise DataError(
                f"{self.root / name}: line {lines.index('') + 1} is empty, and a line's number is its class's; remove"
                " the line, or write the class there"
            )
        return lines

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
        is_min = any(
            isinstance(value, list) and value and isinstance(value[0], dict) and "original_width" in value[0]
            for task in tree
            if isinstance(task, dict)
            for value in task.values()
        )
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


def _refuse(error: OSError) -> None:
    raise DataError(
        f"can't read the folder {error.filename}: {error.strerror}; give yourself the permission to, or take it out of"
        " the export"
    ) from error


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX" or name.lower() in ("thumbs.db", "desktop.ini")


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is no number")
