"""Quantisation-aware distillation (QAD): the student, computing as its Q/DQ graph does, learns its own float logits.

Teacher is the float student itself, on the run's own train crops, so neither labels nor the run's teacher are needed.
BatchNorm's statistics and the activations' ranges stay as they are; rounding passes gradients straight through, and
what a range cuts off gets none.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from rdd_deploy import console
from rdd_deploy.console import progress
from rdd_deploy.data.base import Split
from rdd_deploy.data.loader import CropDataset, FrameCache, batches, room_for_frames, training_loader
from rdd_deploy.data.sampler import ResumableBatchSampler
from rdd_deploy.data.transforms import RandomScaleCrop
from rdd_deploy.errors import DivergedError
from rdd_deploy.export.onnx.export import Deployed
from rdd_deploy.export.profile import Qad
from rdd_deploy.export.quantization.fake_quant import fake_quantised
from rdd_deploy.export.quantization.placement import QdqPlacement
from rdd_deploy.export.quantization.ranges import RangeTable
from rdd_deploy.export.quantization.schemes.base import Scheme
from rdd_deploy.losses.kd import pixel_kd
from rdd_deploy.models.predict import checked_device
from rdd_deploy.models.segmenter import Segmenter
from rdd_deploy.recipe import Recipe
from rdd_deploy.training.state import learning_rate_factor

CLIP = 1.0
"""Largest norm of the gradient: a step that a burst of clipped values makes can't undo the others."""
WARMUP = 0.1


def distilled(
    segmenter: Segmenter,
    train: Split,
    recipe: Recipe,
    size: tuple[int, int],
    plan: QdqPlacement,
    table: RangeTable,
    scheme: Scheme,
    config: Qad,
) -> Segmenter:
    """A copy of a float student, fine-tuned for its Q/DQ graph.

    Args:
        segmenter: in eval mode; stays as it is.
        recipe: of its run; crops and seed are taken from it.
        size: (height, width) that it is deployed at.
        plan, table, scheme: of the Q/DQ graph.

    Raises:
        DivergedError: the loss or the weights are no longer finite.
    """
    device = checked_device("auto")
    batch = min(config.batch, len(train))
    deployed = Deployed(segmenter)
    student = fake_quantised(deployed, recipe.augment.crop, batch, plan, table.ranges, scheme).to(device)
    optimizer = torch.optim.Adam(_groups(student, deployed, segmenter, config.lr))
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    rates = [group["lr"] for group in optimizer.param_groups]
    teacher = segmenter.to(device)
    losses = []
    console.info(f"fine-tuning for INT8: {config.steps} steps of {batch} crops on {device}")
    try:
        with progress("fine-tune", config.steps) as bar:
            for step, (images, labels, *_) in enumerate(_crops(train, recipe, size, batch, config.steps)):
                images, labels = images.to(device), labels.to(device)
                with torch.no_grad():
                    wanted = teacher(images).primary
                loss = pixel_kd(student(images.flip(1).permute(0, 2, 3, 1)), wanted, labels)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                norm = torch.nn.utils.clip_grad_norm_(parameters, CLIP)
                losses.append(loss.item())
                if not math.isfinite(losses[-1]) or not math.isfinite(norm.item()):
                    raise DivergedError(
                        f"fine-tuning for INT8 diverged at step {step + 1} of {config.steps} (loss {losses[-1]}, norm"
                        f" of the gradient {norm.item()}); lower gate.qad.lr in the profile, or leave 'qad' out of"
                        " gate.fallbacks"
                    )
                factor = learning_rate_factor(step / config.steps, WARMUP, 1.0)
                for group, rate in zip(optimizer.param_groups, rates, strict=True):
                    group["lr"] = rate * factor
                optimizer.step()
                bar.advance()
    finally:
        teacher.cpu()
    tenth = max(1, config.steps // 10)
    console.info(
        f"fine-tuned: divergence from float {sum(losses[:tenth]) / tenth:.5f} -> {sum(losses[-tenth:]) / tenth:.5f}"
    )
    student.cpu()
    return deployed.unfolded(segmenter)


def _groups(student: torch.nn.Module, deployed: Deployed, segmenter: Segmenter, lr: float) -> list[dict[str, Any]]:
    """The stem's weights are divided by the colours' deviation, so their steps are, too: Adam's don't follow a weight's
    scale.
    """
    if deployed.stem is None:
        return [{"params": list(student.parameters()), "lr": lr}]
    stem = deployed.get_parameter(deployed.stem)
    others = [parameter for parameter in student.parameters() if parameter is not stem]
    return [{"params": others, "lr": lr}, {"params": [stem], "lr": lr / float(segmenter.std.mean())}]


def _crops(train: Split, recipe: Recipe, size: tuple[int, int], batch: int, steps: int):  # type: ignore[no-untyped-def]
    """``steps`` batches, the same for the same seed."""
    sampler = ResumableBatchSampler(len(train), batch, math.ceil(steps / (len(train) // batch)), recipe.train.seed)
    frames = FrameCache(train, room_for_frames() if recipe.data.in_memory else None)
    loader = training_loader(
        CropDataset(frames, RandomScaleCrop(recipe.augment, size), recipe.train.seed),
        sampler,
        recipe.data.workers,
        False,
    )
    return (crop for _, crop in zip(range(steps), batches(loader), strict=False))
