"""Hugging Face's semantic segmenters as teachers: SegFormer, UPerNet, DPT, BEiT and their like, and Mask2Former,
MaskFormer and EoMT.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms.v2.functional import resize

from rdd_deploy.errors import RddError, WeightsError, missing_package
from rdd_deploy.models.teachers.base import LEAST, Adapter, LoadedTeacher, chosen, of_two, stages
from rdd_deploy.models.tensors import check_finite
from rdd_deploy.outputs import Output
from rdd_deploy.utils import files

QUERIES = ("mask2former", "maskformer", "eomt", "eomt_dinov3")
"""Kinds that say classes and masks of queries, all in one form."""
MULTIPLE = 32
"""Frames' sides where the network sees them at their own size."""
LARGEST_JSON = 16 << 20


class HuggingFaceTeacher(Adapter):
    """A segmenter of transformers with its own image processor.

    Of queries q with classes and masks it says log Σ_q softmax(class_q)_c · sigmoid(mask_q), without the class of
    nothing, which softmax then normalises: the labels of ``post_process_semantic_segmentation`` (Cheng et al., NeurIPS
    2021, 3.4).

    Maps: ``logits``; ``auxiliary`` where it has that head; ``stage1`` … ``stage5``, hidden states by their stride,
    where they are maps or tokens that fill a grid.

    Args:
        resized: whether frames are resized as its processor does it; else they are seen at their own size, resized to a
            multiple of 32.
    """

    def __init__(self, network: Any, processor: Any, resized: bool) -> None:
        super().__init__(max(2, int(network.config.num_labels)), multiple=1 if resized else MULTIPLE)
        self.network, self.processor, self.resized = network, processor, resized
        self._heard: Tensor | None = None
        if self.has_auxiliary:
            network.auxiliary_head.register_forward_hook(self._hear)

    @property
    def has_auxiliary(self) -> bool:
        return getattr(self.network, "auxiliary_head", None) is not None

    def _hear(self, module: Any, inputs: Any, output: Tensor) -> None:
        """It computes its auxiliary logits in each forward and hands them to nobody."""
        self._heard = output

    def logits_at_stride(self, frames: Tensor, maps: Collection[str] = ()) -> Output:
        pixels, parts, share = self._pixels(frames)
        inner = not {"logits", "auxiliary"}.issuperset(maps)
        said = self.network(pixel_values=pixels, output_hidden_states=inner)
        if hasattr(said, "masks_queries_logits"):
            primary = self._of_queries(said, parts, frames)
            primary = primary[
                ..., : max(1, round(primary.shape[-2] * share[0])), : max(1, round(primary.shape[-1] * share[1]))
            ]
        else:
            primary = of_two(said.logits)
        auxiliary, self._heard = None if self._heard is None else of_two(self._heard), None
        known = {"logits": primary} | ({} if auxiliary is None else {"auxiliary": auxiliary})
        if inner and not parts:
            known |= stages(list(self._grids(said, pixels)), pixels.shape[-2])
        return Output(primary, auxiliary, chosen(known, maps))

    def _pixels(self, frames: Tensor) -> tuple[Tensor, list[Any], tuple[float, float]]:
        """Frames as its processor prepares them, where the parts lie that it cuts them into (EoMT), and which share of
        height and width of the prepared ones they are: the rest, at the bottom and on the right, is padding."""
        size = [-(-side // self.multiple) * self.multiple for side in frames.shape[-2:]]
        if size != list(frames.shape[-2:]):
            frames = resize(frames, size, antialias=True)
        # Cropped or padded its logits wouldn't lie on the frame.
        asked = {key: False for key in ("do_center_crop", "do_pad") if getattr(self.processor, key, None) is not None}
        if not self.resized:
            asked |= {key: False for key in ("do_resize", "do_split_image") if hasattr(self.processor, key)}

        def prepared(images: list[Tensor], **more: Any) -> Any:
            return self.processor(
                images=images, return_tensors="pt", input_data_format="channels_first", **(asked | more)
            )

        share = 1.0, 1.0
        if self.network.config.model_type.startswith("eomt") and self.resized and not self.processor.do_split_image:
            inner = prepared([frames[0]])[
                "pixel_values"
            ].shape  # it takes squares of one size alone, which padding makes
            given = prepared(list(frames), do_pad=True)
            share = tuple(
                part / whole for part, whole in zip(inner[-2:], given["pixel_values"].shape[-2:], strict=True)
            )
        else:
            given = prepared(list(frames))
        return given["pixel_values"].to(frames.device), list(given.get("patch_offsets") or []), (share[0], share[1])

    def _of_queries(self, said: Any, parts: list[Any], frames: Tensor) -> Tensor:
        """Log-probabilities (N, C, h, w), up to a constant a pixel."""
        with torch.autocast(frames.device.type, enabled=False):
            classes = said.class_queries_logits.float().softmax(-1)[..., :-1]  # (N, Q, C)
            masks = said.masks_queries_logits.float()  # (N, Q, h, w)
            if parts:
                size = self.processor.size
                masks = F.interpolate(
                    masks,
                    (size.shortest_edge or size.height, size.longest_edge or size.width or size.shortest_edge),
                    mode="bilinear",
                )
            shares = torch.einsum("nqc,nqhw->nchw", classes, masks.sigmoid())
            if parts:
                whole = [tuple(frames.shape[-2:])] * len(frames)
                shares = torch.stack(self.processor.merge_image_patches(shares, parts, whole, self.processor.size))
            return shares.clamp(min=LEAST).log()

    def _grids(self, said: Any, pixels: Tensor) -> Iterator[Tensor]:
        """Its hidden states that are maps, and tokens behind each other as maps."""
        patch = getattr(self.network.config, "patch_size", None)
        for one in getattr(said, "encoder_hidden_states", None) or getattr(said, "hidden_states", None) or ():
            if one.ndim == 4:
                yield one
            elif one.ndim == 3 and isinstance(patch, int):
                height, width = (side // patch for side in pixels.shape[-2:])
                if one.shape[1] >= height * width:  # tokens of no place come first
                    yield one[:, -height * width :].transpose(1, 2).unflatten(2, (height, width))


def load(
    path: Path,
    classes: list[str] | None,
    hub: bool = False,
    revision: str = "main",
    resize: bool = True,
    names: Sequence[str] = (),
) -> LoadedTeacher:
    """Load a folder with config.json, preprocessor_config.json and .safetensors, or such a repository of the hub where
    ``hub`` says so.

    Args:
        revision: of the repository. resize: frames as its processor resizes them; false: at their own size.
        names: of its classes; default: those of its configuration. A network of one logit has two, the first is what
            isn't the other.

    Raises:
        WeightsError: not such a folder, not a segmenter, or weights that aren't whole.
        MissingPackageError: transformers isn't installed.
    """
    try:
        import transformers
    except ImportError as error:
        raise missing_package("transformers", "teachers", "a teacher of source 'hugging_face'") from error
    folder = _from_hub(str(path), revision) if hub else path
    digest = _checked_folder(folder)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    local: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        with offline():
            config = transformers.AutoConfig.from_pretrained(str(folder), **local)
            kind = _kind(transformers, config, folder)
            processor = transformers.AutoImageProcessor.from_pretrained(str(folder), **local)
            with without_losses(config.model_type):
                network, told = kind.from_pretrained(
                    str(folder), config=config, use_safetensors=True, output_loading_info=True, dtype=torch.float32,
                    ignore_mismatched_sizes=True, **local,  # they are told below
                )  # fmt: skip
            resized = resize and bool(processor.do_resize)
            model = HuggingFaceTeacher(network.eval(), processor, resized)
            own = tuple(names) or _names(config)
            size = processor.size if resized else None
            fixed = (int(size.height), int(size.width)) if size is not None and size.height and size.width else None
    except (RddError, MemoryError):
        raise
    except Exception as error:  # the library's are of many kinds, and their texts long
        why = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise WeightsError(
            f"{folder} can't be loaded by transformers: {why[:240]}; save it again with save_pretrained"
        ) from error
    wrong = [*sorted(told.get("missing_keys", ())), *(str(one[0]) for one in told.get("mismatched_keys", ()))]
    if wrong:
        raise WeightsError(
            f"{folder} holds no weights, or of another shape, for {len(wrong)} tensors of its {config.model_type}, such"
            f" as {wrong[0]}; it isn't a whole segmenter, save it again with save_pretrained"
        )
    check_finite(network.state_dict(), str(folder))
    how = "as its processor resizes them" if resized else f"resized to a multiple of {MULTIPLE}"
    about = f"{config.model_type} of transformers, frames {how}"
    return LoadedTeacher(model, fixed, digest, own, about, rescales=resized)


def _kind(transformers: Any, config: Any, folder: Path) -> Any:
    """The class that loads such a configuration."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES as SEMANTIC

    if getattr(config, "quantization_config", None):
        raise WeightsError(f"{folder} is quantised, which a teacher can't be; give the weights that it was made from")
    if config.model_type in QUERIES:
        return transformers.AutoModelForUniversalSegmentation
    if config.model_type in SEMANTIC:
        return transformers.AutoModelForSemanticSegmentation
    known = ", ".join((*SEMANTIC, *QUERIES))
    raise WeightsError(
        f"{folder} is of kind '{config.model_type}', which isn't a semantic segmenter of transformers that can teach;"
        f" expected one of {known}"
    )


def _names(config: Any) -> tuple[str, ...]:
    """Its classes' names; none where they are the library's own placeholders."""
    count = int(config.num_labels)
    names = tuple(str(config.id2label.get(i, "")) for i in range(count))
    if not all(names) or names == tuple(f"LABEL_{i}" for i in range(count)):
        return ()
    return ("background", *names) if count == 1 else names


def _checked_folder(folder: Path) -> str:
    """Look at a folder before the library does; returns the hash of all that is read of it."""
    if not folder.is_dir():
        what = "is a file" if folder.is_file() else "isn't there"
        raise WeightsError(
            f"{folder} {what}; expected a folder with config.json and .safetensors (for a repository of the hub:"
            " teacher.options.hub=true)"
        )
    configs = [folder / name for name in ("config.json", "preprocessor_config.json")]
    for one in configs:
        try:
            content = files.parse_json(files.read_file(one, LARGEST_JSON))
            if not isinstance(content, dict):
                raise ValueError("it is no JSON object")
        except (OSError, ValueError) as error:
            why = (error.strerror if isinstance(error, OSError) else "") or str(error)
            raise WeightsError(
                f"{one} can't be read: {why}; expected the folder that save_pretrained wrote, of the model and of its"
                " image processor"
            ) from error
    weights = sorted(folder.glob("model*.safetensors"))
    if not weights:
        pickled = next(folder.glob("*.bin"), None)
        why = (
            f"only {pickled.name}, which may run code when it is read; write it again with save_pretrained"
            if pickled
            else "put it there"
        )
        raise WeightsError(f"{folder} holds no model.safetensors, {why}")
    _check_index(folder / "model.safetensors.index.json", {one.name for one in weights})
    digest = hashlib.sha256()
    for one in (*configs, *weights):
        digest.update(f"{one.name} {files.sha256(one)}\n".encode())
    return digest.hexdigest()


def _check_index(path: Path, names: set[str]) -> None:
    """Weights in several files lie beside their index, nowhere else."""
    if not path.is_file():
        return
    try:
        index = files.parse_json(files.read_file(path, LARGEST_JSON))
        elsewhere = sorted({str(name) for name in index["weight_map"].values()} - names)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise WeightsError(
            f"{path} can't be read: it isn't an index of weights; save the model again with save_pretrained"
        ) from error
    if elsewhere:
        raise WeightsError(f"{path} names {elsewhere[0][:80]!r}, which isn't beside it; put the whole folder there")


def _from_hub(name: str, revision: str) -> Path:
    """A repository's configuration and safetensors, downloaded or from an earlier time."""
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=["*.json", "*.safetensors"]))
    except Exception as error:  # the hub's are of many unrelated kinds
        why = next(iter(str(error).splitlines()), type(error).__name__)
        raise WeightsError(
            f"'{name}' isn't available from the hub: {why[:200]}; download the repository to a folder, give that as"
            " teacher.checkpoint, and leave teacher.options.hub out"
        ) from error


class _NoLoss:
    """In the place of a loss's class."""

    def __new__(
        cls, *arguments: Any, **options: Any
    ) -> Any:  # not of this class, so that nobody gives it weights as a loss
        return nn.Identity()


@contextmanager
def without_losses(kind: str) -> Iterator[None]:
    """Networks of queries are built without the loss that would train them: it needs scipy, for matching, and is part
    of every network.
    """
    if kind not in QUERIES:
        yield
        return
    module = import_module(f"transformers.models.{kind}.modeling_{kind}")
    before = {name: value for name, value in vars(module).items() if name.endswith(("Loss", "HungarianMatcher"))}
    vars(module).update(dict.fromkeys(before, _NoLoss))
    try:
        yield
    finally:
        vars(module).update(before)


@contextmanager
def offline() -> Iterator[None]:
    """Parts that a configuration names (a backbone) aren't fetched from anywhere."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
