"""Files of weights: plain state dicts to read, segmenters with all that builds them again to write and read. Nothing is
unpickled.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

import safetensors
import safetensors.torch
from torch import Tensor

from rdd_deploy.errors import RddError, WeightsError
from rdd_deploy.models.config import Network
from rdd_deploy.models.merge import merge
from rdd_deploy.models.segmenter import Segmenter
from rdd_deploy.models.tensors import check_finite, is_plain, load_archive
from rdd_deploy.schema import LARGEST
from rdd_deploy.utils import files


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
            f" ({', '.join(classes)}); train on data of these classes in this order, or, for a teacher, say by"
            " teacher.classes which of its classes means which"
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
