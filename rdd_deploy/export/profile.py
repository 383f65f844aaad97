"""The closed schema of an export profile: one target in one YAML file, readable without the code."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from rdd_deploy.errors import RecipeError
from rdd_deploy.export.quantization.schemes import SCHEMES
from rdd_deploy.export.targets import TARGETS
from rdd_deploy.runtime.facts import Precision
from rdd_deploy.runtime.manifest import BackendName
from rdd_deploy.schema import Batch, Count, Part, Place, Positive, Size, override_all, validated
from rdd_deploy.utils import files
from rdd_deploy.utils.places import beside
from rdd_deploy.utils.yaml_file import load_yaml

Method = Literal["minmax", "percentile", "entropy", "mse"]
Fallback = Literal["percentile", "mse", "entropy", "bias_correction", "float_layers", "qad"]
Images = Annotated[int, Field(ge=1, le=4096)]
Percentile = Annotated[float, Field(gt=50, le=100)]
Bins = Annotated[int, Field(ge=512, le=1 << 16)]
Capability = Annotated[str, Field(pattern=r"^\d{1,2}\.\d$")]
SHIPPED = (Path(__file__).parents[1] / "shipped" / "export").resolve()
"""In a clone a link to its ``export/``; an installed package holds the files."""
if TYPE_CHECKING:
    SchemeName = str
else:
    SchemeName = Literal[tuple(SCHEMES)]
OLD_SCHEMES = {
    "form": "scheme",
    "form: trt": "scheme: tensorrt",
    "form: x86": "scheme: onnxruntime",
    "form: openvino": "scheme: openvino",
}


class Placement(Part):
    """What stays in float in an INT8 graph, beside activations that never gain from it, and how wide the rest is."""

    renamed: ClassVar[dict[str, str]] = {"gate": "lraspp_gate"}
    classifier: Literal["float", "int8"] = Field(
        "float", description="the last 1x1 convolutions, whose outputs are the logits"
    )
    lraspp_gate: Literal["float", "int8"] = Field(
        "float", description="the LR-ASPP gate's convolution on the pooled features"
    )
    float_layers: list[str] = Field(
        default_factory=list, description="further convolutions by name, e.g. encoder.conv_stem"
    )
    weight_bits: Literal["auto", 7, 8] = Field(
        "auto",
        description="7: sums of OpenVINO's INT8 don't saturate on CPUs without VNNI either; auto: 7 for OpenVINO where this CPU lacks it, else 8",
    )


class Calibration(Part):
    """How the range of each activation is found. Frames come from the train split, or from a folder;
    never random data.
    """

    images: Images = Field(128, description="number of frames")
    method: Method = Field("minmax", description="how a range is found in what the frames gave")
    percentile: Percentile = Field(99.99, description="share of the values inside the range, in percent")
    bins: Bins = Field(2048, description="histogram bins over [-max, max]")
    folder: Place | None = Field(
        None, description="images in place of the train split: unlabelled frames of the target's own camera"
    )


class Qad(Part):
    """Quantisation-aware distillation: the student is fine-tuned with its own rounding towards its float logits.

    Crops and seed are the recipe's.
    """

    steps: Count = Field(200, description="optimiser steps")
    batch: Batch = Field(8, description="crops a step")
    lr: Positive = Field(4e-4, description="the highest; it rises over the first tenth and falls to 0 in a line")


class Gate(Part):
    """How much accuracy the artifact may lose, and what is tried before it fails."""

    renamed: ClassVar[dict[str, str]] = {
        "remedies": "fallbacks",
        "float_macs": "max_float_macs",
        "ranking_frames": "sensitivity_frames",
        "distil": "qad",
    }
    max_drop: Annotated[float, Field(ge=0, le=100)] = Field(1.0, description="points of mIoU below the float network")
    fallbacks: list[Fallback] = Field(
        ["percentile", "mse", "bias_correction", "float_layers", "qad"], description="in the order they are tried"
    )
    max_float_macs: Annotated[float, Field(ge=0, le=1)] = Field(
        0.1, description="share of the multiply-adds that may go back to float"
    )
    sensitivity_frames: Images = Field(16, description="train frames on which layers are ranked")
    qad: Qad = Qad()


class Engine(Part):
    """TensorRT only."""

    compute_capabilities: list[Capability] = Field(
        default_factory=list, description="tensorrt-rtx: GPUs to build for, e.g. 8.6; tensorrt builds for its own"
    )
    workspace_mib: Annotated[int, Field(ge=16, le=1 << 20)] | None = Field(
        None, description="memory for the builder; default: TensorRT's own"
    )


class Profile(Part):
    """One target: what runs the bundle, in which precision, from which graph."""

    renamed: ClassVar[dict[str, str]] = {
        **OLD_SCHEMES,
        "tail": "postprocess",
        "tail: running": "postprocess: running_argmax",
        "tail: packed": "postprocess: matmul",
    }
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")] = Field(
        "", description="bundle name; default: the file's name"
    )
    backend: BackendName = Field(description="what runs the bundle")
    precision: Precision = Field(description="of the network's arithmetic")
    scheme: SchemeName | None = Field(
        None, description="int8: which tensors are quantised, and to what; default: the backend's own"
    )
    postprocess: Literal["resize", "matmul", "running_argmax"] = Field(
        "resize",
        description=(
            "upsampling and argmax: matmul = as two matrix products; running_argmax = class by class, for OpenVINO"
        ),
    )
    float_type: Literal["fp32", "fp16"] = Field(
        "fp32", description="int8 for TensorRT: in which type what isn't INT8 computes"
    )
    size: Size | None = Field(None, description="[height, width] of the input; default: the recipe's data.size")
    placement: Placement = Placement()
    calibration: Calibration | None = None
    gate: Gate = Gate()
    engine: Engine | None = None

    def rules(self) -> Iterator[tuple[str, str]]:
        """What goes together."""
        allowed, int8 = TARGETS[self.backend].precisions, self.precision == "int8"
        if self.precision not in allowed:
            yield (
                "precision backend",
                (
                    f"precision is {self.precision}, which {self.backend} isn't exported in; expected one of"
                    f" {', '.join(allowed)}"
                ),
            )
        if int8 and self.calibration is None:
            yield "precision calibration", "precision int8 needs the key 'calibration' (may be empty: {})"
        if not int8 and self.scheme:
            yield "precision scheme", f"'scheme' belongs to precision int8, not to {self.precision}"
        if not int8 and self.calibration and (self.backend, self.precision) != ("onnxruntime", "fp32"):
            yield (
                "precision calibration backend",
                (
                    "'calibration' belongs to precision int8, or to onnxruntime in fp32, whose bundle then carries the"
                    f" ranges for an INT8 engine; not to {self.backend} in {self.precision}"
                ),
            )
        engine = self.backend.startswith("tensorrt")
        if self.float_type == "fp16" and not (int8 and engine):
            yield (
                "float_type precision backend",
                (
                    f"float_type fp16 belongs to INT8 graphs for TensorRT, not to {self.backend} in {self.precision};"
                    " leave it out"
                ),
            )
        if not engine and self.engine is not None:
            yield "engine backend", f"'engine' belongs to tensorrt and tensorrt-rtx, not to {self.backend}"
        if engine and self.scheme not in {None, "tensorrt"}:
            yield (
                "scheme backend",
                (
                    f"scheme is {self.scheme}, whose uint8 activations TensorRT silently turns into int8; expected"
                    " scheme: tensorrt"
                ),
            )
        if engine and self.postprocess != "resize":
            yield (
                "postprocess backend",
                f"postprocess is {self.postprocess}, which TensorRT gains nothing from; expected postprocess: resize",
            )
        if self.backend == "tensorrt-rtx" and not (self.engine and self.engine.compute_capabilities):
            yield (
                "engine backend",
                "tensorrt-rtx builds for named GPUs; expected engine.compute_capabilities, e.g. ['8.6']",
            )

    @property
    def scheme_name(self) -> str:
        """The scheme that an INT8 graph is quantised by."""
        return self.scheme or TARGETS[self.backend].scheme


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


def save_profile(path: Path, profile: Profile) -> None:
    """Write a profile as ``load_profile`` reads it."""
    files.write_text(path, files.yaml_text(profile.model_dump(mode="json", exclude_unset=True)))


def find_profile(path: str | Path) -> Path:
    """The file that a profile's name or path means."""
    given = Path(os.path.expanduser(path))
    for candidate in (given, Path("export") / f"{given}.yaml", SHIPPED / f"{given}.yaml"):
        if candidate.is_file():
            return candidate
    known = sorted(file.stem for file in SHIPPED.glob("*.yaml"))
    raise RecipeError(
        f"no profile '{path}'; expected a YAML file" + (f", or one of {', '.join(known)}" if known else "")
    )


def changed(profile: Profile, **updates: Any) -> Profile:
    """The profile with other values, checked again."""
    return validated(Profile, profile.model_dump(exclude_unset=True) | updates, f"profile {profile.name}")
