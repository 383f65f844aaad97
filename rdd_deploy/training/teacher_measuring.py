"""A teacher's own mIoU, measured through the pipeline by which it teaches, before it does."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from lightning_fabric import Fabric

from rdd_deploy import __version__, console
from rdd_deploy.console import process_rank
from rdd_deploy.errors import RddError
from rdd_deploy.metrics import protocol
from rdd_deploy.models.predict import autocast_dtype
from rdd_deploy.models.tta import describe, tta_predictor
from rdd_deploy.recipe import StudentRecipe
from rdd_deploy.training.data import TrainingData
from rdd_deploy.training.fabric import evaluate_together, precision_of
from rdd_deploy.training.run_folder import RunFolder
from rdd_deploy.training.teacher import Teacher
from rdd_deploy.utils import files
from rdd_deploy.utils.machine import git_commit


def measure_teacher(recipe: StudentRecipe, teacher: Teacher, data: TrainingData, fabric: Fabric) -> dict[str, Any]:
    """The teacher's own mIoU, as the student sees it; a cached one's is kept beside its cache, for all students."""
    told = {"checkpoint": teacher.name, "views": describe(teacher.views), **teacher.facts}
    assert recipe.teacher is not None
    if not recipe.teacher.cache:  # its logits are resized straight to the frame's size
        return told | _measured(recipe, teacher, data, fabric, recipe.data.size)
    commit = git_commit() or ""
    key = {
        "code": [__version__, commit], "teacher": teacher.sha256, "views": told["views"], "device": fabric.device.type, "precision": precision_of(fabric), "tf32": recipe.train.tf32,
        "frames": data.val_facts.digest, "labels": data.val_facts.labels_digest,
    }  # fmt: skip
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    place = teacher.caches / f"measured-{digest}.json"
    kept: dict[str, Any] | None = None
    with suppress(OSError, ValueError, TypeError, KeyError):  # not there, or damaged
        found = files.parse_json(place.read_bytes())
        if found["key"] == key and float(found["measured"]["miou_pct"]) >= 0:
            kept = dict(found["measured"])
    # The first of several processes decides for all, who measure together.
    if (kept := fabric.broadcast(kept)) is not None:
        console.info(f"teacher: mIoU {kept['miou_pct']:.2f} % on {recipe.evaluation.split}, as measured before")
        return {**told, **kept}
    measured = _measured(recipe, teacher, data, fabric, None)  # by way of the cache's grid
    if fabric.is_global_zero and not commit.endswith("-dirty"):  # that may be other code the next time
        with suppress(RddError):  # a teacher in a place that can't be written is measured each time
            files.write_json(place, {"key": key, "measured": measured})
    return told | measured


def _measured(
    recipe: StudentRecipe, teacher: Teacher, data: TrainingData, fabric: Fabric, grid: tuple[int, int] | None
) -> dict[str, Any]:
    precision = autocast_dtype(precision_of(fabric))
    predict = tta_predictor(teacher.model, teacher.views, fabric.device, precision, grid)  # as it teaches
    measured = evaluate_together(predict, data.validation, 4, fabric).summary()
    console.info(f"teacher: mIoU {measured['miou_pct']:.2f} % on {recipe.evaluation.split}")
    return measured


def warn_below_baseline(
    recipe: StudentRecipe, measured: Mapping[str, Any], folder: RunFolder, data: TrainingData
) -> None:
    """Warn of a teacher that is below what the student reaches alone, where a run beside this one has measured that."""
    of_a_study = f"alone_s{recipe.train.seed}"
    baselines = (f"{folder.path.name}_alone", f"{recipe.name}_alone", of_a_study)
    split, size, classes = recipe.evaluation.split, recipe.data.size, len(data.validation.label_space)
    wanted = protocol(recipe.data.name, split, len(data.validation), size, classes)
    for name in dict.fromkeys(baselines):
        place = folder.path.parent / name / "summary.json"
        with suppress(OSError, ValueError, TypeError, KeyError):  # not there, or not such a summary
            summary = files.parse_json(place.read_bytes())
            alone, taught = float(summary["best"]["miou_pct"]), float(measured["miou_pct"])
            if summary["protocol"] == wanted and taught < alone and process_rank() == 0:
                console.warn(
                    f"the teacher's mIoU is {taught:.2f} % on {recipe.evaluation.split}, below the {alone:.2f} % that"
                    f" the student reaches alone ({place.parent}); distilling from it may make the student worse: take"
                    " a better teacher, or look at its classes and preprocessing"
                )
                return
