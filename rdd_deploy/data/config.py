"""Recipe sections of the data: which frames at which size, and how they are augmented. Imports no numpy, OpenCV or
torch.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, SerializeAsAny
from typing_extensions import Self

from rdd_deploy.data import DATASETS
from rdd_deploy.errors import DataError
from rdd_deploy.schema import Count, Part, Place, Scale, Share, Size
from rdd_deploy.utils.unions import ByName

if TYPE_CHECKING:
    from rdd_deploy.data.base import Split
    from rdd_deploy.data.label_space import LabelSpace
    from rdd_deploy.runtime import Manifest

SPLITS = ("train", "val", "test")
Plain = str | int | float | None
"""What a manifest's provenance can hold."""


REST = "rest"
"""In ``data.unlabelled``: the training frames whose masks aren't used."""


def _listed(value: Any) -> Any:
    listed = [] if value is None else [value] if isinstance(value, str) else value
    if isinstance(listed, list) and "" in listed:
        raise ValueError("got an empty name, expected folders, videos or 'rest'; [] or null is none")
    return listed


Places = Annotated[list[Place], BeforeValidator(_listed), Field(max_length=10_000)]


class Thinning(Part):
    """Which of the unlabelled frames are used."""

    every: Count = Field(1, description="every so many-th frame of each folder and video")
    similar: Annotated[int, Field(ge=0, le=32)] | Literal["keep"] = Field(
        4,
        description=(
            "a frame is left out whose perceptual hash (64 bits) differs from an earlier one's in at most so many bits;"
            " keep: none is"
        ),
    )
    limit: Annotated[int, Field(ge=1, le=100_000_000)] | None = Field(
        None, description="so many at most, evenly over what is left"
    )

    @property
    def within(self) -> int | None:
        """``similar`` as a number; None where all are kept."""
        return None if self.similar == "keep" else self.similar


class DataOptions(Part):
    """Base of the data sets' options: which frames, at which size. Frames of other sizes are resized for evaluation and
    export.

    A data set's own model gives ``name`` a literal with its default, adds its own keys and opens its splits. Whatever
    it needs for that (numpy, OpenCV, ...) it imports inside ``open``.

    Attributes:
        in_folder: whether its frames are files under ``root``.
    """

    in_folder: ClassVar[bool] = True
    renamed: ClassVar[dict[str, str]] = {"memory": "in_memory"}

    name: str
    root: Place = Field(
        "data", description="folder of the data set, beside the recipe's file or in the current directory"
    )
    size: Size = Field((360, 480), description="[height, width] that the deployed network sees")
    workers: Annotated[int, Field(ge=0, le=256)] | None = Field(
        None, description="loader processes; default: 0 on up to 2 cores a process, else up to 8"
    )
    in_memory: bool = Field(
        True, description="keep decoded frames in memory (uint8), in a third of what is free at most"
    )
    device: Literal["auto", "cpu", "gpu"] = Field(
        "auto",
        description=(
            "where crops are cut; auto: on the training's GPU where frames, labels and a teacher's cache take less than"
            " a third of its memory, and they are held there; cpu: by the loader; gpu: there, as far as there is room"
        ),
    )
    labelled: Annotated[float, Field(gt=0, le=1)] = Field(
        1.0,
        description="share of the training frames whose masks are used, evenly over the split (every 8th for 0.125)",
    )
    unlabelled: Places = Field(
        default_factory=list,
        description=(
            "frames without masks that join a distillation: folders, videos, a list of both; rest: the training frames"
            " that labelled leaves out"
        ),
    )
    thin: Thinning = Thinning()
    scratch: Place = Field(
        "runs/.frames",
        description="folder for the frames of videos, and for what was found out about unlabelled frames",
    )

    def open(self, split: str) -> Split:
        """Open ``train``, ``val`` or ``test``. Raises DataError."""
        raise NotImplementedError

    def space_of_imports(self) -> LabelSpace:
        """The classes, where masks of their ids, and 255 for void, can join the data set. Raises DataError."""
        return self.open("train").label_space

    @property
    def can_fetch(self) -> bool:
        """Whether the data set can be downloaded."""
        return False

    def fetch(self) -> None:
        """Download what is missing, where the data set can be downloaded. Raises DataError."""

    def alone(self) -> Self:
        """The same frames with labels, and no others."""
        fields = DataOptions.model_fields
        return self.model_copy(
            update={
                key: fields[key].get_default(call_default_factory=True) for key in ("unlabelled", "thin", "scratch")
            }
        )

    def provenance(self) -> dict[str, Plain]:
        """What a bundle's manifest says of the data set, so that ``recorded`` finds it again."""
        return {
            "data": self.name,
            "data_root": os.path.abspath(self.root) if self.in_folder else None,
            "data_height": self.size[0],
            "data_width": self.size[1],
            **{f"data_{key}": _as_plain(getattr(self, key)) for key in self._own_keys()},
        }

    @classmethod
    def recorded(cls, manifest: Manifest) -> Self:
        """The options of the data set that a bundle was made from.

        Raises:
            KeyError, ValueError: the manifest lacks something, or holds what isn't valid.
        """
        provenance = manifest.provenance
        common = {
            "root": str(provenance.get("data_root") or "data"),
            "size": (int(provenance["data_height"] or 0), int(provenance["data_width"] or 0)),
        }
        return cls.model_validate({**common, "workers": 0, "in_memory": False, **cls.own_recorded(manifest)})

    @classmethod
    def own_recorded(cls, manifest: Manifest) -> dict[str, Any]:
        """The data set's own options as ``provenance`` wrote them. Raises ValueError."""
        found = {key: manifest.provenance.get(f"data_{key}") for key in cls._own_keys()}
        return {key: _from_plain(value) for key, value in found.items() if value is not None}

    @classmethod
    def for_bundle(cls, root: str, manifest: Manifest | None) -> Self:
        """The data set as a command's options name it, for a bundle that was made from another one, at the size of its
        input.

        Args:
            root: its folder.
            manifest: of the bundle, None where there is none that can be read.
        """
        size = {"size": (manifest.input.height, manifest.input.width)} if manifest else {}
        return cls.model_validate({"root": root, **size, **cls._of_bundle(manifest)})

    @classmethod
    def _of_bundle(cls, manifest: Manifest | None) -> dict[str, Any]:
        """What the data set needs to know of a bundle beside that. Raises DataError."""
        return {}

    @classmethod
    def label_ids(cls, manifest: Manifest) -> dict[str, Any]:
        """What the values of this data set's masks mean, as arguments of ``data.ids.Ids``; empty where it has no masks.
        Raises ValueError.
        """
        return {}

    @classmethod
    def _own_keys(cls) -> list[str]:
        return [key for key in cls.model_fields if key not in DataOptions.model_fields]


def _as_plain(value: Any) -> Plain:
    """A value for a manifest: true and false as 1 and 0, lists and the like as JSON text."""
    if isinstance(value, bool):
        return int(value)
    return value if isinstance(value, Plain) else json.dumps(value)


def _from_plain(value: Any) -> Any:
    return json.loads(value) if isinstance(value, str) and value.startswith(("[", "{")) else value


Data = Annotated[SerializeAsAny[DataOptions], ByName(DATASETS, "camvid", "data set")]
"""Options of any data set, chosen by their ``name``."""


def check_split_name(data: str, split: str, splits: Sequence[str] = SPLITS) -> None:
    """Raise DataError for a split that a data set doesn't have."""
    if split not in splits:
        raise DataError(f"{data} has no split '{split}'; expected {', '.join(splits)}")


def options_of(name: str) -> type[DataOptions]:
    """The options model of a data set. Raises DataError for an unknown name."""
    if name not in DATASETS:
        raise DataError(f"unknown data set '{name}'; expected one of {', '.join(DATASETS)}")
    model: type[DataOptions] = DATASETS[name].load()
    return model


class Augment(Part):
    """Random scale, crop, flip and colour jitter, on uint8 tensors."""

    crop: Size = Field((360, 360), description="[height, width] of the training crops")
    scale: tuple[Scale, Scale] = Field((0.5, 2.0), description="least and largest scale relative to data.size")
    flip: Share = Field(0.5, description="share of the crops that are mirrored")
    jitter: Annotated[float, Field(ge=0, le=1)] = Field(
        0.3, description="strength of brightness, contrast and saturation; hue a tenth of it"
    )
    rare_crops: Share = Field(
        0.0,
        description=(
            "share of the crops that are placed on a pixel of a class which the frame holds, drawn by 1 / √pixels of the"
            " class in train; each frame still comes once an epoch"
        ),
    )
    copy_paste: Share = Field(
        0.0,
        description=(
            "share of the crops into which a class of another crop of the batch is copied, all of its pixels with what a"
            " teacher says of them; drawn by 1 / √pixels of the class in the batch"
        ),
    )

    def rules(self) -> Iterator[tuple[str, str]]:
        """Scales in their order."""
        if self.scale[0] > self.scale[1]:
            yield "scale", f"augment.scale is {list(self.scale)}; expected [least, largest]"
