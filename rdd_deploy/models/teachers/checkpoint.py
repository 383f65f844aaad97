"""Our own segmenters as teachers: ``teacher.safetensors`` of a run."""

from __future__ import annotations

from pathlib import Path

from rdd_deploy.errors import WeightsError
from rdd_deploy.models.teachers.base import LoadedTeacher
from rdd_deploy.models.weights import load_checkpoint


def load(path: Path, classes: list[str] | None) -> LoadedTeacher:
    """Load a checkpoint that ``train`` or ``distill`` wrote.

    Args:
        classes: that it must have been trained on; None: the class map compares them.

    Raises:
        WeightsError: damaged, of other classes, or without the frame size that it was trained at.
    """
    loaded = load_checkpoint(path, classes)
    if "size" not in loaded.metadata:
        raise WeightsError(
            f"{path} doesn't say at which frame size it was trained; expected a checkpoint written by distill or train"
        )
    height, width = loaded.metadata["size"]
    names = None if classes is not None else list(loaded.metadata["classes"])
    return LoadedTeacher(loaded.segmenter, (height, width), loaded.sha256, names)
