"""What can be measured: bundles through ``rdd_deploy.runtime.Segmenter``, and on request the run's
weights in PyTorch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from rdd_deploy import console
from rdd_deploy.benchmark.records import TORCH_KINDS, Kind
from rdd_deploy.data.base import Frame, Labels
from rdd_deploy.errors import RddError
from rdd_deploy.runtime import Manifest, Segmenter, read_manifest
from rdd_deploy.utils.files import sha256
from rdd_deploy.utils.machine import runtime_version


class Runner(Protocol):
    """A loaded network, in the three steps that are timed one by one. ``runtime.Segmenter`` is one."""

    classes: tuple[str, ...]
    input_size: tuple[int, int]
    device: str
    provider: str

    def prepare(self, frame: Frame) -> Frame:
        """uint8 (H, W, 3) BGR -> uint8 (1, h, w, 3)."""

    def infer(self, network_input: Frame) -> Labels:
        """uint8 (1, h, w, 3) -> uint8 (1, h, w), on the host, with everything that was queued on a device finished."""

    def restore(self, labels: Labels, size: tuple[int, int]) -> Labels:
        """uint8 (1, h, w) -> uint8 (H, W)."""

    def close(self) -> None:
        """Free memory and device."""


@dataclass(frozen=True)
class Candidate:
    """A row to measure: what to open and how. ``failure`` is set where it can't be opened."""

    name: str
    kind: Kind
    path: Path
    device: str = "auto"
    threads: int | None = None
    size: tuple[int, int] | None = None
    """(height, width) for PyTorch, whose weights run at any size."""
    manifest: Manifest | None = None
    failure: str | None = None

    @property
    def runtime(self) -> str | None:
        """Package and version that will run it."""
        if self.kind != "bundle":
            return runtime_version("torch")
        return runtime_version(self.manifest.backend) if self.manifest else None

    @property
    def run(self) -> str | None:
        """The training run that it comes from, with the hash of its weights: a run trained again has a float bundle of
        its own.
        """
        if self.manifest is None:
            return None
        named, weights = (self.manifest.provenance.get(key) for key in ("run", "weights_sha256"))
        return " ".join([str(named or self.manifest.name), *([str(weights)[:12]] if weights else [])])

    def open(self) -> Runner:
        """Load it. Raises RddError, or whatever its backend raises."""
        if self.kind == "bundle":
            return Segmenter.load(self.path, device=self.device, threads=self.threads)
        from rdd_deploy.benchmark.torch_runner import TorchRunner  # the edge has no torch

        return TorchRunner(self.path, self.kind, self.size, self.device, self.threads)


def bundle_candidates(paths: Sequence[Path], device: str, threads: int | None) -> list[Candidate]:
    """A candidate for each folder, once. Plain files beside a bundle, as a shell's ``export/*`` brings along, are left
    out, others named.
    """
    beside = {path.parent for path in paths if path.is_dir()}
    folders: dict[Path, Path] = {}
    for path in paths:
        if path.is_file():
            if path.parent not in beside:
                console.warn(f"{path} is a file, not a bundle; left out")
        else:
            folders.setdefault(path.resolve(), path)
    names = _names(list(folders))
    made = []
    for folder, path in folders.items():
        manifest, failure = None, None
        try:
            manifest = read_manifest(path)
        except RddError as error:
            failure = str(error)
        made.append(Candidate(names[folder], "bundle", path, device, threads, manifest=manifest, failure=failure))
    return made


def torch_candidates(bundles: Sequence[Candidate]) -> list[Candidate]:
    """Three PyTorch rows for every run folder that the bundles lie in (``<run>/export/<profile>``), at its first
    bundle's size.
    """
    firsts: dict[Path, Candidate] = {}
    for bundle in bundles:
        if bundle.manifest is not None:
            firsts.setdefault(bundle.path.resolve().parent.parent, bundle)
    made = []
    for run, bundle in firsts.items():
        assert bundle.manifest is not None
        weights = next(
            (file for name in ("student", "teacher") if (file := run / f"{name}.safetensors").is_file()), None
        )
        failure = _unfit(run, weights, bundle)
        size = (bundle.manifest.input.height, bundle.manifest.input.width)
        for kind in TORCH_KINDS:
            name = kind if len(firsts) == 1 else f"{run.name}/{kind}"
            made.append(
                Candidate(name, kind, weights or run, bundle.device, bundle.threads, size, bundle.manifest, failure)
            )
    return made


def _unfit(run: Path, weights: Path | None, bundle: Candidate) -> str | None:
    """Why a run's weights can't stand beside a bundle, None if they can."""
    if weights is None:
        return f"{run} holds no student.safetensors: PyTorch rows need the run folder that the bundle was exported from"
    exported = bundle.manifest.provenance.get("weights_sha256") if bundle.manifest else None
    if exported and exported != sha256(weights):
        return f"{weights} was trained further since the bundle {bundle.name} was exported; export it again"
    return None


def _names(folders: Sequence[Path]) -> dict[Path, str]:
    """The folder's own name, with as many parents (less ``export``) as it takes to tell all apart."""
    parts = {folder: [part for part in folder.parts if part != "export"] for folder in folders}
    for depth in range(1, 1 + max((len(some) for some in parts.values()), default=0)):
        names = {folder: "/".join(some[-depth:]) for folder, some in parts.items()}
        if len(set(names.values())) == len(names):
            return names
    return {folder: str(folder) for folder in folders}
