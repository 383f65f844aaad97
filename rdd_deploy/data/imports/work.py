"""An import from beginning to end: recognise, read, decide classes and splits, draw, write, say what came of it."""

from __future__ import annotations

import errno
import os
import shutil
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rdd_deploy import console
from rdd_deploy.data.image_file import Header, Unreadable
from rdd_deploy.data.imports import FORMATS
from rdd_deploy.data.imports import files as written
from rdd_deploy.data.imports.classes import Classes, classes_of
from rdd_deploy.data.imports.compose import Composed, by_values, compose
from rdd_deploy.data.imports.export import VOID, Export, Overlap, ReadOptions, Sample
from rdd_deploy.data.imports.outcome import RULES, Result, tell
from rdd_deploy.data.imports.source import Source
from rdd_deploy.data.imports.splits import assign
from rdd_deploy.data.label_space import IGNORE, LabelSpace
from rdd_deploy.data.listing import plural
from rdd_deploy.data.reader import TURNS, read_frame
from rdd_deploy.errors import DataError, DiskError
from rdd_deploy.utils import files

_OF_JSON = ("cityscapes", "coco", "coco-panoptic", "label-studio", "labelme", "supervisely")


@dataclass(frozen=True)
class ImportOptions:
    """What the command's options say; see their help."""

    format: str | None = None
    classes: str | None = None
    ignore_case: bool = False
    background: str | None = None
    overlap: Overlap | None = None
    val: float | None = None
    seed: int = 0
    reduce_labels: bool = False
    strict: bool = False
    ignore_splits: bool = False
    like: LabelSpace | None = None


def import_export(path: Path, out: Path, options: ImportOptions, dry: bool = False) -> Result:
    """Write a data set for the ``folder`` reader from an annotation tool's export; ``out`` is there as a whole or not
    at all.

    Args:
        path: the export's folder, or one annotation file in it.
        out: the new folder: train/, trainannot/, … and data.yaml.
        dry: read and tell, write nothing.

    Raises:
        DataError: what can't be read or decided; with ``strict`` also what would be left out.
        DiskError: ``out`` can't be written.
    """
    source = Source(path)
    if not dry:
        _check_out(source, out)
    for link in source.links:
        console.warn(
            f"{link} is a link to a folder, which isn't followed; copy the folder there, or give the folder itself"
        )
    name = options.format or _recognised(source, path)
    if name in _OF_JSON:
        _check_json(source)
    if options.reduce_labels and name != "parquet":
        raise DataError(
            f"--reduce-labels is about masks of Hugging Face's parquet files, and this is {name}; leave it out"
        )
    export: Export = FORMATS[name].load().read(source, ReadOptions(options.reduce_labels))
    if source.guessed:
        export.notes.append(
            f"{plural(len(source.guessed), 'image')} found by their name alone, the first is {source.guessed[0]}"
        )
    counted = Counter(region.label for sample in export.samples for region in sample.regions)
    listed = len(export.samples) + export.left.count("image")
    said = sum(counted.values()) + export.left.count("annotation")
    annotations = f", {plural(said, 'annotation')}" if said else ""
    console.info(f"{path}: {name}, {plural(listed, 'image')}{annotations}, {plural(len(export.labels), 'label')}")
    if not listed:
        raise DataError(
            f"{path} holds no images of the format '{name}'; see docs/data.md for its layout, or leave --format out"
        )
    if not export.samples:
        raise DataError(
            f"{path}: none of {plural(listed, 'image')} can be imported; see that the images lie in the same folder as"
            " the annotations",
            *export.left.sentences(),
        )
    if not counted and export.left.count("annotation") and all(sample.mask is None for sample in export.samples):
        raise DataError(
            f"{path}: none of {plural(said, 'annotation')} can be drawn, so that all masks would be empty; expected"
            " outlines or masks",
            *export.left.sentences(),
        )
    _check_once(export.samples)
    classes = classes_of(export, options.classes, options.background, options.ignore_case, options.like)
    voids = {value for value, label in export.values.items() if label == VOID}
    if options.ignore_splits:
        for sample in export.samples:
            sample.split = None
    splits, notes = assign(export.samples, options.val, options.seed, voids)
    export.notes += notes
    _check_strict(export, options)
    rule: Overlap = options.overlap or export.overlap
    if dry:
        result = Result(Counter(splits), regions=counted)
        tell(export, classes, result, rule, dry)
        return result
    result = _write(export, classes, splits, out, rule, options)
    tell(export, classes, result, rule, dry)
    console.info(
        f"done: {out}; train with",
        f"  rdd-deploy train RECIPE … (the part 'data' of {out / 'data.yaml'}, or its command)",
    )
    return result


def _recognised(source: Source, path: Path) -> str:
    names = [name for name, entry in FORMATS.items() if entry.load().found(source)]
    if len(names) == 1:
        return names[0]
    if names:
        raise DataError(
            f"{path} may be {' or '.join(names)}; say which with --format {names[0]}, or give the one annotation file"
        )
    _check_json(source)
    inside = ", ".join(source.files[:3]) or "nothing"
    zips = [name for name in source.files if name.lower().endswith((".zip", ".tar", ".tar.gz", ".tgz"))]
    hint = f"; unpack {zips[0]} first" if zips else ""
    raise DataError(
        f"{path} is no export that is known (it holds {inside}{' …' if len(source.files) > 3 else ''}){hint}; expected"
        f" one of {', '.join(FORMATS)}: see docs/data.md, or say which with --format"
    )


def _check_json(source: Source) -> None:
    """Raise DataError where a JSON file isn't one; telling the format passes over it."""
    for name in source.kinds.get("broken", []):
        source.json(name)


def _check_out(source: Source, out: Path) -> None:
    if out.exists() or out.is_symlink():
        raise DiskError(f"{out} is there already; give a new folder, or remove it")
    if not out.name:
        raise DiskError(f"'{out}' names no folder; give a new one")
    if Path(os.path.realpath(out)).is_relative_to(source.root):
        raise DiskError(f"{out} lies inside of the export, {source.root}; give a folder beside it")
    if above := next((folder for folder in out.parents if folder.exists() and not folder.is_dir()), None):
        raise DiskError(f"can't write {out}: {above} is a file; give a folder")
    files.check_writable(out.parent)
    if out.parent.is_dir():
        files.remove_parts(out.parent)


def _check_once(samples: Sequence[Sample]) -> None:
    """Raise DataError where an image is annotated in two places: in each, what the other one shows is background."""
    seen: dict[str, Sample] = {}
    for sample in samples:
        if isinstance(sample.image, Path) and (first := seen.setdefault(sample.name, sample)) is not sample:
            raise DataError(
                f"{sample.name} is annotated twice, by {first.where} and by {sample.where}; expected each image once:"
                " remove one of them, or bring their annotations together in the tool"
            )


def _check_strict(export: Export, options: ImportOptions) -> None:
    if options.strict and (sentences := export.left.sentences()):
        raise DataError("--strict, and not everything of the export can be imported:", *sentences)


def _write(
    export: Export, classes: Classes, splits: Sequence[str], out: Path, rule: Overlap, options: ImportOptions
) -> Result:
    work = files.temporary_beside(out)
    made = [folder for folder in out.parents if not folder.exists()]
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        work.mkdir()
        result = Result(pixels=np.zeros(len(classes.names) + 1, np.int64))
        drawing = _Drawing(export, classes, rule)
        shapes: Counter[tuple[int, int]] = Counter()
        names = written.stems(export.samples, splits)
        with console.progress("images", len(export.samples)) as bar:
            for sample, split, stem in zip(export.samples, splits, names, strict=True):
                bar.advance()
                try:
                    head, data = written.look(sample)
                except Unreadable as why:
                    export.left.add("image", "it can't be read as an image", f"{sample.name or sample.where} ({why})")
                    if sample.regions:
                        export.left.add("annotation", "its image can't be read", sample.where, len(sample.regions))
                    continue
                labels = drawing.labels(sample, head)
                for folder in (work / split, work / f"{split}annot"):
                    folder.mkdir(exist_ok=True)
                put = work / split / written.put_image(sample, data, head, work / split, stem)
                if data is not None and (why_not := _undecodable(put)):
                    put.unlink()
                    export.left.add("image", "it can't be read as an image", f"{sample.where} ({why_not})")
                    continue
                written.put_mask(labels, work / f"{split}annot", stem)
                counts = np.bincount(labels.ravel(), minlength=IGNORE + 1)
                result.pixels += np.append(counts[: len(classes.names)], counts[IGNORE])
                result.images[split] += 1
                shapes[head.shown] += 1
        _check_strict(export, options)
        if not result.images:
            raise DataError("none of the images can be read", *export.left.sentences())
        result.regions, result.decided = drawing.drawn, (drawing.decided, drawing.decided_in)
        result.notes = drawing.notes()
        part = written.data_part(out, classes, shapes)
        written.write_data_yaml(work, part, [export.drawing, *classes.notes, *result.notes, *export.left.sentences()])
        if out.exists() or out.is_symlink():
            raise DiskError(
                f"{out} was made by somebody else meanwhile, and wasn't touched; give a new folder, or remove it"
            )
        os.rename(work, out)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)  # copying blames the file that is read
        if not full and error.filename and not Path(os.fsdecode(error.filename)).is_relative_to(out.parent):
            raise DataError(
                f"can't read {os.fsdecode(error.filename)}: {error.strerror or error}; check the file and its"
                " permissions"
            ) from error
        raise DiskError(
            f"can't write {out}: {error.strerror or error}; free some space or choose another folder. Nothing was left"
            " there"
        ) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
        if not out.exists():
            for folder in made:
                with suppress(OSError):
                    folder.rmdir()
    return result


def _undecodable(path: Path) -> str:
    """Why an image that came as bytes can't be read, though its header can; empty where it can."""
    try:
        read_frame(path)
    except DataError as error:
        return str(error).replace(str(path), "its content")
    return ""


class _Drawing:
    """Makes masks, and keeps what there is to say about them."""

    def __init__(self, export: Export, classes: Classes, rule: Overlap) -> None:
        self._export, self._classes, self._rule = export, classes, rule
        self.decided = self.decided_in = 0
        self.drawn: Counter[str] = Counter()
        self._seen: dict[str, list[str]] = {"shown": [], "stored": [], "empty": [], "hidden": [], "bare": []}

    def labels(self, sample: Sample, head: Header) -> Any:
        """An index mask of the image as it is shown. Raises DataError."""
        ids, stored = self._classes.ids, (head.height, head.width)
        if sample.mask is not None:
            labels = by_values(sample.mask(), self._export.values, ids, sample.where)
            size = labels.shape
        else:
            size = sample.size or head.shown
        turn = self._turn(sample, head, size, stored)
        if sample.mask is None:
            composed = compose(sample.regions, size[0], size[1], ids, self._classes.unlabelled, self._rule)
            self._count(sample, composed)
            labels = composed.labels
        return np.ascontiguousarray(TURNS[head.orientation](labels)) if turn else labels

    def _turn(self, sample: Sample, head: Header, size: tuple[int, ...], stored: tuple[int, int]) -> bool:
        """Whether the mask must be turned as the image is on reading: where it was drawn on the image as stored, not as
        shown.
        """
        if tuple(size) == head.shown:
            if head.orientation != 1:
                self._seen["shown"].append(sample.name)
            return False
        if tuple(size) == stored:
            self._seen["stored"].append(sample.name)
            return True
        turned = f" (turned by its EXIF orientation {head.orientation})" if head.orientation != 1 else ""
        raise DataError(
            f"{sample.where}: the annotations are for {size[0]}x{size[1]} pixels, the image {sample.name} has"
            f" {head.shown[0]}x{head.shown[1]}{turned}; put the images there that were annotated, at their size"
        )

    def _count(self, sample: Sample, composed: Composed) -> None:
        self.decided += composed.decided
        self.decided_in += composed.decided > 0
        self.drawn += composed.drawn
        self._seen["empty"] += composed.empty
        self._seen["hidden"] += composed.hidden
        if not sample.regions:
            self._seen["bare"].append(sample.name)

    def notes(self) -> list[str]:
        """Sentences about what was found."""
        told = {
            "shown": "images are turned by their EXIF orientation; the annotations fit them as shown",
            "stored": (
                "images are turned by their EXIF orientation, and the annotations fit them as stored: their masks were"
                " turned as well"
            ),
            "empty": "annotations cover no pixel",
            "hidden": "annotations lie wholly under others and aren't seen",
            "bare": (
                "images have no annotation and are all"
                f" {'void' if self._classes.unlabelled == IGNORE else 'background'}"
            ),
        }
        notes = [f"{len(names)} {told[key]}, the first is {names[0]}" for key, names in self._seen.items() if names]
        if self.decided:
            notes.append(
                f"{plural(self.decided, 'pixel')} in {plural(self.decided_in, 'image')} lie under several classes:"
                f" {RULES[self._rule]}"
            )
        return notes
