"""What the names of files and folders in an export say."""

from __future__ import annotations

import os
import re
import unicodedata
from pathlib import PurePosixPath
from urllib.parse import unquote

_SPLITS = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val", "test": "test", "testing": "test",
}  # fmt: skip
_BESIDE = {
    "image",
    "images",
    "img",
    "imgs",
    "mask",
    "masks",
    "label",
    "labels",
    "data",
    "set",
    "split",
    "frames",
    "obj",
}
"""Words that a split's folder may have beside its own: train_images, obj_train_data."""


def folder_of(name: str) -> str:
    """The folder of a file in the export, empty for the top."""
    folder = PurePosixPath(name).parent.as_posix()
    return "" if folder == "." else folder


def split_of(*folders: str) -> str | None:
    """train, val or test, where a folder is called so, but for numbers and words like images; the last that is counts.
    A folder test_drive says nothing.
    """
    for folder in reversed(folders):
        for part in reversed(PurePosixPath(folder).parts):
            words = [word for word in _words(part) if word not in _BESIDE]
            if len(words) == 1 and words[0] in _SPLITS:
                return _SPLITS[words[0]]
    return None


def split_of_file(name: str) -> str | None:
    """The same where a word of the file's name says so (instances_train2017.json), else by its folders."""
    words = _words(os.path.splitext(PurePosixPath(name).name)[0])
    found = [_SPLITS[word] for word in words if word in _SPLITS]
    return found[-1] if found else split_of(folder_of(name))


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z]+", text.lower())


def cleaned(name: str) -> str:
    """A name with ``/`` only; of an address the path, or what ``?d=`` names."""
    name = name.replace("\\", "/").replace("\0", "")
    if re.match(r"[a-z][a-z0-9+.-]*://", name, re.IGNORECASE) or name.startswith("/data/"):
        name, _, query = name.partition("?")
        local = re.search(r"(?:^|&)d=([^&]+)", query)
        name = unquote(local[1] if local else name)
    return re.sub(r"^[A-Za-z]:/", "/", name)


def inside(name: str) -> str | None:
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


def key(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def shared_end(name: str, wanted: str) -> int:
    """How many parts two paths have in common at their ends."""
    count = 0
    for one, other in zip(reversed(name.split("/")), reversed(wanted.split("/")), strict=False):
        if one != other:
            break
        count += 1
    return count
