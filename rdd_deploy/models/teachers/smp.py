"""Models of segmentation-models-pytorch as teachers: a folder that ``save_pretrained`` wrote, or a name with a local
state dict.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import segmentation_models_pytorch
from torch import Tensor, nn

from rdd_deploy.errors import RddError, WeightsError
from rdd_deploy.models.teachers.base import IMAGENET, Adapter, LoadedTeacher, chosen, digest_of, of_two, stages
from rdd_deploy.models.teachers.torchvision import fill
from rdd_deploy.models.weights import read_state
from rdd_deploy.outputs import Output
from rdd_deploy.utils import files, text

ARCHITECTURES: Mapping[str, Any] = segmentation_models_pytorch.MODEL_ARCHITECTURES_MAPPING
LARGEST_CONFIG = 1 << 20


class SmpTeacher(Adapter):
    """A model of segmentation-models-pytorch, at its own full resolution: its upsampling is part of its heads.

    Maps: ``logits``, ``head`` (what the last convolution reads) and the encoder's ``stage1`` … ``stage5``.
    """

    def __init__(self, network: Any, classes: int, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__(
            classes,
            mean,
            std,
            multiple=int(network.encoder.output_stride) if network.requires_divisible_input_shape else 1,
        )
        self.network = network

    def logits_at_stride(self, frames: Tensor, maps: Collection[str] = ()) -> Output:
        pixels = self.prepared(frames)
        features = self.network.encoder(pixels)
        several = isinstance(features, tuple)  # of DPT: maps, and tokens beside them
        head = self.network.decoder(*features) if several else self.network.decoder(features)
        primary = of_two(self.network.segmentation_head(head))
        inner = [
            one for one in (features[0] if several else features) if one.shape[1] and one.shape[-1] < pixels.shape[-1]
        ]
        return Output(primary, None, chosen({"logits": primary, "head": head} | stages(inner, pixels.shape[-2]), maps))


def load(
    path: Path,
    classes: list[str] | None,
    arch: str = "",
    encoder: str = "",
    model: Mapping[str, Any] | None = None,
    names: Sequence[str] = (),
    mean: Sequence[float] = IMAGENET[0],
    std: Sequence[float] = IMAGENET[1],
) -> LoadedTeacher:
    """Load a folder of ``save_pretrained``, or a state dict (``.pth`` or ``.safetensors``) into an architecture.

    Args:
        arch, encoder: such as ``unet`` and ``resnet34``, for a state dict. model: further arguments of the
            architecture.
        names: of its classes. mean, std: that it was trained with, in [0, 1].

    Raises:
        WeightsError: no such architecture or encoder, or a file that isn't its whole state.
    """
    if path.is_dir():
        if arch:
            raise WeightsError(
                f"{path} is a folder, which says its architecture itself; leave out teacher.options.arch and encoder"
            )
        arguments = _read_config(path / "config.json")
        arch, weights = str(arguments.pop("_model_class", "")), path / "model.safetensors"
    else:
        if not arch:
            raise WeightsError(
                f"{path} is a file; expected a folder that save_pretrained wrote, or teacher.options.arch and encoder"
                " for a state dict"
            )
        arguments, weights = {**(model or {}), "encoder_name": encoder}, path
    state = read_state(weights)
    count = _count(state, weights)
    network = _built(arch, arguments | {"classes": count}, path)
    fill(network, state, weights, f"{arch} on {arguments.get('encoder_name', 'its encoder')}")
    told = f"segmentation-models-pytorch {arch} on {arguments.get('encoder_name')}"
    adapter = SmpTeacher(network.eval(), max(2, count), mean, std)
    about = (
        f"{told}, frames resized to a multiple of {adapter.multiple}"
        if adapter.multiple > 1
        else f"{told}, frames as they are"
    )
    about += f", mean {list(mean)}, std {list(std)}"
    return LoadedTeacher(adapter, None, digest_of(files.sha256(weights), arguments, arch), tuple(names), about)


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = files.parse_json(files.read_file(path, LARGEST_CONFIG))
    except (OSError, ValueError) as error:
        why = (error.strerror if isinstance(error, OSError) else "") or str(error)
        raise WeightsError(
            f"{path} can't be read: {why}; expected a folder that save_pretrained of segmentation-models-pytorch wrote"
        ) from error
    if not isinstance(config, dict) or not isinstance(config.get("_model_class"), str):
        raise WeightsError(
            f"{path} names no _model_class; expected a folder that save_pretrained of segmentation-models-pytorch wrote"
        )
    return {key: value for key, value in config.items() if key == "_model_class" or not key.startswith("_")}


def _count(state: Mapping[str, Tensor], path: Path) -> int:
    last = state.get("segmentation_head.0.weight", state.get("segmentation_head.head.4.weight"))
    if last is None or last.ndim != 4:
        raise WeightsError(
            f"{path} isn't a state of segmentation-models-pytorch: it has no segmentation_head; give the whole model's"
            " state dict"
        )
    return len(last)


def _built(arch: str, arguments: dict[str, Any], path: Path) -> nn.Module:
    kind = ARCHITECTURES.get(arch.lower())
    if kind is None:
        known = ", ".join(ARCHITECTURES)
        raise WeightsError(
            f"{path}: '{text.shown(arch)[:60]}' is no architecture of segmentation-models-pytorch; expected one of"
            f" {known}"
        )
    try:
        # Its own weights follow: none are fetched. Without an activation it says logits.
        network: nn.Module = kind(**arguments | {"encoder_weights": None, "activation": None, "in_channels": 3})
    except (RddError, MemoryError):
        raise
    except Exception as error:  # of arguments that it doesn't have, or that don't go together
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise WeightsError(
            f"{path}: {arch} can't be built ({why[:200]}); give the arguments that it was trained with"
        ) from error
    return network
