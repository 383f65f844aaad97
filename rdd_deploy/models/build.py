"""Build a network by its configuration, initialise it and try it on the frame sizes that it will see."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch

from rdd_deploy import console
from rdd_deploy.errors import RecipeError
from rdd_deploy.models.config import Network
from rdd_deploy.models.encoder import PROBE_SIZES
from rdd_deploy.models.pretrained import initialise
from rdd_deploy.models.segmenter import Segmenter
from rdd_deploy.models.teachers.base import TeacherModel
from rdd_deploy.utils import faults


def build(
    network: Network, classes: Sequence[str], role: str, sizes: Sequence[tuple[int, int]] = ()
) -> tuple[Segmenter, str]:
    """Build and initialise a network; says where its weights come from.

    Args:
        classes: class names, by id.
        sizes: (height, width) of the frames that it will see; default: any, so RecipeError where it can't take all.
    """
    segmenter = Segmenter(network, len(classes))
    _try_out(segmenter, sizes)
    source = initialise(segmenter, classes)
    parameters = sum(p.numel() for p in segmenter.parameters()) / 1e6
    console.info(
        f"{role}: {network.encoder} + {network.head}, {parameters:.2f} M parameters, encoder weights: {source}"
    )
    return segmenter, source


def _try_out(segmenter: Segmenter, sizes: Sequence[tuple[int, int]]) -> None:
    """Transformers of one fixed frame size, or with channels last, look like any other encoder until
    they see a frame.
    """
    if fixed := segmenter.frame_sizes.fixed:
        console.warn(
            f"encoder '{segmenter.network.encoder}' only takes frames of {fixed[0]}x{fixed[1]}: every frame is resized"
            " to that inside"
        )
    for height, width in sizes or PROBE_SIZES:
        if not (problem := _problem_at(segmenter, (height, width))):
            continue
        raise RecipeError(
            f"encoder '{segmenter.network.encoder}' with head '{segmenter.network.head}' can't segment frames of"
            f" {f'{height}x{width}' if sizes else 'any size'} ({problem}); choose another encoder, such as a plain"
            " convolutional one"
        )


def _problem_at(segmenter: Segmenter, size: tuple[int, int]) -> str:
    """What stops the network at a frame size; empty where nothing does."""
    try:
        with torch.inference_mode():
            segmenter.eval()(torch.zeros(1, 3, *size, dtype=torch.uint8))
    except (RuntimeError, AssertionError, ValueError, IndexError) as error:
        if failure := faults.as_error(error):
            raise failure from error
        return (str(error).splitlines() or [type(error).__name__])[0]
    return ""


def map_channels(network: TeacherModel, maps: Collection[str], device: torch.device | str) -> dict[str, int]:
    """Width of each named map of a network on ``device``, as one forward of a blank frame shows it. Leaves it in eval
    mode.

    Raises:
        ValueError: a map that the network doesn't have.
    """
    if not maps:
        return {}
    network.eval()
    with torch.inference_mode():
        output = network.logits_at_stride(torch.zeros(1, 3, 64, 64, dtype=torch.uint8, device=device), maps)
    return {name: value.shape[1] for name, value in output.features.items()}


def without_gradient(segmenter: Segmenter, maps: Collection[str] = ()) -> list[str]:
    """Names of the trainable parameters that neither the segmenter's output nor the named ``maps`` depend on, found by
    one small backward.

    It leaves the segmenter and the random generators as they were.
    """
    was_training = segmenter.training
    segmenter.eval()  # running statistics stay as they are
    try:
        with torch.random.fork_rng(), torch.enable_grad():
            device = next(segmenter.parameters()).device
            output = segmenter(torch.zeros(1, 3, 64, 64, dtype=torch.uint8, device=device), maps)
            named = [(name, parameter) for name, parameter in segmenter.named_parameters() if parameter.requires_grad]
            seen = [one for one in (output.primary, output.auxiliary, *output.features.values()) if one is not None]
            total = torch.stack([one.float().sum() for one in seen]).sum()
            found = torch.autograd.grad(total, [parameter for _, parameter in named], allow_unused=True)
    finally:
        segmenter.train(was_training)
    return [name for (name, _), gradient in zip(named, found, strict=True) if gradient is None]


def encoder_stages(segmenter: Segmenter) -> dict[str, int]:
    """The stage of each of the encoder's parameters, by its name in the segmenter: the first of the encoder's maps, the
    finest being 0, that depends on it. Found by small backwards; parameters that no map depends on are the last
    stage's.

    It leaves the segmenter and the random generators as they were.
    """
    was_training = segmenter.training
    segmenter.eval()  # running statistics stay as they are
    try:
        with torch.random.fork_rng(), torch.enable_grad():
            device = next(segmenter.parameters()).device
            maps = segmenter.encoded(torch.zeros(1, 3, 64, 64, dtype=torch.uint8, device=device))
            named = {f"encoder.{name}": one for name, one in segmenter.encoder.named_parameters()}
            stages = dict.fromkeys(named, len(maps) - 1)
            trained = [name for name, one in named.items() if one.requires_grad]
            for stage in reversed(range(len(maps))):
                total = maps[stage].float().sum()
                if not total.requires_grad:
                    continue
                found = torch.autograd.grad(
                    total, [named[name] for name in trained], retain_graph=True, allow_unused=True
                )
                stages |= {name: stage for name, gradient in zip(trained, found, strict=True) if gradient is not None}
    finally:
        segmenter.train(was_training)
    return stages
