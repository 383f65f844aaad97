"""A torch segmenter as a predictor of ``rdd_deploy.evaluation``, which itself needs no torch."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import torch

from rdd_deploy.data.base import Frame, Labels
from rdd_deploy.errors import DeviceError
from rdd_deploy.metrics import Predict
from rdd_deploy.models.segmenter import Segmenter
from rdd_deploy.preprocess import resize_frame, resize_labels


def autocast_dtype(precision: str) -> torch.dtype | None:
    """What a Fabric precision computes in under autocast; None for float32."""
    return {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(precision)


def set_tf32(allowed: bool) -> None:
    """Whether GPUs may multiply float32 numbers in TensorFloat-32, of 10 bits; by torch's default convolutions do."""
    kind = "tf32" if allowed else "ieee"
    cudnn: Any = torch.backends.cudnn
    # The old switches first: export and compilation read them, and an error is what they get where only the new ones
    # were set.
    torch.backends.cuda.matmul.allow_tf32 = cudnn.allow_tf32 = allowed
    if hasattr(torch.backends.cuda.matmul, "fp32_precision"):  # since torch 2.9
        torch.backends.cuda.matmul.fp32_precision = cudnn.conv.fp32_precision = cudnn.rnn.fp32_precision = kind


def checked_device(name: str) -> torch.device:
    """``auto``, ``cpu``, ``cuda`` or ``cuda:N`` as torch's device; DeviceError where it isn't there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    kind, colon, number = name.partition(":")
    if kind not in ("cpu", "cuda") or (colon and not (kind == "cuda" and re.fullmatch(r"\d{1,4}", number))):
        raise DeviceError(f"the device is '{name}'; expected auto, cpu, cuda or cuda:N")
    if kind == "cuda" and int(number or 0) >= torch.cuda.device_count():
        raise DeviceError(
            f"the device is '{name}' but torch {torch.__version__} finds {torch.cuda.device_count()} CUDA devices; use"
            " one of them, or the cpu"
        )
    if kind == "cuda":
        set_tf32(False)
    return torch.device(name)


def labels_from_bgr(segmenter: Segmenter, frames: torch.Tensor) -> torch.Tensor:
    """The contract of a bundle's graph: uint8 (N, H, W, 3) BGR to class ids uint8 (N, H, W)."""
    labels: torch.Tensor = segmenter(frames.permute(0, 3, 1, 2).flip(1)).primary.argmax(1).to(torch.uint8)
    return labels


def torch_predictor(
    segmenter: Segmenter, size: tuple[int, int], device: torch.device | str = "cpu", precision: str = "32-true"
) -> Predict:
    """A predictor that runs a segmenter in PyTorch at (height, width).

    Args:
        segmenter: in eval mode, on ``device``.
        precision: Fabric's name; bf16-mixed and 16-mixed run under autocast.
    """
    dtype = autocast_dtype(precision)

    def predict(frames: list[Frame]) -> list[Labels]:
        stacked = torch.from_numpy(np.stack([resize_frame(frame, size) for frame in frames])).permute(0, 3, 1, 2)
        device_type = torch.device(device).type
        with torch.inference_mode(), torch.autocast(device_type, dtype=dtype, enabled=dtype is not None):
            labels = segmenter(stacked.to(device)).primary.argmax(1).to(torch.uint8).cpu().numpy()
        return [resize_labels(one, frame.shape[:2]) for one, frame in zip(labels, frames, strict=True)]

    return predict
