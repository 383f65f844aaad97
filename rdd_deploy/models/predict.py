"""A torch segmenter as a predictor of ``rdd_deploy.evaluate``, which itself needs no torch."""

from __future__ import annotations

import numpy as np
import torch

from rdd_deploy.data.base import Frame, Labels
from rdd_deploy.evaluate import Predict
from rdd_deploy.frames import resize_frame, resize_labels
from rdd_deploy.models.segmenter import Segmenter


def autocast_dtype(precision: str) -> torch.dtype | None:
    """What a Fabric precision computes in under autocast; None for float32."""
    return {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(precision)


def torch_predictor(segmenter: Segmenter, size: tuple[int, int], device: torch.device | str = "cpu", precision: str = "32-true") -> Predict:
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
