"""The run folder: what a run leaves behind, where, and how it is found again."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from rdd_deploy import console
from rdd_deploy.errors import RddError
from rdd_deploy.recipe import Recipe, load_written, with_whole_paths
from rdd_deploy.utils import files
from rdd_deploy.utils.places import LATEST, RUNS, followed, named_latest


class RunFolder:
    """Paths of one run: ``recipe.yaml``, weights, ``state.ckpt``, ``metrics.csv``, ``summary.json``, ``pictures/``,
    ``export/``.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.latest = path.parent / LATEST
        self.recipe = path / "recipe.yaml"
        self.state = path / "state.ckpt"
        self.metrics = path / "metrics.csv"
        self.summary = path / "summary.json"
        self.pictures = path / "pictures"
        self.export = path / "export"
        self.student = path / "student.safetensors"
        self.teacher = path / "teacher.safetensors"

    def weights(self) -> Path:
        """The checkpoint of the network that this run trained."""
        found = [path for path in (self.student, self.teacher) if path.is_file()]
        if not found:
            raise RddError(
                f"{self.path} holds no weights (student.safetensors or teacher.safetensors); train it first: python -m"
                " rdd_deploy.distill RECIPE"
            )
        return found[0]

    def load_recipe(self) -> Recipe:
        """The resolved recipe that the run was started with."""
        if not self.recipe.is_file():
            raise RddError(
                f"{self.path} is no run folder (it has no recipe.yaml); name one under runs/, or train: python -m"
                " rdd_deploy.distill RECIPE"
            )
        return load_written(self.recipe)

    def write_recipe(self, recipe: Recipe) -> None:
        """Write the fully resolved recipe, its paths such that they hold from any other folder."""
        tree = with_whole_paths(recipe).model_dump(mode="json", exclude_none=True)
        files.write_text(self.recipe, files.yaml_text(tree))

    def finish(self, summary: dict[str, Any]) -> None:
        """Write the summary and point ``latest`` beside the run at it. A run is finished with its summary, whatever
        becomes of ``latest``.
        """
        files.write_json(self.summary, summary)
        try:
            self.point_latest()
        except (OSError, RddError) as error:
            console.warn(
                f"{self.path} is finished, but {self.latest} can't point at it ({error}); name the run by its folder"
            )

    @property
    def finished(self) -> bool:
        """Whether the run's training came to its end."""
        return self.summary.is_file()

    def check_latest(self) -> None:
        """Raise RddError where ``latest`` is something of the user's own."""
        if self.latest.exists() and not self.latest.is_symlink() and named_latest(self.latest) is None:
            raise RddError(
                f"{self.latest} is a {'folder' if self.latest.is_dir() else 'file'}, expected a link to the newest run;"
                " move it away"
            )

    def is_latest(self) -> bool:
        """Whether ``latest`` points at this run."""
        with suppress(OSError):
            return os.readlink(self.latest) == self.path.name
        return named_latest(self.latest) == self.path.name

    def point_latest(self) -> None:
        """Make ``latest`` beside the run a link to it, in one rename; a text file with its name where the file system
        has no links.

        Raises:
            RddError: something of the user's own is there. DiskError, OSError: neither can be written.
        """
        self.check_latest()
        part = files.temporary_beside(self.latest)
        try:
            part.symlink_to(self.path.name, target_is_directory=True)
            os.replace(part, self.latest)
        except (OSError, NotImplementedError):  # FAT, exFAT and network shares refuse with many different errors
            with suppress(OSError):
                part.unlink(missing_ok=True)
            if self.latest.is_symlink():
                self.latest.unlink()
            files.write_text(self.latest, self.path.name + "\n")


def find_run(path: Path | None) -> RunFolder:
    """A run folder as named, or ``runs/latest``."""
    folder = followed(path or RUNS / LATEST)
    if not folder.is_dir():
        what = f"no run folder {folder}" if path else "no finished run (runs/latest)"
        raise RddError(f"{what}; train one first: python -m rdd_deploy.distill recipes/camvid_mbv3.yaml")
    return RunFolder(folder.resolve() if folder.is_symlink() else folder)
