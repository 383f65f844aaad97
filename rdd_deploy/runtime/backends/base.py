"""The contract of a backend."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from rdd_deploy.errors import BundleError, DeviceError
from rdd_deploy.runtime.manifest import Manifest
from rdd_deploy.runtime.onnx_file import has_external_data, metadata
from rdd_deploy.utils.files import parse_json

INPUT, OUTPUT = "frame", "labels"
PRECISION, VERSION = "precision", "schema_version"
"""Keys of an ONNX file's metadata; the others are called like the manifest's, too."""


class Backend(Protocol):
    """Runs one model file. ``infer`` is called by one thread at a time, by any number where ``parallel`` is above 1,
    between ``activate`` and ``deactivate``.

    ``device`` and ``provider`` say what was obtained and are final after ``activate``.
    """

    device: str
    provider: str

    def activate(self) -> None:
        """Load the model and take memory and devices. Raises BundleError, DeviceError or MissingPackageError."""

    def infer(self, network_input: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """uint8 (1, H, W, 3), contiguous -> uint8 (1, H, W). The result belongs to the caller: no later call overwrites
        it.
        """

    def deactivate(self) -> None:
        """Give everything back; may be called twice."""


def parse_device(device: str) -> tuple[str, int | None]:
    """'auto', 'cpu', 'cuda' or 'cuda:1' -> (kind, index or None). Raises DeviceError."""
    match = re.fullmatch(r"(auto|cpu|cuda)|cuda:(\d{1,4})", device)
    if not match:
        raise DeviceError(f"unknown device '{device}'; expected auto, cpu, cuda or cuda:N")
    return (match[1], None) if match[1] else ("cuda", int(match[2]))


def check_model(path: Path, manifest: Manifest, content: bytes) -> None:
    """Refuse an ONNX model that takes weights from another file, or says something else about itself than the bundle's
    manifest.

    Models of older bundles say less, and what they don't say isn't compared.

    Raises:
        BundleError: it does.
        ValueError: it isn't ONNX.
    """
    if has_external_data(content):
        raise BundleError(
            f"{path} takes weights from another file, which no bundle's model may; export the bundle again"
        )
    says = metadata(content)
    check_precision(path, manifest, says.get(PRECISION))
    for key, expected in manifest.facts.items() if VERSION in says else ():
        if key in says and (got := _read(says[key])) != expected:
            raise BundleError(
                f"{path} says {key} {_told(got)} of itself, its manifest says {_told(expected)}; copy the whole bundle"
                " again, or export it again"
            )


def _read(text: str) -> Any:
    """A value of a model's metadata: text as it is, all else as JSON."""
    with suppress(ValueError):
        return parse_json(text.encode())
    return text


def _told(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:77]}..."


def check_parallel(path: Path, device: str, parallel: int) -> None:
    """DeviceError where several inferences at a time were asked of another device than the CPU."""
    if parallel > 1 and device != "cpu":
        raise DeviceError(
            f"asked for {parallel} inferences at a time of {path} on {device}, which takes one; "
            "leave parallel at 1, or run an ONNX or OpenVINO bundle with --device cpu"
        )


def check_tensor(manifest: Manifest, what: str, name: str, dtype: str, shape: Sequence[Any]) -> None:
    """Compare a model's input (``what`` = frame) or output (labels) with the contract; dimensions that aren't integers
    are free.

    Raises:
        BundleError: another name, type or shape than the manifest promises.
    """
    size = manifest.input.height, manifest.input.width
    expected = (1, *size, 3) if what == INPUT else (1, *size)
    fits = len(shape) == len(expected) and all(
        not isinstance(got, int) or got == want for got, want in zip(shape, expected, strict=True)
    )
    if (name, dtype) != (what, "uint8") or not fits:
        got = f"{name}: {dtype}[{', '.join(map(str, shape))}]"
        raise BundleError(
            f"{manifest.model} of '{manifest.name}' has the tensor {got}, expected {what}:"
            f" uint8[{', '.join(map(str, expected))}]; export the bundle again"
        )


def check_precision(path: Path, manifest: Manifest, obtained: str | None) -> None:
    """BundleError where the model says another precision than the manifest; None: it says nothing."""
    if obtained not in (None, manifest.precision):
        raise BundleError(
            f"{path} computes in {obtained}, its manifest says {manifest.precision}; copy the whole bundle again, or"
            " export it again"
        )
