"""``manifest.json``: what a bundle is, which files belong to it, and what was measured on them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from rdd_deploy.errors import BundleError
from rdd_deploy.files import has_utf8_name, parse_json, read_file, sha256, write_json

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
LARGEST_MANIFEST = 4 << 20
EXPORT = "python -m rdd_deploy.export --onnx"
MAX_CLASSES = 255
MAX_SIDE = 16384
"""Id 255 is void."""

BackendName = Literal["onnxruntime", "openvino", "tensorrt", "tensorrt-rtx"]
Precision = Literal["fp32", "fp16", "bf16", "int8"]
Byte = Annotated[int, Field(ge=0, le=255)]
Percent = Annotated[float, Field(ge=0, le=100)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Closed(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class InputSpec(_Closed):
    """The one input tensor, ``frame: uint8[1, height, width, 3]``."""

    height: Annotated[int, Field(ge=1, le=MAX_SIDE)]
    width: Annotated[int, Field(ge=1, le=MAX_SIDE)]
    layout: Literal["NHWC"] = "NHWC"
    dtype: Literal["uint8"] = "uint8"
    color: Literal["BGR"] = "BGR"


class Metrics(_Closed):
    """Accuracy measured on this very artifact; percentages in [0, 100], None where nothing was measured or the class never occurs."""

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


class EngineInfo(_Closed):
    """What a TensorRT engine was built with; it runs on nothing else."""

    package: Literal["tensorrt", "tensorrt-rtx"]
    version: str
    gpu: str | None = None
    compute_capabilities: list[str] = []


class Manifest(_Closed):
    """Everything that running, measuring and tracing a bundle needs."""

    schema_version: Literal[1] = 1
    name: str
    task: Literal["semantic-segmentation"] = "semantic-segmentation"
    classes: list[str]
    palette: list[tuple[Byte, Byte, Byte]]
    input: InputSpec
    backend: BackendName
    precision: Precision
    profile: str
    model: str
    files: dict[str, Sha256]
    opset: int | None = None
    metrics: Metrics | None = None
    engine: EngineInfo | None = None
    provenance: dict[str, str | int | float | None] = {}
    forced: bool = False

    @model_validator(mode="after")
    def _consistent(self) -> Manifest:
        if not 2 <= len(self.classes) <= MAX_CLASSES:
            raise ValueError(f"classes: got {len(self.classes)}, expected 2 to {MAX_CLASSES}")
        if len(self.palette) != len(self.classes):
            raise ValueError(f"palette: got {len(self.palette)} colours, expected one for each of {len(self.classes)} classes")
        for file in (*self.files, self.model):
            _check_name(file)
        if self.model not in self.files:
            raise ValueError(f"model: '{self.model}' has no hash in files ({', '.join(self.files) or 'empty'})")
        return self


def _check_name(file: str) -> None:
    """Refuse what could reach outside the bundle's folder, in the notation of either kind of system."""
    windows = PureWindowsPath(file)
    leaves = windows.drive or windows.root or ".." in windows.parts or "\\" in file
    if leaves or not file or "\0" in file or PurePosixPath(file).as_posix() != file:
        raise ValueError(f"files: '{file}' isn't a plain file name inside the bundle")
    if file == MANIFEST:
        raise ValueError(f"files: {MANIFEST} can't hold its own hash")


def read_manifest(folder: str | Path, verify: bool = True) -> Manifest:
    """Read and check a bundle's manifest.

    Args:
        folder: the bundle.
        verify: also hash every file (about 1 ms a megabyte).

    Raises:
        BundleError: folder, manifest or a file is missing; the path isn't UTF-8; the manifest isn't valid; a file's content isn't the one that was exported.
    """
    folder = Path(folder)
    if not has_utf8_name(folder):
        raise BundleError(f"the path of the bundle {folder} isn't UTF-8, which no backend takes; rename it")
    manifest = _parse(folder / MANIFEST, _load(folder))
    for file, expected in manifest.files.items():
        path = folder / file
        if not path.is_file():
            raise BundleError(f"{folder} has no {file}, which its {MANIFEST} names; copy the whole folder, or export it again")
        if verify and (got := _hash(path)) != expected:
            raise BundleError(
                f"{path} isn't the file that was exported: its SHA-256 is {got[:12]}…, {MANIFEST} says {expected[:12]}…; "
                "copy the bundle again, or export it again"
            )
    return manifest


def write_manifest(folder: str | Path, manifest: Manifest) -> Path:
    """Write ``manifest.json``, whole or not at all; returns its path. Raises DiskError."""
    path = Path(folder) / MANIFEST
    write_json(path, manifest.model_dump(mode="json"))
    return path


def _load(folder: Path) -> Any:
    path = folder / MANIFEST
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "isn't there"
        raise BundleError(
            f"the bundle {folder} {what}; expected a folder with {MANIFEST}, as `python -m rdd_deploy.export --onnx` writes it"
        )
    if not path.is_file():
        raise BundleError(
            f"{folder} has no {MANIFEST}, so it isn't a bundle; give a folder that `python -m rdd_deploy.export --onnx` wrote"
        )
    try:
        return parse_json(read_file(path, LARGEST_MANIFEST))
    except ValueError as error:
        raise BundleError(f"{path} isn't JSON ({error}); copy the bundle again, or export it again") from error
    except OSError as error:
        raise BundleError(f"can't read {path}: {error.strerror or error}; check its permissions") from error


def _parse(path: Path, value: Any) -> Manifest:
    if not isinstance(value, Mapping):
        raise BundleError(f"{path} holds a {type(value).__name__}, expected a JSON object; export the bundle again")
    version = value.get("schema_version")
    if type(version) is not int or version != SCHEMA_VERSION:
        newer = type(version) is int and version > SCHEMA_VERSION
        do = "update rdd-deploy" if newer else "export the bundle again"
        raise BundleError(f"{path} has schema version {version!r}, this rdd-deploy reads {SCHEMA_VERSION}; {do}")
    try:
        return Manifest.model_validate(value)
    except ValidationError as error:
        raise BundleError(f"{path} isn't a valid manifest: {_problems(error)}; export the bundle again") from error


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
