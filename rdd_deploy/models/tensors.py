"""Tensors from files: read without running code, and looked at before a network gets them."""

from __future__ import annotations

import io
import warnings
import zipfile
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from rdd_deploy.errors import WeightsError


def load_archive(content: bytes, device: torch.device | str = "cpu") -> Any:
    """What ``torch.save`` wrote: tensors and plain values, nothing whose code would run. A damaged file raises
    exceptions of many kinds.

    The archive's checksums are looked at, which torch itself doesn't; its format before version 1.6 has none.
    """
    if zipfile.is_zipfile(io.BytesIO(content)):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            if broken := archive.testzip():
                raise ValueError(f"the checksum of {broken} is another one")
    with warnings.catch_warnings():  # of an unusual pickle, which an error tells
        warnings.simplefilter("ignore")
        return torch.load(io.BytesIO(content), map_location=device, weights_only=True)


def is_plain(value: Any) -> bool:
    """Whether this is a tensor of numbers that are there, as they are."""
    return (
        isinstance(value, Tensor)
        and value.layout == torch.strided
        and value.device.type == "cpu"
        and not (value.is_nested or value.is_quantized or value.is_complex())
    )


def fits(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are of one shape, and both of floats or both not."""
    return one.shape == other.shape and one.is_floating_point() == other.is_floating_point()


def senseless(state: Mapping[str, Any]) -> list[str]:
    """Names of the tensors that hold NaN, an infinite value, or a negative variance, whose root is NaN."""
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor) and value.is_floating_point()}
    return [
        name
        for name, value in tensors.items()
        if not value.float().isfinite().all() or (name.endswith("running_var") and (value.float() < 0).any())
    ]


def check_finite(state: Mapping[str, Tensor], where: str) -> None:
    """Raise WeightsError where a tensor is ``senseless``: a network of such weights computes something, without any
    sense.
    """
    if broken := senseless(state):
        raise WeightsError(
            f"{where} holds weights that are NaN or infinite, or a negative variance, in {len(broken)} of {len(state)}"
            f" tensors, e.g. {broken[0]}; the file is damaged, or its training diverged: train or copy it again"
        )
