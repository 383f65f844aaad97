"""An untrained network as a run folder, exported as any run is: speed and size don't depend on what weights hold."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch

from rdd_deploy.data.streets.dataset import open_streets
from rdd_deploy.export.options import Options
from rdd_deploy.export.pipeline import export_profile
from rdd_deploy.export.profile import Profile, changed, load_profile
from rdd_deploy.export.trained_run import open_run
from rdd_deploy.models.config import Network
from rdd_deploy.models.merge import merge_checked
from rdd_deploy.models.segmenter import Segmenter
from rdd_deploy.models.weights import save_segmenter
from rdd_deploy.preprocess import resize_frame
from rdd_deploy.recipe import load_recipe
from rdd_deploy.training.run_folder import RunFolder
from rdd_deploy.utils import files

CAMERA = (480, 640)
"""Height and width of the frames that a call is timed with, as a webcam gives them."""
FRAMES = {"train": 8, "val": 4}


@dataclass(frozen=True)
class Target:
    """What candidates are exported for.

    Args:
        head: of ``HEADS``.
        size: (height, width) of the network's input.
        classes: how many.
        backend: onnxruntime or openvino. precision: int8 or fp32.
    """

    head: str
    size: tuple[int, int]
    classes: int
    backend: str
    precision: str

    @property
    def names(self) -> list[str]:
        """Names of the classes."""
        return [f"class{number}" for number in range(self.classes)]

    @property
    def profile(self) -> Profile:
        """The shipped profile. Nothing is searched: what untrained weights lose by rounding says nothing."""
        profile = load_profile(f"{self.backend}-{self.precision}")
        if profile.calibration is None:
            return profile
        calibration = profile.calibration.model_dump(exclude_unset=True) | {"images": FRAMES["train"]}
        if self.precision == "fp32":
            return changed(profile, calibration=calibration)
        return changed(profile, calibration=calibration, gate={"max_drop": 100.0, "fallbacks": []})


def write_streets(folder: Path, classes: int) -> None:
    """Procedural streets at a camera's size as a ``folder`` data set; class ids are taken modulo ``classes``."""
    for split, count in FRAMES.items():
        streets = open_streets(split, height=CAMERA[0], width=CAMERA[1])
        for place in (split, f"{split}annot"):
            (folder / place).mkdir(parents=True)
        for index in range(count):
            labels = streets.labels(index)
            frame = cv2.cvtColor(streets.frame(index), cv2.COLOR_RGB2BGR)
            cv2.imwrite(str(folder / split / f"{index}.png"), frame)
            cv2.imwrite(str(folder / f"{split}annot" / f"{index}.png"), np.where(labels == 255, 255, labels % classes))


@dataclass(frozen=True)
class Exported:
    """An untrained candidate as a bundle, and the parameters of the network as it is deployed."""

    bundle: Path
    parameters: int

    @property
    def megabytes(self) -> float:
        """Of all files of the bundle, in 10^6 bytes."""
        return sum(file.stat().st_size for file in self.bundle.iterdir()) / 1e6


def export_untrained(encoder: str, target: Target, folder: Path, data: Path) -> Exported:
    """Build, export and quantise a candidate.

    Args:
        folder: where its run folder is made. data: of ``write_streets``.

    Raises:
        RddError and whatever else a network, the exporter or a backend raises.
    """
    network = Network.model_validate({"encoder": encoder, "head": target.head, "weights": "none"})
    torch.manual_seed(0)
    segmenter = Segmenter(network, target.classes)
    _settle(segmenter, data, target.size)
    run = RunFolder(folder / encoder)
    run.path.mkdir(parents=True)
    tree = {
        "name": encoder.replace(".", "-"),
        "data": {"name": "folder", "root": str(data), "size": list(target.size), "classes": target.names, "workers": 0},
        "student": network.model_dump(mode="json"),
    }
    files.write_text(run.recipe, files.yaml_text(tree))
    recipe = load_recipe(run.recipe)
    run.write_recipe(recipe)
    palette = [[37 * number % 256, 101 * number % 256, 173 * number % 256] for number in range(target.classes)]
    save_segmenter(run.student, segmenter, {"classes": target.names, "palette": palette, "size": list(target.size)})
    bundle, _ = export_profile(
        open_run(run.path), target.profile, run.export, Options(limit=2, evaluate=False, force=True)
    )
    merge_checked(segmenter)
    parameters = sum(parameter.numel() for parameter in segmenter.parameters())
    return Exported(bundle, parameters)


def _settle(segmenter: Segmenter, data: Path, size: tuple[int, int]) -> None:
    """Give BatchNorm the statistics of frames: without them an untrained network's activations vanish or overflow."""
    frames = [
        resize_frame(np.asarray(cv2.imread(str(path)), np.uint8), size)[..., ::-1]
        for path in sorted((data / "train").iterdir())[:4]
    ]
    batch = torch.from_numpy(np.ascontiguousarray(np.stack(frames))).permute(0, 3, 1, 2)
    norms = [module for module in segmenter.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    before = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = None
    with torch.no_grad():
        segmenter.train()(batch)
    for norm, momentum in zip(norms, before, strict=True):
        norm.momentum = momentum
    segmenter.eval()
