"""Segmentation models of torchvision as teachers: a name, and a local state dict."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torchvision import models

from rdd_deploy.errors import WeightsError
from rdd_deploy.models.teachers.base import IMAGENET, Adapter, LoadedTeacher, chosen, of_two
from rdd_deploy.models.weights import read_state
from rdd_deploy.outputs import Output
from rdd_deploy.utils import files

VOC = 21
"""Classes of the weights that torchvision offers, which name none."""


class TorchvisionTeacher(Adapter):
    """A model of ``torchvision.models.segmentation``, before it resizes its logits to the frame.

    Maps: ``logits``, ``head`` and ``stage5``; with an auxiliary head also ``stage4`` and ``auxiliary``. LR-ASPP has
    ``logits`` alone.
    """

    def __init__(self, network: Any, classes: int, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__(classes, mean, std)
        self.network = network

    @property
    def has_auxiliary(self) -> bool:
        return getattr(self.network, "aux_classifier", None) is not None

    def logits_at_stride(self, frames: Tensor, maps: Collection[str] = ()) -> Output:
        features = self.network.backbone(self.prepared(frames))
        known = {}
        if isinstance(self.network.classifier, nn.Sequential):
            head = features["out"]
            *layers, last = self.network.classifier
            for layer in layers:
                head = layer(head)
            primary = of_two(last(head))
            known = {"head": head, "stage5": features["out"]}
        else:
            primary = of_two(self.network.classifier(features))
        auxiliary = of_two(self.network.aux_classifier(features["aux"])) if self.has_auxiliary else None
        if auxiliary is not None:
            known |= {"stage4": features["aux"], "auxiliary": auxiliary}
        return Output(primary, auxiliary, chosen({"logits": primary} | known, maps))


def load(
    path: Path,
    classes: list[str] | None,
    arch: str,
    names: Sequence[str] = (),
    mean: Sequence[float] = IMAGENET[0],
    std: Sequence[float] = IMAGENET[1],
) -> LoadedTeacher:
    """Load a state dict (``.pth`` or ``.safetensors``) into the architecture of that name; the number of classes is its
    own.

    Args:
        arch: such as ``deeplabv3_resnet101``. names: of its classes; default: Pascal VOC's for 21 classes, as in
            torchvision's own weights.
        mean, std: that it was trained with, in [0, 1].

    Raises:
        WeightsError: no such architecture, or a file that isn't its whole state.
    """
    known = models.list_models(module=models.segmentation)
    if arch not in known:
        raise WeightsError(
            f"teacher.options.arch is '{arch}', expected a segmentation model of torchvision: {', '.join(known)}"
        )
    state = {name.removeprefix("module."): value for name, value in read_state(path).items()}
    last = "classifier.high_classifier.weight" if arch.startswith("lraspp") else "classifier.4.weight"
    if last not in state:
        raise WeightsError(f"{path} isn't a state of {arch}: it has no {last}; give the file of the same architecture")
    count = len(state[last]) if state[last].ndim else 0
    auxiliary = any(name.startswith("aux_classifier.") for name in state)
    extra = {} if arch.startswith("lraspp") else {"aux_loss": auxiliary}
    network = models.get_model(arch, weights=None, weights_backbone=None, num_classes=max(1, count), **extra)
    fill(network, state, path, arch)
    if not names and count == VOC:
        names = models.segmentation.FCN_ResNet50_Weights.DEFAULT.meta["categories"]
    model = TorchvisionTeacher(network.eval(), max(2, count), mean, std)
    about = f"torchvision {arch}, {'with' if auxiliary else 'without'} auxiliary head, frames as they are, mean {list(mean)}, std {list(std)}"
    return LoadedTeacher(model, None, files.sha256(path), tuple(names), about)


def fill(network: nn.Module, state: dict[str, Tensor], path: Path, what: str) -> None:
    """Load a network's whole state; WeightsError where a tensor is missing, unknown or of another shape."""
    own = network.state_dict()
    state = {name: value for name, value in state.items() if name in own or not name.endswith("num_batches_tracked")}
    wrong = [name for name, value in own.items() if name in state and value.shape != state[name].shape]
    missing = [name for name in own if name not in state and not name.endswith("num_batches_tracked")]
    unknown = [name for name in state if name not in own]
    if wrong or missing or unknown:
        told = (("of another shape", wrong), ("missing", missing), ("unknown to it", unknown))
        problem = ", ".join(f"{len(names)} tensors are {kind} (such as {names[0]})" for kind, names in told if names)
        raise WeightsError(f"{path} doesn't fit {what}: {problem}; give the file of the same architecture")
    network.load_state_dict(own | state)
