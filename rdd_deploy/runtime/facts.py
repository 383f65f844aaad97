"""What using a model takes, whatever runs it: classes, input, and how frames and labels are resized. Manifests and ONNX
files both hold it.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

SCHEMA_VERSION = 2
"""Version 1 doesn't say how frames and labels are resized; what it means is what version 2 says by default."""
MAX_SIDE = 16384

Precision = Literal["fp32", "fp16", "bf16", "int8"]
Byte = Annotated[int, Field(ge=0, le=255)]


class Closed(BaseModel):
    """A part of a manifest: no other keys, and it doesn't change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class InputSpec(Closed):
    """The one input tensor, ``frame: uint8[1, height, width, 3]``."""

    height: Annotated[int, Field(ge=1, le=MAX_SIDE)]
    width: Annotated[int, Field(ge=1, le=MAX_SIDE)]
    layout: Literal["NHWC"] = "NHWC"
    dtype: Literal["uint8"] = "uint8"
    color: Literal["BGR"] = "BGR"


class Preprocessing(Closed):
    """How a frame of any size becomes the input: step by step, each one call of OpenCV's ``resize``.

    1. ``halve``: as long as both sides are even and at least twice the input's, both are halved with
        ``halve_interpolation``.
    2. Where the size isn't the input's yet, it is resized to it: with ``interpolation``, or with
       ``shrink_interpolation`` where max(height / input height, width / input width) is ``shrink_from`` or more.

    ``linear`` is cv2.INTER_LINEAR, ``area`` cv2.INTER_AREA, both on uint8. The aspect ratio isn't kept (``fit``), and
    the values stay as they are (``values``): colour order and normalisation are the network's own.
    """

    fit: Literal["stretch"] = "stretch"
    halve: Literal["while_even_and_at_least_double"] = "while_even_and_at_least_double"
    halve_interpolation: Literal["area"] = "area"
    interpolation: Literal["linear"] = "linear"
    shrink_from: Annotated[float, Field(ge=1, le=1000)] = 2.5
    shrink_interpolation: Literal["area"] = "area"
    values: Literal["unchanged"] = "unchanged"


class Postprocessing(Closed):
    """How the output becomes a label map of the frame's size: one call of OpenCV's ``resize``,
    cv2.INTER_NEAREST_EXACT.
    """

    output: Literal["class_ids"] = "class_ids"
    interpolation: Literal["nearest_exact"] = "nearest_exact"


class Facts(Closed):
    """What using a model takes; ONNX files hold it, too, as their metadata."""

    schema_version: Literal[2] = 2
    task: Literal["semantic-segmentation"] = "semantic-segmentation"
    classes: list[str]
    palette: list[tuple[Byte, Byte, Byte]]
    """RGB, one for each class."""
    input: InputSpec
    preprocessing: Preprocessing = Preprocessing()
    postprocessing: Postprocessing = Postprocessing()
    precision: Precision
