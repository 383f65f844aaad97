"""Recipe section of a network."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from rdd_deploy.errors import RecipeError
from rdd_deploy.models import HEADS
from rdd_deploy.models.encoder_names import check_encoder
from rdd_deploy.schema import Part, Place


def _known_encoder(name: str) -> str:
    try:
        check_encoder(name)
    except RecipeError as error:
        raise ValueError(str(error)) from error
    return name


Encoder = Annotated[str, AfterValidator(_known_encoder)]


class Network(Part):
    """A segmenter: timm encoder, decode head, optional auxiliary FCN head on the last but one feature map."""

    encoder: Encoder = Field(..., description="any timm encoder with feature maps")
    head: Literal[tuple(HEADS)] = Field("lraspp", description="decode head")  # type: ignore[valid-type]
    weights: Place = Field(
        "imagenet",
        description="'imagenet', 'none', or the path of a local file with the encoder's weights, such as a student.safetensors: with its head, too, where head and classes are the same",
    )
    output_stride: Literal["auto", 8, 16, 32] = Field(
        "auto", description="of the last features, by dilation; auto: 16, or 32 for an encoder that can't be dilated"
    )
    channels: Annotated[int, Field(ge=8, le=4096)] = Field(128, description="width of the decode head")
    auxiliary: bool = Field(False, description="FCN head on stage-4 features; a teacher needs it for stage 1 of RDD")
    dropout: Annotated[float, Field(ge=0, lt=1)] = Field(0.1, description="before the last classifiers")
    activation: Literal["keep", "relu6"] = Field(
        "keep", description="relu6 swaps hard-swish and swish, which quantise badly"
    )
    squeeze_excite: bool = Field(True, description="false drops squeeze-and-excitation, which quantises badly")
