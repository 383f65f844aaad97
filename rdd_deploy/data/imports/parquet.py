"""Hugging Face's parquet files: a column of images and one of masks, each {bytes, path}.

Source: huggingface.co/docs/datasets, Image feature and its metadata in the schema; names of classes come from
id2label.json.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from rdd_deploy.data.ids import Ids
from rdd_deploy.data.imports import masks
from rdd_deploy.data.imports.export import VOID, Export, Format, ReadOptions, Sample, label_name
from rdd_deploy.data.imports.lookup import NotFoundError
from rdd_deploy.data.imports.names import folder_of, split_of_file
from rdd_deploy.data.imports.source import Source
from rdd_deploy.data.label_space import LARGEST_ID
from rdd_deploy.errors import DataError

_IMAGES = ("image", "img", "pixel_values", "picture", "photo", "rgb", "jpg", "frame")
_MASKS = (
    "label", "labels", "mask", "masks", "annotation", "annotations", "segmentation", "segmentation_mask", "semantic_segmentation",
    "semantic_mask", "label_mask", "seg", "png", "ground_truth", "gt", "target",
)  # fmt: skip
_ROWS = 8
"""That are in memory at a time."""


def found(source: Source) -> bool:
    """Whether there is a parquet file."""
    return bool(source.named(".parquet"))


def read(source: Source, options: ReadOptions) -> Export:
    """All files; the split is a word of each file's name: train-00000-of-00002.parquet."""
    import pyarrow.parquet as pq

    export = Export({}, [], background=None, drawing="masks as they are")
    shift = 1 if options.reduce_labels else 0
    names = _names(source, shift)
    if names:
        export.labels = dict.fromkeys(names.values())
        export.values = {
            **({0: VOID} if shift else {}),
            255: VOID,
            **{number + shift: name for number, name in names.items()},
        }
    ids = masks.ids_of(export.values) if names else None
    for name in source.named(".parquet"):
        path = source.path(name)
        try:
            file = pq.ParquetFile(path)
            rows, columns = file.metadata.num_rows, _columns(file.schema_arrow, str(path))
        except DataError:
            raise
        except Exception as error:  # damaged files make pyarrow raise anything
            raise DataError(f"can't read {path}: {_first(error)}; copy or export it again") from error
        table = _Rows(source, name, columns, ids)
        split = split_of_file(name)
        for row in range(rows):
            where = f"{path}: row {row}"
            called = f"{re.sub(r'[^A-Za-z0-9]+', '_', name.removesuffix('.parquet'))}_{row:06}"
            export.samples.append(
                Sample(called, partial(table.image, row), split, mask=partial(table.mask, row), where=where)
            )
    if not names:
        _count_classes(export, shift)
        export.notes.append(
            "no id2label.json: classes are called by their numbers; put one beside the data for their names"
        )
    return export


def _names(source: Source, shift: int) -> dict[int, str]:
    """Class names of id2label.json."""
    for name in source.named("id2label.json"):
        where, tree = str(source.root / name), source.json(name)
        if not isinstance(tree, dict) or not all(re.fullmatch(r"[0-9]{1,5}", key) for key in tree):
            raise DataError(f'{where} doesn\'t hold numbers with names; expected {{"0": "road", …}}')
        if beyond := next((key for key in tree if int(key) + shift > LARGEST_ID), None):
            raise DataError(
                f"{where} gives {beyond} a name; expected numbers up to {LARGEST_ID - shift}, as masks hold"
            )
        return {int(key): label_name(tree[key], where) for key in sorted(tree, key=int)}
    return {}


def _columns(schema: Any, where: str) -> tuple[str, str]:
    """Names of the columns of images and of masks."""
    import pyarrow as pa

    pictures = []
    for field in schema:
        if pa.types.is_struct(field.type) and {"bytes", "path"} <= {inner.name for inner in field.type}:
            pictures.append(field.name)
    image = [name for name in pictures if name.lower() in _IMAGES]
    mask = [name for name in pictures if name.lower() in _MASKS]
    if len(image) == 1 and not mask and len(pictures) == 2:
        mask = [name for name in pictures if name not in image]
    if len(mask) == 1 and not image and len(pictures) == 2:
        image = [name for name in pictures if name not in mask]
    if len(image) != 1 or len(mask) != 1:
        raise DataError(
            f"{where} has the image columns {pictures or 'none'}; expected one called image and one called label (or"
            " mask, annotation): rename the columns"
        )
    return image[0], mask[0]


class _Rows:
    """A file's rows, read forward a few at a time; asked for an earlier one, from the beginning."""

    def __init__(self, source: Source, name: str, columns: tuple[str, str], ids: Ids | None) -> None:
        self._source, self._name, self._columns, self._ids = source, name, columns, ids
        self._path: Path = source.path(name)
        self._rows: Iterator[tuple[Any, Any]] = iter(())
        self._next = -1
        self._now: tuple[Any, Any] = (None, None)

    def image(self, row: int) -> bytes:
        return self._bytes(row, 0)

    def mask(self, row: int) -> masks.Values:
        return masks.of_bytes(self._bytes(row, 1), f"{self._path}: row {row}: {self._columns[1]}", self._ids)

    def _bytes(self, row: int, which: int) -> bytes:
        value, where = self._row(row)[which], f"{self._path}: row {row}: {self._columns[which]}"
        if not isinstance(value, dict):
            raise DataError(f"{where} is empty; expected an image")
        if isinstance(value.get("bytes"), bytes) and value["bytes"]:
            return bytes(value["bytes"])
        try:
            _, path = self._source.image(str(value.get("path") or ""), folder_of(self._name), masks=which == 1)
        except NotFoundError as error:
            raise DataError(
                f"{where} holds no bytes, and its path {str(value.get('path'))!r:.60} names no file of the export"
            ) from error
        return path.read_bytes()

    def _row(self, row: int) -> tuple[Any, Any]:
        if row < self._next - 1 or self._next < 0:
            self._rows, self._next = self._read(), 0
        try:
            while self._next <= row:
                self._now = next(self._rows)
                self._next += 1
        except DataError:
            raise
        except Exception as error:
            raise DataError(f"can't read {self._path}: row {row}: {_first(error)}; copy or export it again") from error
        return self._now

    def _read(self) -> Iterator[tuple[Any, Any]]:
        import pyarrow.parquet as pq

        for batch in pq.ParquetFile(self._path).iter_batches(_ROWS, columns=list(self._columns)):
            image, mask = (batch.column(batch.schema.get_field_index(name)).to_pylist() for name in self._columns)
            yield from zip(image, mask, strict=True)


def _count_classes(export: Export, shift: int) -> None:
    """Classes of masks without names: all values that occur but void."""
    import numpy as np

    seen: set[int] = set()
    for sample in export.samples:
        if sample.mask is not None:
            seen |= set(np.unique(sample.mask()).tolist())
    voids = {255, 0} if shift else {255}
    export.values = {
        **dict.fromkeys(sorted(voids), VOID),
        **{number: f"class_{number - shift}" for number in sorted(seen - voids)},
    }
    export.labels = dict.fromkeys(label for label in export.values.values() if label != VOID)


def _first(error: Exception) -> str:
    return json.dumps((str(error) or type(error).__name__).splitlines()[0][:200], ensure_ascii=False)


FORMAT = Format(found, read)
