"""What a teacher says of whole training frames, kept on disk, so that a better teacher costs the student's run nothing.

The teacher runs once over the training frames at its own size, averaged over mirrored and scaled views. Kept are, on a
grid of stride 2 or 4,

- ``compact``: log-probabilities in few bytes, of many classes only the likeliest (see ``training.compact``), and of the
  auxiliary classifier only what stage 1 of RDD makes of it, a weight in one byte;
- ``dense``: log-probabilities of all classes of both classifiers in float16;

and, where losses read them, the maps inside the teacher: float16, of the plain frames, at their own stride. Each is a
folder of its own, found by all that it depends on, with a folder inside for every so many frames. A crop cuts its
window from them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import Tensor

from rdd_deploy.data.base import Split
from rdd_deploy.data.loader import Batch
from rdd_deploy.data.unlabelled import JoinedSplit
from rdd_deploy.errors import DiskError
from rdd_deploy.losses.rdd import Divergence
from rdd_deploy.models.teachers.base import TeacherModel
from rdd_deploy.models.tta import TestTimeAugmentation, cache_grid
from rdd_deploy.training.compact import Halves, Weights, compact_form
from rdd_deploy.training.teacher_filling import Source, fill, together
from rdd_deploy.training.teacher_shards import Folder, Wanted, shards_of
from rdd_deploy.training.teacher_stores import Store, Values, parts_of

CacheForm = Literal["compact", "dense"]


class TeacherPrediction(NamedTuple):
    """What a teacher says of a batch of crops, without gradient.

    Attributes:
        primary: logits float (N, C, H, W). auxiliary: likewise; None for a teacher without that head, or where
            ``agreement`` stands for it.
        features: the named maps, float (N, D, h, w).
        agreement: weight of stage 1 (``teacher_full_evaluated``), float32 (N, H, W) in (0, 1]; None where the auxiliary
            logits are there.
    """

    primary: Tensor
    auxiliary: Tensor | None
    features: Mapping[str, Tensor] = {}
    agreement: Tensor | None = None


class CachedTeacher:
    """Cuts each crop's window from the cache.

    Args:
        stores: ``primary``, then ``agreement`` or ``auxiliary`` where the teacher has a second classifier, and
            ``map_NAME`` for each map.
        sizes: int64 (frames, 2), each source frame's (height, width).
    """

    def __init__(self, stores: Mapping[str, Store], sizes: NDArray[np.int64]) -> None:
        self.stores = stores
        alike = (sizes == sizes[0]).all()
        self.sizes = sizes[:1] if alike else sizes
        """One row where all frames are of one size."""
        self._sizes = torch.from_numpy(self.sizes).float()

    @property
    def primary(self) -> NDArray[Any]:
        """All that is kept of the main classifier, in memory, (frames, planes, h, w)."""
        return self.stores["primary"].array

    @property
    def nbytes(self) -> int:
        return sum(store.nbytes for store in self.stores.values())

    def to(self, device: torch.device) -> CachedTeacher:
        """The same, with all files held in a device's memory and cut there; returns itself."""
        for store in self.stores.values():
            store.to(device)
        return self

    def read(self, batch: Batch, names: Collection[str] | None = None) -> dict[str, Tensor]:
        """The bytes of the files that a batch's crops need, by name, as ``BatchBeside`` holds it; nothing of what lies
        on a device already.

        Args:
            batch: on the CPU.
            names: of stores; default: all but a dense cache's auxiliary logits, which most of a run doesn't need.
        """
        names = [name for name in self.stores if name != "auxiliary"] if names is None else names
        names = [name for name in names if not self.stores[name].is_resident]
        if not names:
            return {}
        indices = batch.indices.numpy()
        corners, size = parts_of(
            batch.windows.numpy(),
            self.sizes if len(self.sizes) == 1 else self.sizes[indices],
            self.stores["primary"].grid,
        )
        return {"corners": torch.from_numpy(corners)} | {
            name: self.stores[name].parts(indices, corners, size) for name in names
        }

    def __call__(self, batch: Batch, auxiliary: bool, maps: Mapping[str, tuple[int, int]] = {}) -> TeacherPrediction:
        """As ``TeacherOutput``. Raises ValueError for a map that the cache was opened without."""
        size = (batch.images.shape[-2], batch.images.shape[-1])
        second = next((name for name in ("agreement", "auxiliary") if auxiliary and name in self.stores), None)
        inner = {f"map_{name}": size for name, size in sorted(maps.items()) if name != "logits"}
        if unknown := sorted(name.removeprefix("map_") for name in inner if name not in self.stores):
            raise ValueError(f"the teacher's cache was opened without {', '.join(unknown)}")
        # Stays there: a batch's part is then taken without waiting for a GPU.
        self._sizes = self._sizes.to(batch.images.device)
        windows, frames = batch.windows, self._sizes if len(self._sizes) == 1 else self._sizes[batch.indices]
        with torch.no_grad():
            values = self._values(["primary", *([second] if second else []), *inner], batch)
            primary = values["primary"].cut(windows, frames, size)
            features = {
                name.removeprefix("map_"): values[name].cut(windows, frames, wanted) for name, wanted in inner.items()
            }
            if "logits" in maps:
                features["logits"] = values["primary"].cut(windows, frames, maps["logits"])
            found = values[second].cut(windows, frames, size) if second else None
            if (pasted := getattr(batch, "pasted", None)) is not None:  # the files know the frames as they are
                primary = pasted.onto(primary)
                features = {name: pasted.onto(one) for name, one in features.items()}
                found = None if found is None else pasted.onto(found)
        if second == "agreement":
            assert found is not None
            return TeacherPrediction(primary, None, features, found[:, 0])
        return TeacherPrediction(primary, found, features)

    def _values(self, names: list[str], batch: Batch) -> dict[str, Values]:
        """Decoded on the batch's device."""
        device = batch.images.device
        taught = dict(getattr(batch, "beside", {}))
        if missing := [name for name in names if name not in taught and not self.stores[name].is_resident]:
            taught |= self.read(Batch(batch.images, batch.labels, batch.windows.cpu(), batch.indices.cpu()), missing)
        values = {}
        for name in names:
            store = self.stores[name]
            part = (taught[name] if name in taught else store.whole(batch.indices)).to(device, non_blocking=True)
            corners = taught["corners"].to(device, non_blocking=True) if name in taught and store.form.windows else None
            values[name] = Values(store.form.decoded(part), corners, store.grid)
        return values


def cached_teacher(
    teacher: TeacherModel,
    checkpoint_sha256: str,
    split: Split,
    frames_digest: str,
    views: TestTimeAugmentation,
    folder: Path,
    device: torch.device,
    precision: torch.dtype | None = None,
    advance: Callable[[int], None] = lambda _: None,
    *,
    form: CacheForm = "compact",
    divergence: Divergence = "main_aux",
    maps: Collection[str] = (),
    fabric: Fabric | None = None,
) -> CachedTeacher:
    """Open the cache of a teacher and a split, filling first what isn't there, or isn't what was written. Size and time
    to come are told.

    Args:
        checkpoint_sha256, frames_digest: the cache belongs to exactly these weights and frames (in this order), views
            and precision. Of a ``JoinedSplit`` the digest is that of the frames with labels; the others' shards belong
            to the frames in them.
        folder: where caches lie; one sub-folder each.
        advance: called with the number of frames done.
        divergence: of stage 1, whose weight a compact cache keeps.
        maps: those that losses read of the teacher.
        fabric: of several processes, each of which fills its share.

    Raises:
        DiskError: no space; nothing half-written is left behind.
        ValueError: a map that the teacher doesn't have.
        WeightsError: the teacher says NaN.
    """
    common = {"format": 4, "checkpoint": checkpoint_sha256, "precision": str(precision or torch.float32)}
    wanted = _wanted(teacher, views, form, divergence, maps)
    pieces: dict[str, list[tuple[Path, int]]] = {}
    sizes: list[NDArray[np.int64]] = []
    for part, digest, digests in _parts(split, frames_digest):
        folders = [_folder(folder, common | {"frames": digest} | key, names) for key, names in wanted]
        shards = shards_of(len(part), digest, digests)
        fill(Source(teacher, part, views, device, precision, divergence), folders, shards, advance, fabric)
        with together(fabric, f"open the teacher cache in {folder}"):
            for one in folders:
                for file in one.files:
                    pieces.setdefault(file.name, []).extend(
                        (place / f"{file.name}.npy", count) for place, count in one.pieces(shards)
                    )
            sizes += _sizes(folders[0].pieces(shards))
    forms = {file.name: file.form for _, names in wanted for file in names}
    with together(fabric, f"open the teacher cache in {folder}"):
        try:
            stores = {name: Store(places, forms[name]) for name, places in pieces.items()}
        except (OSError, ValueError, EOFError) as error:
            raise DiskError(f"the teacher cache in {folder} can't be read ({error}); start again") from error
    return CachedTeacher(stores, np.concatenate(sizes))


def _parts(split: Split, digest: str) -> Iterator[tuple[Split, str, Sequence[str] | None]]:
    """What a split is joined of: frames, what they are, and for those without labels, of which more may come, what each
    is.
    """
    if not isinstance(split, JoinedSplit):
        yield split, digest, None
        return
    yield split.labelled, digest, None
    yield split.others, "of each shard", split.others.digests


def _folder(beside: Path, key: dict[str, Any], wanted: list[Wanted]) -> Folder:
    return Folder(beside / hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16], key, wanted)


def _sizes(pieces: Sequence[tuple[Path, int]]) -> list[NDArray[np.int64]]:
    """(height, width) of each frame. Raises DiskError."""
    try:
        return [np.load(place / "sizes.npy", allow_pickle=False) for place, _ in pieces]
    except (OSError, ValueError, EOFError) as error:
        raise DiskError(f"the teacher cache {pieces[0][0].parent} can't be read ({error}); start again") from error


def _wanted(
    teacher: TeacherModel, views: TestTimeAugmentation, form: CacheForm, divergence: Divergence, maps: Collection[str]
) -> list[tuple[dict[str, Any], list[Wanted]]]:
    """The files that a run needs, by folder: what they depend on, and which they are."""
    grid, halves, compact = cache_grid(views), Halves(), compact_form(teacher.classes)
    key: dict[str, Any] = {"views": [views.size, views.scales, views.flip]}
    if form == "dense":
        names = ["primary", "auxiliary"] if teacher.has_auxiliary else ["primary"]
        main = [Wanted(name, halves, (teacher.classes, *grid)) for name in names]
        key["form"] = "float16"
    else:
        main = [Wanted("primary", compact, (compact.planes, *grid))]
        if teacher.has_auxiliary:
            main.append(Wanted("agreement", Weights(), (1, *grid)))
        key |= {"form": f"{type(compact).__name__} {compact.planes}", "divergence": divergence}
    plain = {"views": [views.size, (1.0,), False]}
    inner = [(plain | {"map": name}, [Wanted(f"map_{name}", halves, None)]) for name in sorted(set(maps) - {"logits"})]
    return [(key, main), *inner]
