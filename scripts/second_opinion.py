"""How well each second opinion of a teacher tells where it is wrong: what stage 1 of RDD weighs pixels by.

    python scripts/second_opinion.py runs/camvid_teacher_lite2 data.root=data/camvid
    python scripts/second_opinion.py runs/camvid_effnet_lite0_half --fitted --frames 40
    python scripts/second_opinion.py teacher.safetensors --recipe recipes/camvid_effnet_lite0_half.yaml --other
    other.safetensors

The teacher is that of a run folder (a teacher's, or a student's with its teacher), or a checkpoint for which
``--recipe`` names data and, where it isn't one of this program, the keys of ``teacher``. For each kind of second
opinion the weight exp(−KL(main ‖ second)) of a sample of pixels with a class is compared with the teacher's real
errors, in a Markdown table:

- ``ρ error``: Spearman's rank correlation of 1 − weight and being wrong (0 or 1), ``ρ loss``: of 1 − weight and −log
  p(true class);
- ``AUROC``: how often a wrong pixel has a smaller weight than a right one (0.5: no idea);
- the mean weight where the teacher is right, and where it is wrong.

The teacher sees frames as it teaches: a cached one at its own size, averaged over the views that the recipe's
``teacher`` names; a live one at the student's size.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from rdd_deploy import console
from rdd_deploy.data.base import IGNORE
from rdd_deploy.errors import RddError
from rdd_deploy.losses.rdd import teacher_full_evaluated
from rdd_deploy.models.teachers.base import LoadedTeacher, TeacherModel
from rdd_deploy.models.teachers.config import Teacher
from rdd_deploy.models.teachers.second import Ensemble, Fitted
from rdd_deploy.models.tta import TestTimeAugmentation, stacked, tta_logits
from rdd_deploy.preprocess import resize_labels
from rdd_deploy.recipe import Recipe, StudentRecipe, load_recipe
from rdd_deploy.training.data import TrainingData
from rdd_deploy.training.fitted_second import fit_second
from rdd_deploy.training.run_folder import RunFolder
from rdd_deploy.training.teacher_loading import fitted_map, load_network, with_second

Array = NDArray[np.float64]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("teacher", type=Path, help="a run folder, or a checkpoint (with --recipe)")
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="KEY=VALUE",
        help="of the run's or the given recipe, such as data.root=data/camvid",
    )
    parser.add_argument("--recipe", type=Path, help="for a checkpoint: data, and how to load the teacher")
    parser.add_argument("--other", type=Path, help="a second checkpoint of the same kind, for second: ensemble")
    parser.add_argument(
        "--fitted", action="store_true", help="fit an auxiliary head first, as second: fitted does (minutes)"
    )
    parser.add_argument("--scales", type=float, nargs="+", default=[0.5, 0.75], help="for second: scale")
    parser.add_argument("--frames", type=int, default=40, help="of evaluation.split, spread evenly")
    parser.add_argument("--pixels", type=int, default=5000, help="sampled of each frame")
    parser.add_argument("--device", default="cpu")
    console.run(lambda: _compare(parser.parse_intermixed_args()))


def _compare(arguments: argparse.Namespace) -> None:
    recipe, checkpoint, config = named(arguments.teacher, arguments.recipe, arguments.overrides)
    data, device = TrainingData(recipe), torch.device(arguments.device)
    network = load_network(config, checkpoint, data, recipe.data.size)
    views = TestTimeAugmentation(recipe.data.size)
    if config.cache:
        views = TestTimeAugmentation(
            config.size or network.loaded.size or recipe.data.size, tuple(config.scales), config.flip
        )
    other = load_network(config, arguments.other, data, recipe.data.size).loaded.model if arguments.other else None
    print(
        f"{checkpoint}: {recipe.data.name} {recipe.evaluation.split}, frames of {views.size[0]}x{views.size[1]}, scales"
        f" {list(views.scales)}{', mirrored too' if views.flip else ''}\n"
    )
    print("| second opinion | ρ error | ρ loss | AUROC | weight where right | where wrong |")
    print("|---|---|---|---|---|---|")
    for title, model in opinions(network.loaded, config, other, arguments, data, views.size, checkpoint, device):
        weight, wrong, loss = sampled(model, data, views, arguments.frames, arguments.pixels, device)
        doubt = 1 - weight
        means = [f"{weight[wrong == value].mean():.3f}" if (wrong == value).any() else "–" for value in (0, 1)]
        print(
            f"| {title} | {spearman(doubt, wrong):.3f} | {spearman(doubt, loss):.3f} | {auroc(doubt, wrong):.3f} |"
            f" {means[0]} | {means[1]} |",
            flush=True,
        )
    print(
        f"\n{len(wrong)} pixels of {min(arguments.frames, len(data.validation))} frames, {100 * wrong.mean():.2f} % of"
        " them wrong"
    )


def named(path: Path, recipe_path: Path | None, overrides: list[str]) -> tuple[Recipe, Path, Teacher]:
    """The recipe whose data are looked at, the teacher's checkpoint, and how it is loaded."""
    run = RunFolder(path) if path.is_dir() and (path / "recipe.yaml").is_file() else None
    source = recipe_path or (run.recipe if run else None)
    if source is None:
        raise RddError(f"{path} is no run folder; for a checkpoint name a recipe of its data with --recipe")
    recipe = load_recipe(source, overrides, name="second_opinion")
    config = recipe.teacher if isinstance(recipe, StudentRecipe) else None
    plain = Teacher.model_validate({"checkpoint": str(path), "cache": True})
    if run is None:
        return recipe, path, config if config and not config.ensemble else plain
    if run.teacher.is_file():
        return recipe, run.teacher, plain
    if config is None or config.ensemble:
        raise RddError(
            f"{path} is the run of a student without a teacher, or of an ensemble's; name one network's checkpoint with"
            " --recipe"
        )
    if config.checkpoint:
        return recipe, Path(config.checkpoint), config
    teacher = load_recipe(str(config.recipe))
    return recipe, path.parent / teacher.name / "teacher.safetensors", config


def opinions(
    loaded: LoadedTeacher, config: Teacher, other: TeacherModel | None, arguments: argparse.Namespace, data: TrainingData,
    size: tuple[int, int], checkpoint: Path, device: torch.device,
) -> Iterator[tuple[str, TeacherModel]]:  # fmt: skip
    """Each kind of second opinion that the teacher can have."""
    if loaded.model.has_auxiliary:
        yield "auxiliary", loaded.model
    yield "flip", with_second(loaded, config.model_copy(update={"second": "flip"})).model
    # One that resizes everything to a size of its own says the same of another scale.
    for scale in () if loaded.rescales else arguments.scales:
        yield (
            f"scale {scale:g}",
            with_second(loaded, config.model_copy(update={"second": "scale", "second_scale": scale})).model,
        )
    if other is not None:
        yield "ensemble", Ensemble([loaded.model, other], compared=True)
    if arguments.fitted:
        fitted = with_second(loaded, config.model_copy(update={"second": "fitted"}))
        name, _ = fitted_map(loaded.model, config.second_map)
        assert isinstance(fitted.model, Fitted)
        fitted.model.to(device)
        digests = {"frames": data.digest, "labels": data.train_facts.labels_digest}
        fit_second(fitted.model, fitted.sha256, data.frames, digests, size, checkpoint.parent / "cache", device, None)
        yield f"fitted on {name}", fitted.model


def sampled(
    model: TeacherModel, data: TrainingData, views: TestTimeAugmentation, frames: int, pixels: int, device: torch.device
) -> tuple[Array, Array, Array]:
    """Stage 1's weight, whether the teacher is wrong (0 or 1), and −log p(true class) of a sample of pixels; the same
    one each time.
    """
    split, size, rng = data.validation, views.size, np.random.default_rng(0)
    model = model.to(device).eval()
    found = []
    for index in sorted({round(i * (len(split) - 1) / max(1, frames - 1)) for i in range(min(frames, len(split)))}):
        labels = torch.from_numpy(resize_labels(split.labels(index), size)).long()
        with torch.inference_mode():
            said = tta_logits(model, stacked([split.frame(index)], size).to(device), views, size)
            assert said.auxiliary is not None
            weight = teacher_full_evaluated(said.primary, said.auxiliary)[0].flatten().cpu()
            primary = F.log_softmax(said.primary, 1)
        known = np.flatnonzero((labels != IGNORE).flatten().numpy())
        chosen = torch.from_numpy(rng.choice(known, min(pixels, len(known)), replace=False))
        truth, flat = labels.flatten()[chosen], primary[0].flatten(1).cpu()[:, chosen]
        loss = -flat.gather(0, truth[None])[0]
        found.append(torch.stack((weight[chosen], (flat.argmax(0) != truth).float(), loss)).double().numpy())
    weight, wrong, loss = np.concatenate(found, 1)
    return weight, wrong, loss


def ranks(values: Array) -> Array:
    """Ranks from 1, the mean one for those that are equal."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    mean: Array = (last - (counts - 1) / 2)[inverse]
    return mean


def spearman(one: Array, other: Array) -> float:
    """Spearman's rank correlation; NaN where either is constant."""
    a, b = ranks(one), ranks(other)
    return float(np.corrcoef(a, b)[0, 1]) if a.std() > 0 and b.std() > 0 else float("nan")


def auroc(score: Array, wrong: Array) -> float:
    """How often a wrong pixel has a larger score than a right one, half of those where they are equal; NaN where none
    is wrong or right.
    """
    count = int(wrong.sum())
    if count in (0, len(wrong)):
        return float("nan")
    return float((ranks(score)[wrong == 1].sum() - count * (count + 1) / 2) / (count * (len(wrong) - count)))


if __name__ == "__main__":
    main()
