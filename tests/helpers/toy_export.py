"""A toy network that has really learned its stripes, and a run folder around it."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import toys
from torch.nn import functional as F

from rdd_deploy.models.config import Network
from rdd_deploy.models.segmenter import Segmenter
from rdd_deploy.models.weights import save_segmenter
from rdd_deploy.recipe import load_recipe
from rdd_deploy.training.run_folder import RunFolder

SIZE = (64, 96)


def mobilenet(**changes: Any) -> dict[str, Any]:
    """A network with all that the rules of quantisation are about: depthwise convolutions, HardSwish,
    squeeze-and-excitation.
    """
    return toys.network(encoder="mobilenetv3_small_050", **changes)


def taught(network: dict[str, Any], steps: int = 30) -> Segmenter:
    """A segmenter after a few steps on striped pictures of SIZE."""
    torch.manual_seed(0)
    segmenter = Segmenter(Network.model_validate(network), len(toys.CLASSES)).train()
    pictures = [toys.picture(index, *SIZE) for index in range(6)]
    frames = torch.from_numpy(np.stack([frame for frame, _ in pictures])).permute(0, 3, 1, 2)
    labels = torch.from_numpy(np.stack([labels for _, labels in pictures])).long()
    optimizer = torch.optim.AdamW(segmenter.parameters(), 4e-3)
    for _ in range(steps):
        loss = F.cross_entropy(segmenter(frames).primary, labels, ignore_index=255)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    norms = {module: module.momentum for module in segmenter.modules() if isinstance(module, torch.nn.BatchNorm2d)}
    with torch.no_grad():  # BatchNorm's averages lag behind so few steps
        for module in norms:
            module.reset_running_stats()
            module.momentum = None
        segmenter(frames)
    for module, momentum in norms.items():  # as a loaded network has it
        module.momentum = momentum
    return segmenter.eval()


def write_run(folder: Path, data: Path, segmenter: Segmenter, network: dict[str, Any]) -> Path:
    """A finished run folder."""
    tree = toys.tree(data) | {"student": network, "name": folder.name}
    tree["data"] = tree["data"] | {"size": list(SIZE)}
    recipe = load_recipe(toys.write_recipe(folder / "recipe.yaml", tree))
    run = RunFolder(folder)
    run.write_recipe(recipe)
    facts = {
        "classes": toys.CLASSES,
        "palette": [list(colour) for colour in toys.COLOURS],
        "size": list(SIZE),
        "recipe": folder.name,
    }
    save_segmenter(run.student, segmenter, facts)
    return folder


WITHOUT = """
import runpy, sys
blocked = set(sys.argv.pop(1).split(","))
def hidden(find):
    return lambda name, *rest: None if name.partition(".")[0] in blocked else find(name, *rest)
for finder in [finder for finder in sys.meta_path if not isinstance(finder, type) or "Path" in finder.__name__]:
    finder.find_spec = hidden(finder.find_spec)
sys.argv[0] = "rdd-deploy"
runpy.run_module("rdd_deploy", run_name="__main__", alter_sys=True)
"""


def without(packages: str, *words: object) -> subprocess.CompletedProcess[str]:
    """``rdd-deploy`` in a process of its own, as if some packages (with commas between) weren't installed."""
    command = [sys.executable, "-c", WITHOUT, packages, *map(str, words)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=200, check=False, env=os.environ | {"COLUMNS": "400"}
    )
