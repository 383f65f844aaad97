"""The range table: one calibration for every target's Q/DQ graph, with a key so that a stale one is never reused."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from rdd_deploy.errors import DataError
from rdd_deploy.export.onnx.graph import consumers, weight_fingerprint
from rdd_deploy.utils import files

VERSION = 4
CALIBRATED = {
    "Conv",
    "Add",
    "Mul",
    "ReduceMean",
    "Sub",
    "HardSwish",
    "HardSigmoid",
    "Sigmoid",
    "Relu",
    "Clip",
    "Concat",
    "AveragePool",
    "MaxPool",
    "Resize",
}
"""Operators whose output may be quantised."""
ACTIVATIONS = {"Relu", "Clip"}
"""What disappears into a quantised convolution: only the range after it matters."""

Range = tuple[float, float]


@dataclass(frozen=True)
class RangeTable:
    """Range of each activation, and what it was measured on.

    Attributes:
        key: weights and graph (one fingerprint), images, method and its parameters.
        ranges: tensor name -> (lowest, highest).
    """

    key: dict[str, Any]
    ranges: Mapping[str, Range]

    def save(self, folder: Path) -> Path:
        """Write the table under its key; returns the file."""
        path = table_path(folder, self.key)
        self.write(path)
        return path

    def write(self, path: Path) -> None:
        """Write the table to a file."""
        rows = {name: [float(low), float(high)] for name, (low, high) in self.ranges.items()}
        files.write_json(path, {"schema_version": VERSION, "key": self.key, "ranges": rows, "sha256": _checksum(rows)})


def table_path(folder: Path, key: Mapping[str, Any]) -> Path:
    """Where the table of a key lies."""
    digest = hashlib.sha256(json.dumps(dict(key), sort_keys=True).encode()).hexdigest()[:16]
    return folder / f"ranges-{key['method']}-{digest}.json"


def load_table(folder: Path, key: Mapping[str, Any]) -> RangeTable | None:
    """The table of exactly this key, or None. A damaged or edited file counts as none."""
    table = read_table(table_path(folder, key))
    return table if table is not None and table.key == dict(key) else None


def read_table(path: Path) -> RangeTable | None:
    """The table of a file; None where there is none, or it is damaged, edited or of another version."""
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        if tree["schema_version"] != VERSION or tree["sha256"] != _checksum(tree["ranges"]):
            return None
        ranges = {str(name): (float(low), float(high)) for name, (low, high) in tree["ranges"].items()}
        key = dict(tree["key"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return RangeTable(key, ranges) if all(map(_sound, ranges.values())) else None


def _checksum(rows: Mapping[str, Sequence[float]]) -> str:
    return hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()


def _sound(limits: Range) -> bool:
    return math.isfinite(limits[0]) and math.isfinite(limits[1]) and limits[0] <= limits[1]


def table_key(model: onnx.ModelProto, images: str, method: str, **parameters: Any) -> dict[str, Any]:
    """The key of a table: graph with weights, images (their digest), method and its parameters."""
    return {"graph": weight_fingerprint(model), "images": images, "method": method, **parameters}


def check_ranges(ranges: Mapping[str, Range]) -> None:
    """DataError where an activation is not finite: the float network itself overflows."""
    for name, limits in ranges.items():
        if not _sound(limits):
            raise DataError(
                f"activation '{name}' is {limits} on the calibration images; the float network overflows there, train"
                " it again"
            )


def tensors_to_calibrate(model: onnx.ModelProto) -> list[str]:
    """Activations that some scheme may quantise. What only feeds a Relu or Clip never is, and neither is the upsampled
    output.
    """
    readers = consumers(model)
    constant = {one.name for one in model.graph.initializer}
    types = {
        one.name: one.type.tensor_type.elem_type for one in onnx.shape_inference.infer_shapes(model).graph.value_info
    }
    found = []
    for node in model.graph.node:
        if all(source in constant for source in node.input):
            continue
        for name in filter(None, node.output):
            read_by = {reader.op_type for reader in readers.get(name, [])}
            # Whatever a convolution or a sum reads: PSPNet's pooled bins come from a Gather, EdgeNeXt's shortcuts from
            # a Transpose or the later outputs of a Split.
            wanted = node.op_type in CALIBRATED or not read_by.isdisjoint({"Conv", "Add"})
            real = types.get(name, onnx.TensorProto.FLOAT) == onnx.TensorProto.FLOAT  # class ids are added to as well
            if real and wanted and not read_by <= ACTIVATIONS:
                found.append(name)
    return found


NOTHING = 255 * float(np.finfo(np.float32).tiny)
"""Below this a scale would be subnormal, which float32 rounds to 0 and backends flush: the tensor counts as always zero."""


def symmetric_scale(limits: Range) -> float:
    """S8 scale with zero point 0; 1 for a tensor that is always zero."""
    largest = max(abs(limits[0]), abs(limits[1]))
    return largest / 127 if largest > NOTHING else 1.0


def affine_scale(limits: Range) -> tuple[float, int]:
    """U8 scale and zero point; zero is exact, and a range from 0 never reaches above its top (or onnxruntime would keep
    the Clip).
    """
    low, high = min(limits[0], 0.0), max(limits[1], 0.0)
    if high - low <= NOTHING:
        return 1.0, 0
    scale = np.float32((high - low) / 255)
    while low == 0 and np.float32(255) * scale > np.float32(high):
        scale = np.nextafter(scale, np.float32(0))
    return float(scale), int(np.clip(round(-low / float(scale)), 0, 255))


def largest_integer(bits: int) -> int:
    """The highest value of a symmetric weight: 127 of 8 bits."""
    return int(2 ** (bits - 1) - 1)


def quantised_weight(weight: NDArray[np.float32], bits: int) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """A weight (O, …) as integers, symmetric, and its scale per output channel, (O,); 1 for a channel of zeros."""
    top = largest_integer(bits)
    largest = np.abs(weight.reshape(weight.shape[0], -1)).max(1)
    scales = np.where(largest > NOTHING, largest / top, 1).astype(np.float32)
    rounded = np.rint(weight / scales.reshape(-1, *[1] * (weight.ndim - 1))).clip(-top, top)
    return rounded.astype(np.int8), scales
