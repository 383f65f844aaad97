"""The closed schema of an export profile: one target in one YAML file, readable without the code."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from rdd_deploy.errors import RecipeError
from rdd_deploy.runtime.manifest import BackendName, Precision
from rdd_deploy.schema import Batch, Count, Part, Place, Positive, Size, override_all, validated
from rdd_deploy.utils.places import beside
from rdd_deploy.utils.yaml_file import load_yaml

Method = Literal["minmax", "percentile", "entropy", "mse"]
Remedy = Literal["percentile", "mse", "entropy", "bias_correction", "float_layers", "distil"]
Images = Annotated[int, Field(ge=1, le=4096)]
Percentile = Annotated[float, Field(gt=50, le=100)]
Bins = Annotated[int, Field(ge=512, le=1 << 16)]
Capability = Annotated[str, Field(pattern=r"^\d{1,2}\.\d$")]
SHIPPED = Path(__file__).resolve().parents[2] / "export"
PRECISIONS: dict[str, tuple[str, ...]] = {
    "onnxruntime": ("fp32", "int8"),
    "openvino": ("fp32", "bf16", "int8"),
    "tensorrt": ("fp32", "fp16", "int8"),
    "tensorrt-rtx": ("fp32", "fp16", "int8"),
}


class Placement(Part):
    """What stays in float in an INT8 graph, beside activations that never gain from it."""

    classifier: Literal["float", "int8"] = Field("float", description="the last 1x1 convolutions, whose outputs are the logits")
    gate: Literal["float", "int8"] = Field("float", description="the LR-ASPP gate's convolution on the pooled features")
    float_layers: list[str] = Field(default_factory=list, description="further convolutions by name, e.g. encoder.conv_stem")


class Calibration(Part):
    """How the range of each activation is found. Frames come from the train split, or from a folder; never random data."""

    images: Images = 128
    method: Method = "minmax"
    percentile: Percentile = Field(99.99, description="share of the values inside the range, in percent")
    bins: Bins = Field(2048, description="histogram bins over [-max, max]")
    folder: Place | None = Field(None, description="images in place of the train split: unlabelled frames of the target's own camera")


class Distil(Part):
    """The last remedy: the student is fine-tuned with its own rounding, towards what it says in float. Crops and seed are the recipe's."""

    steps: Count = 200
    batch: Batch = 8
    lr: Positive = Field(4e-4, description="the highest; it rises over the first tenth and falls to 0 in a line")


class Gate(Part):
    """How much accuracy the artifact may lose, and what is tried before it fails."""

    max_drop: Annotated[float, Field(ge=0, le=100)] = Field(1.0, description="points of mIoU below the float network")
    remedies: list[Remedy] = Field(
        ["percentile", "mse", "bias_correction", "float_layers", "distil"], description="in the order they are tried"
    )
    float_macs: Annotated[float, Field(ge=0, le=1)] = Field(0.1, description="share of the multiply-adds that may go back to float")
    ranking_frames: Images = Field(16, description="train frames on which layers are ranked")
    distil: Distil = Distil()


Form = Literal["trt", "x86", "openvino"]
"""How a range table is rendered: which tensors are quantised, and to what."""


class Engine(Part):
    """TensorRT only."""

    compute_capabilities: list[Capability] = Field(
        default_factory=list, description="tensorrt-rtx: GPUs to build for, e.g. 8.6; tensorrt builds for its own"
    )
    workspace_mib: Annotated[int, Field(ge=16, le=1 << 20)] | None = None


class Profile(Part):
    """One target: what runs the bundle, in which precision, from which form of the graph."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")] = Field("", description="bundle name; default: the file's name")
    backend: BackendName
    precision: Precision
    form: Form | None = Field(
        None, description="int8: trt = symmetric S8; x86 = U8, for onnxruntime; openvino = inputs of convolutions and residual sums"
    )
    tail: Literal["resize", "matmul", "running", "packed"] = Field(
        "resize",
        description="upsampling and argmax: matmul = as two matrix products; packed = likewise, without ArgMax, for onnxruntime in INT8; "
        "running = class by class, for OpenVINO",
    )
    float_type: Literal["fp32", "fp16"] = Field("fp32", description="int8 for TensorRT: in which type what isn't INT8 computes")
    size: Size | None = Field(None, description="[height, width] of the input; default: the recipe's data.size")
    placement: Placement = Placement()
    calibration: Calibration | None = None
    gate: Gate = Gate()
    engine: Engine | None = None

    def rules(self) -> Iterator[tuple[str, str]]:
        """What goes together."""
        allowed, int8 = PRECISIONS[self.backend], self.precision == "int8"
        if self.precision not in allowed:
            yield (
                "precision backend",
                f"precision is {self.precision}, which {self.backend} isn't exported in; expected one of {', '.join(allowed)}",
            )
        if int8 and (self.form is None or self.calibration is None):
            yield (
                "precision form calibration",
                "precision int8 needs the keys 'form' (trt, x86 or openvino) and 'calibration' (may be empty: {})",
            )
        if not int8 and (self.form or self.calibration):
            yield "precision form calibration", f"'form' and 'calibration' belong to precision int8, not to {self.precision}"
        engine = self.backend.startswith("tensorrt")
        if self.float_type == "fp16" and not (int8 and engine):
            yield (
                "float_type precision backend",
                f"float_type fp16 belongs to INT8 graphs for TensorRT, not to {self.backend} in {self.precision}; leave it out",
            )
        if not engine and self.engine is not None:
            yield "engine backend", f"'engine' belongs to tensorrt and tensorrt-rtx, not to {self.backend}"
        if engine and self.form not in {None, "trt"}:
            yield (
                "form backend",
                f"form is {self.form}, whose uint8 activations TensorRT turns into int8 without a word; expected form: trt",
            )
        if engine and self.tail != "resize":
            yield "tail backend", f"tail is {self.tail}, which TensorRT gains nothing from; expected tail: resize"
        if self.tail == "packed" and (self.backend != "onnxruntime" or not int8):
            yield (
                "tail backend",
                f"tail is packed, which rounds the logits by rules of onnxruntime in INT8, not of {self.backend} in {self.precision}; "
                f"expected tail: {'running' if self.backend == 'openvino' else 'matmul'}",
            )
        if self.backend == "tensorrt-rtx" and not (self.engine and self.engine.compute_capabilities):
            yield "engine backend", "tensorrt-rtx builds for named GPUs; expected engine.compute_capabilities, e.g. ['8.6']"


def load_profile(path: str | Path, overrides: Sequence[str] = ()) -> Profile:
    """Read a profile: a YAML file, or the name of a shipped one.

    Raises:
        RecipeError: missing, not YAML, or invalid; every problem is listed with its dotted path.
    """
    path = find_profile(path)
    tree = load_yaml(path)
    calibration = tree.get("calibration")
    if isinstance(calibration, dict) and isinstance(folder := calibration.get("folder"), str):
        tree["calibration"] = calibration | {"folder": beside(os.path.expanduser(folder), path)}
    problems = override_all(tree, overrides)
    tree.setdefault("name", path.stem)
    return validated(Profile, tree, path, problems)


def find_profile(path: str | Path) -> Path:
    """The file that a profile's name or path means."""
    given = Path(os.path.expanduser(path))
    for candidate in (given, Path("export") / f"{given}.yaml", SHIPPED / f"{given}.yaml"):
        if candidate.is_file():
            return candidate
    known = sorted(file.stem for file in SHIPPED.glob("*.yaml"))
    raise RecipeError(f"no profile '{path}'; expected a YAML file" + (f", or one of {', '.join(known)}" if known else ""))


def changed(profile: Profile, **updates: Any) -> Profile:
    """The profile with other values, checked again."""
    return validated(Profile, profile.model_dump(exclude_unset=True) | updates, f"profile {profile.name}")
