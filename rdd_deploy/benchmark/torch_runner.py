"""The run's weights in PyTorch as rows beside the bundles: eager, channels-last and torch.compile. Only this module
needs torch.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import torch

from rdd_deploy.benchmark.records import Kind
from rdd_deploy.data.base import Frame, Labels
from rdd_deploy.models.predict import checked_device, labels_from_bgr
from rdd_deploy.models.weights import load_segmenter
from rdd_deploy.preprocess import resize_frame, resize_labels
from rdd_deploy.utils.machine import check_threads


class TorchRunner:
    """A ``benchmark.runners.Runner`` on a checkpoint.

    Args:
        weights: ``student.safetensors`` or ``teacher.safetensors``.
        kind: torch-eager, torch-channels-last or torch-compile.
        size: (height, width); None takes the size that it was trained for.
        device: auto, cpu, cuda or cuda:N.
        threads: inside an operator; None leaves it to torch.
    """

    def __init__(
        self, weights: Path, kind: Kind, size: tuple[int, int] | None, device: str, threads: int | None
    ) -> None:
        segmenter, facts = load_segmenter(weights)
        self.classes = tuple(map(str, facts["classes"]))
        height, width = size or facts["size"]
        self.input_size = (int(height), int(width))
        self.device = str(checked_device(device))
        self.provider: str = kind
        if threads is not None:
            check_threads(threads, "PyTorch")
            torch.set_num_threads(threads)
        segmenter = segmenter.eval().to(self.device)
        if kind == "torch-channels-last":
            segmenter = segmenter.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        network = partial(labels_from_bgr, segmenter)
        self._network = torch.compile(network) if kind == "torch-compile" else network

    def prepare(self, frame: Frame) -> Frame:
        return np.ascontiguousarray(resize_frame(frame, self.input_size))[np.newaxis]

    def infer(self, network_input: Frame) -> Labels:
        with torch.inference_mode():
            # .cpu() waits for the device: the time is that of finished work
            labels: Labels = self._network(torch.from_numpy(network_input).to(self.device)).cpu().numpy()
        return labels

    def restore(self, labels: Labels, size: tuple[int, int]) -> Labels:
        return resize_labels(labels[0], size)

    def close(self) -> None:
        del self._network
        if self.device != "cpu":
            torch.cuda.empty_cache()
