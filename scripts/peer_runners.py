"""Peers' exported networks as the benchmark's runners: prepared, run and taken back to the frame's size as their own
tools do it.

``infer`` is their graph alone, from float input to what it gives: what turns a frame into that input, and its outputs
into labels, counts in the end-to-end latency only, where our bundles' graphs begin and end with bytes. So the model
latencies favour the peers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from rdd_deploy.benchmark.runners import Candidate
from rdd_deploy.errors import BundleError, missing_package
from rdd_deploy.preprocess import resize_labels
from rdd_deploy.utils.machine import runtime_version

Array = NDArray[Any]
GREY = 114
"""What ultralytics pads frames with."""


class Graph(Protocol):
    """A loaded file."""

    def __call__(self, batch: Array) -> dict[str, Array]:
        """float32 (N, 3, h, w) -> outputs by name."""


def open_onnxruntime(path: Path, threads: int) -> Graph:
    """With the options that our bundles run with."""
    try:
        import onnxruntime
    except ImportError as error:
        raise missing_package("onnxruntime", "cpu", f"the export {path}") from error
    from rdd_deploy.runtime.backends.onnxruntime import EXACT_INT8, SPIN_US

    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.inter_op_num_threads, options.intra_op_num_threads = 3, 1, threads
    options.add_session_config_entry("session.intra_op.spin_duration_us", SPIN_US)
    options.add_session_config_entry(*EXACT_INT8)
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name, outputs = session.get_inputs()[0].name, [one.name for one in session.get_outputs()]
    wanted = outputs if len(outputs) == 1 else ["logits"]
    return lambda batch: dict(zip(wanted, session.run(wanted, {name: batch}), strict=True))


def open_openvino(path: Path, threads: int) -> Graph:
    """With the options that our bundles run with."""
    try:
        import openvino
    except ImportError as error:
        raise missing_package("openvino", "openvino", f"the export {path}") from error
    from rdd_deploy.runtime.backends.openvino import shared_core

    options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}
    core = shared_core(openvino)
    request = core.compile_model(core.read_model(path), "CPU", options).create_infer_request()
    outputs = request.model_outputs
    at = 0 if len(outputs) == 1 else next(number for number, port in enumerate(outputs) if "logits" in port.names)
    name = "labels" if len(outputs) == 1 else "logits"

    def run(batch: Array) -> dict[str, Array]:
        request.get_input_tensor().data[:] = batch
        request.infer(share_outputs=True)
        return {name: request.get_output_tensor(at).data.copy()}

    return run


OPENERS = {"onnxruntime": open_onnxruntime, "openvino": open_openvino}


class Letterboxed:
    """ultralytics' way: the frame is scaled into the network's size and padded; its graph ends in labels.

    Args:
        graph: the loaded file. size: (height, width) of its input. classes: their names.
    """

    def __init__(self, graph: Graph, size: tuple[int, int], classes: tuple[str, ...], provider: str) -> None:
        self.graph, self.input_size, self.classes, self.device, self.provider = graph, size, classes, "cpu", provider
        self._inside = (0, 0, *size)

    def prepare(self, frame: Array) -> Array:
        """uint8 (H, W, 3) BGR -> float32 (1, 3, h, w) RGB in [0, 1]."""
        (height, width), (own_height, own_width) = frame.shape[:2], self.input_size
        scale = min(own_height / height, own_width / width)
        inner = round(height * scale), round(width * scale)
        top, left = (round((own - one) / 2 - 0.1) for own, one in zip(self.input_size, inner, strict=True))
        self._inside = (top, left, *inner)
        padded = np.full((own_height, own_width, 3), GREY, np.uint8)
        padded[top : top + inner[0], left : left + inner[1]] = cv2.resize(
            frame, inner[::-1], interpolation=cv2.INTER_LINEAR
        )
        planes = np.ascontiguousarray(padded[:, :, ::-1].transpose(2, 0, 1))
        return planes[None].astype(np.float32) / np.float32(255)

    def infer(self, network_input: Array) -> Array:
        """float32 (1, 3, h, w) -> uint8 (1, h, w)."""
        (labels,) = self.graph(network_input).values()
        return labels

    def restore(self, labels: Array, size: tuple[int, int]) -> Array:
        """uint8 (1, h, w) -> uint8 (H, W): the padding is cut away, the nearest pixel taken."""
        top, left, height, width = self._inside
        inner = np.ascontiguousarray(labels[0, top : top + height, left : left + width], np.uint8)
        return resize_labels(inner, size)

    def close(self) -> None:
        """Nothing to give back."""


class Tiled:
    """lightly-train's way: the short side is scaled to the network's, squares cover the long one, and logits are
    averaged where they overlap.

    Args:
        graph: the loaded file. side: of its squares. tiles: how many it takes at a time.
        classes: their names. mean, std: per colour, of RGB in [0, 1].
    """

    def __init__(
        self,
        graph: Graph,
        side: int,
        tiles: int,
        classes: tuple[str, ...],
        mean: list[float],
        std: list[float],
        provider: str,
    ) -> None:
        self.graph, self.side, self.tiles, self.classes = graph, side, tiles, classes
        self.input_size, self.device, self.provider = (side, side), "cpu", provider
        self.mean, self.std = np.array(mean, np.float32), np.array(std, np.float32)
        self._starts: list[int] = []
        self._scaled = (side, side)

    def prepare(self, frame: Array) -> Array:
        """uint8 (H, W, 3) BGR -> float32 (tiles, 3, side, side), normalised. Raises BundleError for a frame that takes
        another number of tiles."""
        from PIL import Image

        height, width = frame.shape[:2]
        wide = height <= width
        self._scaled = (
            (self.side, int(self.side * width / height)) if wide else (int(self.side * height / width), self.side)
        )
        self._starts = starts(max(self._scaled), self.side)
        if len(self._starts) != self.tiles:
            raise BundleError(
                f"a frame of {height}x{width} takes {len(self._starts)} squares, the export was made for {self.tiles}; "
                "measure frames of one shape"
            )
        rgb = Image.fromarray(np.ascontiguousarray(frame[:, :, ::-1]))
        small = np.asarray(rgb.resize(self._scaled[::-1], Image.Resampling.BILINEAR), np.float32) / 255
        planes = ((small - self.mean) / self.std).transpose(2, 0, 1)
        return np.ascontiguousarray(np.stack([self._cut(planes, start) for start in self._starts]))

    def _cut(self, planes: Array, start: int) -> Array:
        if self._scaled[0] > self._scaled[1]:
            return planes[:, start : start + self.side]
        return planes[:, :, start : start + self.side]

    def infer(self, network_input: Array) -> Array:
        """float32 (tiles, 3, side, side) -> scores float32 (tiles, C, side, side)."""
        return self.graph(network_input)["logits"]

    def restore(self, labels: Array, size: tuple[int, int]) -> Array:
        """Scores of the tiles -> uint8 (H, W)."""
        total = np.zeros((labels.shape[1], *self._scaled), np.float32)
        count = np.zeros((1, *self._scaled), np.float32)
        for scores, start in zip(labels, self._starts, strict=True):
            self._cut(total, start)[...] += scores
            self._cut(count, start)[...] += 1
        whole = np.ascontiguousarray((total / count).transpose(1, 2, 0))
        return (
            cv2.resize(whole, size[::-1], interpolation=cv2.INTER_LINEAR).reshape(*size, -1).argmax(-1).astype(np.uint8)
        )

    def close(self) -> None:
        """Nothing to give back."""


def starts(long: int, side: int) -> list[int]:
    """Where the squares begin along the long side."""
    count = math.ceil(long / side)
    overlap = (count * side - long) / (count - 1) if count > 1 else 0.0
    return [int(number * (side - overlap)) for number in range(count)]


@dataclass(frozen=True)
class PeerCandidate(Candidate):
    """A peer's export as a row of the benchmark. ``artifact`` is an entry of its artifacts.json."""

    artifact: dict[str, Any] = field(default_factory=dict)
    classes: tuple[str, ...] = ()

    @property
    def runtime(self) -> str | None:
        """Package and version that will run it."""
        return runtime_version(self.artifact["backend"])

    @property
    def run(self) -> str | None:
        """None: it is of no run of ours."""
        return None

    def open(self) -> Letterboxed | Tiled:  # type: ignore[override]
        """Load it. Raises whatever its backend raises."""
        one = self.artifact
        graph = OPENERS[one["backend"]](self.path, self.threads or 1)
        if "tiles" in one:
            return Tiled(graph, one["size"][0], one["tiles"], self.classes, one["mean"], one["std"], one["backend"])
        return Letterboxed(graph, (one["size"][0], one["size"][1]), self.classes, one["backend"])

    @property
    def file_bytes(self) -> int:
        """Of the model and, in OpenVINO's own form, its weights beside it."""
        return sum(file.stat().st_size for file in self.path.parent.glob(f"{self.path.stem}.*"))
