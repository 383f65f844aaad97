"""``manifest.json``: what a bundle is, which files belong to it, and what was measured on them."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from rdd_deploy.errors import BundleError, Problems
from rdd_deploy.runtime.facts import SCHEMA_VERSION, Closed, Facts
from rdd_deploy.runtime.table import BACKENDS
from rdd_deploy.utils.files import has_utf8_name, parse_json, sha256, write_json
from rdd_deploy.utils.files import read_file as read_bounded

MANIFEST = "manifest.json"
GRAPH = "graph.onnx"
"""What an engine is built from."""
README = "README.md"
"""What the manifest says, for people; bundles of version 1 have none."""
LARGEST_MANIFEST = 4 << 20
MAX_CLASSES = 255
"""Id 255 is void."""
_LITTER = {"thumbs.db", "desktop.ini"}

if TYPE_CHECKING:
    BackendName = str
else:
    BackendName = Literal[tuple(BACKENDS)]
Percent = Annotated[float, Field(ge=0, le=100)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Metrics(Closed):
    """Accuracy measured on this very artifact; percentages in [0, 100], None where nothing was measured or the class
    never occurs.
    """

    data: str
    split: str
    images: Annotated[int, Field(ge=0)]
    labels_at: Literal["frame"] = "frame"
    miou_pct: Percent | None
    pixel_accuracy_pct: Percent | None
    iou_pct: dict[str, Percent | None]
    float_miou_pct: Percent | None = None
    drop_pct: float | None = None
    label_agreement_pct: Percent | None = None


class EngineInfo(Closed):
    """What a TensorRT engine was built with; it runs on nothing else."""

    package: Literal["tensorrt", "tensorrt-rtx"]
    version: str
    gpu: str | None = None
    compute_capabilities: list[str] = Field(default_factory=list)


class Manifest(Facts):
    """Everything that running, measuring and tracing a bundle needs."""

    name: str
    backend: BackendName
    profile: str
    model: str
    files: dict[str, Sha256]
    opset: int | None = None
    metrics: Metrics | None = None
    engine: EngineInfo | None = None
    provenance: dict[str, str | int | float | None] = Field(default_factory=dict)
    forced: bool = False

    @property
    def facts(self) -> dict[str, Any]:
        """Those that an ONNX file holds, too, as JSON has them."""
        return self.model_dump(mode="json", include=set(Facts.model_fields))

    @property
    def needs_engine(self) -> bool:
        """Whether it holds an engine's graph only: the engine is built on the machine that will run it."""
        return self.engine is None and self.model == GRAPH and self.backend.startswith("tensorrt")

    @model_validator(mode="after")
    def _consistent(self) -> Manifest:
        if not 2 <= len(self.classes) <= MAX_CLASSES:
            raise ValueError(f"classes: got {len(self.classes)}, expected 2 to {MAX_CLASSES}")
        if len(self.palette) != len(self.classes):
            raise ValueError(
                f"palette: got {len(self.palette)} colours, expected one for each of {len(self.classes)} classes"
            )
        if twice := sorted({name for name in self.classes if self.classes.count(name) > 1}):
            raise ValueError(f"classes: got {twice[0]!r:.60} more than once, expected names that differ")
        if not all(name.strip() for name in self.classes):
            raise ValueError("classes: got an empty name, expected one for each class")
        for file in (*self.files, self.model):
            _check_name(file)
        if self.model not in self.files:
            raise ValueError(f"model: '{self.model}' has no hash in files ({', '.join(self.files) or 'empty'})")
        return self


def is_inside(file: str) -> bool:
    """Whether a name, as it is written, can't reach outside the bundle's folder, in the notation of either kind of
    system.
    """
    windows = PureWindowsPath(file)
    leaves = windows.drive or windows.root or ".." in windows.parts or "\\" in file
    return bool(file) and not leaves and "\0" not in file and PurePosixPath(file).as_posix() == file


def _check_name(file: str) -> None:
    if not is_inside(file):
        raise ValueError(f"files: '{file}' isn't a plain file name inside the bundle")
    if file == MANIFEST:
        raise ValueError(f"files: {MANIFEST} can't hold its own hash")


def read_manifest(folder: str | Path, verify: bool = True, but_model: bool = False) -> Manifest:
    """Read and check a bundle's manifest, and that the folder holds what it names and no other files.

    Args:
        folder: the bundle.
        verify: also hash every file (about 1 ms a megabyte).
        but_model: leave the model's hash to ``read_file``.

    Raises:
        BundleError: folder, manifest or a file is missing; the path isn't UTF-8; the manifest isn't valid; a file's
            content isn't the one that was exported; a file isn't named by the manifest, or is a link that leads out of
            the folder.
    """
    folder = Path(folder)
    manifest = manifest_of(folder)
    for file in manifest.files:
        check_file(folder, manifest, file, verify and not (but_model and file == manifest.model))
    for path in unnamed(folder, manifest):
        raise _unnamed(path)
    return manifest


def bundle_problems(folder: Path, manifest: Manifest) -> Problems:
    """Everything that is wrong with a bundle's files, where ``read_manifest`` tells the first."""
    problems = Problems()
    for file in manifest.files:
        with problems.collected():
            check_file(folder, manifest, file)
    for path in unnamed(folder, manifest):
        with problems.collected():
            raise _unnamed(path)
    return problems


def manifest_of(folder: Path) -> Manifest:
    """A bundle's manifest, checked, but not the files that it names. Raises BundleError."""
    if not has_utf8_name(folder):
        raise BundleError(f"the path of the bundle {folder} isn't UTF-8, which no backend takes; rename it")
    content = _load(folder)
    _check_inside(folder, MANIFEST)
    return parse_manifest(folder / MANIFEST, content)


def check_file(folder: Path, manifest: Manifest, file: str, verify: bool = True) -> None:
    """BundleError unless a file that the manifest names is there, inside, and (with ``verify``) the one that was
    exported.
    """
    path = folder / file
    if not path.is_file():
        raise BundleError(
            f"{folder} has no {file}, which its {MANIFEST} names; copy the whole folder, or export it again"
        )
    _check_inside(folder, file)
    if verify:
        _check_hash(path, _hash(path), manifest.files[file])


def read_file(path: Path, expected: str | None) -> bytes:
    """A bundle's file. What was hashed is what is returned, so that nobody swaps it in between.

    Args:
        path: the file.
        expected: its SHA-256; None checks nothing.

    Raises:
        BundleError: it can't be read, or isn't the file that was exported.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BundleError(f"can't read {path}: {error.strerror or error}; check its permissions") from error
    if expected is not None:
        _check_hash(path, hashlib.sha256(content).hexdigest(), expected)
    return content


def _check_hash(path: Path, got: str, expected: str) -> None:
    if got != expected:
        raise BundleError(
            f"{path} isn't the file that was exported: its SHA-256 is {got[:12]}…, {MANIFEST} says {expected[:12]}…; "
            "copy the bundle again, or export it again"
        )


def _check_inside(folder: Path, file: str) -> None:
    path = folder / file
    if not path.resolve().is_relative_to(folder.resolve()):
        raise BundleError(f"{path} is a link that leads out of the bundle; copy the file itself to its place (cp -L)")


def unnamed(folder: Path, manifest: Manifest) -> Iterator[Path]:
    """What the manifest doesn't name: backends load weights that lie beside a model. What systems leave in every folder
    is no part of it.
    """
    listed = {MANIFEST, *manifest.files}
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        links = [name for name in folders if (Path(parent) / name).is_symlink()]  # not walked into
        for name in sorted([*files, *links]):
            path = Path(parent) / name
            if (
                path.relative_to(folder).as_posix() not in listed
                and not name.startswith(".")
                and name.lower() not in _LITTER
            ):
                yield path


def _unnamed(path: Path) -> BundleError:
    return BundleError(
        f"{path} isn't named by the bundle's {MANIFEST}; remove it, or export the bundle again if it belongs to it"
    )


def write_manifest(folder: str | Path, manifest: Manifest) -> Path:
    """Write ``manifest.json``, whole or not at all; returns its path. Raises DiskError."""
    path = Path(folder) / MANIFEST
    write_json(path, manifest.model_dump(mode="json"))
    return path


def _load(folder: Path) -> bytes:
    path = folder / MANIFEST
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "isn't there"
        packed = (
            f"; unpack it: rdd-deploy bundle unpack {folder}" if folder.is_file() and folder.suffix == ".tar" else ""
        )
        raise BundleError(
            f"the bundle {folder} {what}; expected a folder with {MANIFEST}, as `python -m rdd_deploy.export --onnx`"
            f" writes it{packed}"
        )
    if not path.is_file():
        raise BundleError(
            f"{folder} has no {MANIFEST}, so it isn't a bundle; give a folder that `python -m rdd_deploy.export --onnx`"
            " wrote"
        )
    try:
        return read_bounded(path, LARGEST_MANIFEST)
    except OSError as error:
        raise BundleError(f"can't read {path}: {error.strerror or error}; check its permissions") from error


def parse_manifest(path: Path, content: bytes) -> Manifest:
    """The manifest that a file's content is; one of an older version becomes one of the present, which means the same.

    Args:
        path: of the file, for messages.

    Raises:
        BundleError: it isn't JSON, isn't a manifest, or is of a newer version.
    """
    try:
        value = parse_json(content)
        json.dumps(value, ensure_ascii=False).encode()  # a lone surrogate couldn't be printed
    except ValueError as error:
        raise BundleError(f"{path} isn't JSON ({error}); copy the bundle again, or export it again") from error
    if not isinstance(value, Mapping):
        raise BundleError(f"{path} holds a {type(value).__name__}, expected a JSON object; export the bundle again")
    version = value.get("schema_version")
    if type(version) is not int or not 1 <= version <= SCHEMA_VERSION:
        newer = type(version) is int and version > SCHEMA_VERSION
        do = "update rdd-deploy" if newer else "export the bundle again"
        raise BundleError(f"{path} has schema version {version!r}, this rdd-deploy reads 1 to {SCHEMA_VERSION}; {do}")
    told = [key for key in ("preprocessing", "postprocessing") if key in value]
    problems = []
    if version == 1:
        problems = [f"{key}: unknown key in schema version 1" for key in told]
    elif len(told) < 2:
        problems = [f"{key}: Field required" for key in ("preprocessing", "postprocessing") if key not in told]
    try:
        manifest = Manifest.model_validate({**value, "schema_version": SCHEMA_VERSION})
    except ValidationError as error:
        problems.append(_problems(error))
    if problems:
        raise BundleError(f"{path} isn't a valid manifest: {'; '.join(problems)}; export the bundle again")
    return manifest


def _problems(error: ValidationError) -> str:
    """Every problem in one line: dotted path, what was got, what is expected."""
    lines = []
    for problem in error.errors(include_url=False):
        where = ".".join(str(part) for part in problem["loc"])
        message = str(problem["msg"]).removeprefix("Value error, ")
        if problem["type"] == "extra_forbidden":
            message = "unknown key"
        elif problem["type"] != "missing" and where:
            message = f"got {problem['input']!r:.60}, {message[:1].lower()}{message[1:]}"
        lines.append(f"{where}: {message}" if where else message)
    return "; ".join(lines)


def _hash(path: Path) -> str:
    try:
        return sha256(path)
    except OSError as error:
        raise BundleError(f"can't read {path}: {error.strerror or error}; check its permissions") from error
