"""Teachers by the names that ``teacher.source`` gives them; torch is imported when one is loaded.

A teacher from elsewhere is a file here with a loader like ``checkpoint.load``, and a line in ``TEACHERS``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from rdd_deploy.schema import LARGEST
from rdd_deploy.utils.tables import Entry

Names = Annotated[list[str], Field(min_length=2, max_length=65_536)]
"""Class names, in the order of the network's channels."""
Triple = Annotated[list[Annotated[float, Field(allow_inf_nan=False)]], Field(min_length=3, max_length=3)]
"""Of red, green and blue."""
Spread = Annotated[list[Annotated[float, Field(gt=0, allow_inf_nan=False)]], Field(min_length=3, max_length=3)]
Sides = Annotated[list[Annotated[int, Field(ge=1, le=LARGEST)]], Field(min_length=2, max_length=2)]
"""[height, width]"""


def _without_architecture(options: Mapping[str, Any]) -> str:
    """What is wrong with options of a torchvision network that is known by its name alone."""
    return (
        ""
        if options.get("arch")
        else "arch is missing; give the name of a torchvision segmentation model, such as deeplabv3_resnet50"
    )


def _half_an_architecture(options: Mapping[str, Any]) -> str:
    """What is wrong with options of an smp network whose weights come without a description."""
    if ("arch" in options) != ("encoder" in options):
        return (
            "arch and encoder belong together (for a state dict), or neither is given (for a folder of save_pretrained)"
        )
    return (
        ""
        if "arch" in options or "model" not in options
        else "model is for a state dict, with arch and encoder; leave it out"
    )


TEACHERS = {
    "segmenter": Entry("rdd_deploy.models.teachers.checkpoint:load"),
    "torchvision": Entry(
        "rdd_deploy.models.teachers.torchvision:load",
        {"arch": str, "names": Names, "mean": Triple, "std": Spread},
        _without_architecture,
    ),
    "smp": Entry(
        "rdd_deploy.models.teachers.smp:load",
        {"arch": str, "encoder": str, "model": dict[str, Any], "names": Names, "mean": Triple, "std": Spread},
        _half_an_architecture,
    ),
    "hugging_face": Entry(
        "rdd_deploy.models.teachers.hugging_face:load", {"hub": bool, "revision": str, "resize": bool}
    ),
    "onnx": Entry(
        "rdd_deploy.models.teachers.onnx:load",
        {
            "says": Literal["logits", "probabilities"],
            "layout": Literal["nchw", "nhwc"],
            "colour": Literal["rgb", "bgr"],
            "scale": Annotated[float, Field(gt=0, allow_inf_nan=False)],
            "mean": Triple,
            "std": Spread,
            "size": Sides,
            "multiple": Annotated[int, Field(ge=1, le=1024)],
            "output": str,
            "auxiliary": str,
            "names": Names,
        },
    ),
}
