"""A teacher loaded from wherever it is: each of its networks with its class map, put together, with its
second opinion.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from rdd_deploy import console
from rdd_deploy.errors import RddError, RecipeError, WeightsError
from rdd_deploy.models.build import map_channels
from rdd_deploy.models.teachers import TEACHERS
from rdd_deploy.models.teachers.base import LoadedTeacher, TeacherModel, digest_of
from rdd_deploy.models.teachers.class_map import ClassMap, Mapped, class_map
from rdd_deploy.models.teachers.config import Member, Teacher
from rdd_deploy.models.teachers.second import Ensemble, Fitted, Mirrored, Scaled
from rdd_deploy.recipe import StudentRecipe
from rdd_deploy.training.data import TrainingData
from rdd_deploy.utils import faults

OPINIONS = {
    "flip": "teacher.second=flip (what it says of the mirrored frame)",
    "scale": "teacher.second=scale (of the frame at another scale)",
    "fitted": "teacher.second=fitted (an auxiliary head, fitted in minutes)",
    "ensemble": "teacher: [A, B] with second: ensemble",
}


class Network(NamedTuple):
    """One network of a teacher, as it teaches."""

    loaded: LoadedTeacher
    found: ClassMap
    checkpoint: Path


def load_teacher(
    recipe: StudentRecipe, checkpoints: Path | Sequence[Path], data: TrainingData, tell: bool = False
) -> LoadedTeacher:
    """The recipe's teacher, of the data's classes. An auxiliary head of ``second: fitted`` isn't fitted yet.

    Args:
        checkpoints: of each of its networks. tell: say what it is also where it is one checkpoint of this program as it
            is.

    Raises:
        WeightsError: it isn't whole, is of other classes, or can't see the recipe's frames. RecipeError: it lacks what
            its ``second`` needs.
    """
    config = recipe.teacher
    assert config is not None
    paths = [checkpoints] if isinstance(checkpoints, Path) else list(checkpoints)
    networks = [
        load_network(one, path, data, recipe.data.size) for one, path in zip(config.members, paths, strict=True)
    ]
    loaded = networks[0].loaded
    if config.ensemble:
        sizes = list(dict.fromkeys(one.loaded.size for one in networks if one.loaded.size))
        if len(sizes) > 1 and config.cache and config.size is None and not console.process_rank():
            told = ", ".join(f"{height}x{width}" for height, width in sizes)
            console.warn(
                f"the teacher's networks were trained on frames of {told}, and all see the first one's; say by"
                " teacher.size which they should see"
            )
        knows = torch.tensor([[bool(group) for group in one.found.groups] for one in networks])
        model = Ensemble([one.loaded.model for one in networks], config.second == "ensemble", knows)
        known = [] if bool(knows.all()) else [knows.tolist()]
        digest = digest_of("ensemble", [one.loaded.sha256 for one in networks], config.second == "ensemble", *known)
        loaded = LoadedTeacher(model, sizes[0] if sizes else None, digest)
    _check_views(config, networks)
    loaded = with_second(loaded, config)
    _check_second(recipe, loaded.model, " and ".join(map(str, paths)))
    if config.is_plain and not tell:
        return loaded
    _tell(config, loaded, networks)
    return loaded._replace(facts=_facts(config, loaded.model, networks))


def load_network(config: Member, path: Path, data: TrainingData, size: tuple[int, int]) -> Network:
    """One network, saying the data's classes.

    Args:
        size: (height, width) of the recipe's frames, of which one is tried.
    """
    classes = list(data.validation.label_space.classes)
    ours = config.source == "segmenter"
    loaded: LoadedTeacher = TEACHERS[config.source].load()(
        path, None if ours and config.classes else classes, **config.options
    )
    found = class_map(loaded.names, loaded.model.classes, classes, config.classes, str(path))
    if ours and found.is_identity:
        return Network(loaded, found, path)
    if loaded.names is not None and not ours:
        _try_out(loaded.model, loaded.size or size, path)
    left = ["left over equally"] if found.left else []
    sha256 = digest_of("teacher", config.source, loaded.sha256, config.options, found.groups, found.classes, *left)
    model: TeacherModel = loaded.model if found.is_identity else Mapped(loaded.model, found)
    return Network(loaded._replace(model=model, sha256=sha256), found, path)


def _try_out(model: TeacherModel, size: tuple[int, int], path: Path) -> None:
    """See whether a network from elsewhere takes the frames that it will get."""
    try:
        with torch.inference_mode():
            output = model.eval().logits_at_stride(torch.zeros(1, 3, *size, dtype=torch.uint8))
    except (RddError, MemoryError):
        raise
    except Exception as error:  # of a size or a configuration that it isn't made for
        if isinstance(error, (RuntimeError, OSError)) and (failure := faults.as_error(error)):
            raise failure from error
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise WeightsError(f"the teacher {path} can't be run on a frame of {size[0]}x{size[1]}: {why[:240]}") from error
    for logits in output[:2]:
        if logits is not None and (logits.ndim != 4 or logits.shape[1] != model.classes):
            raise WeightsError(
                f"the teacher {path} says the shape {list(logits.shape)}, expected (N, {model.classes}, height, width)"
            )
    if not output.primary.isfinite().all():
        raise WeightsError(f"the teacher {path} says NaN or infinite values of a black frame; its weights are damaged")


def with_second(loaded: LoadedTeacher, config: Teacher) -> LoadedTeacher:
    """A teacher with the second opinion that the recipe names.

    Raises:
        RecipeError: it has no map for ``second: fitted``.
    """
    if config.second in ("auxiliary", "ensemble"):
        return loaded
    if config.second == "flip":
        return loaded._replace(model=Mirrored(loaded.model), sha256=digest_of(loaded.sha256, "flip"))
    if config.second == "scale":
        scale = config.second_scale
        return loaded._replace(model=Scaled(loaded.model, scale), sha256=digest_of(loaded.sha256, "scale", scale))
    name, channels = fitted_map(loaded.model, config.second_map)
    with torch.random.fork_rng():  # the head's first weights don't change what the student draws
        torch.manual_seed(0)
        fitted = Fitted(loaded.model, name, channels)
    return loaded._replace(model=fitted, sha256=digest_of(loaded.sha256, "fitted", name))


def fitted_map(model: TeacherModel, wanted: str | None) -> tuple[str, int]:
    """The map that a fitted head reads, and its width. Raises RecipeError where the teacher has none."""
    problem = ""
    for name in (wanted,) if wanted else ("stage4", "stage5", "head"):
        try:
            return name, map_channels(model, [name], "cpu")[name]
        except ValueError as error:
            problem = str(error)
    key = f"teacher.second_map={wanted}" if wanted else "teacher.second=fitted"
    raise RecipeError(
        f"{key} needs a map inside the teacher to fit a head on: {problem}; choose another map, or second: flip or"
        " scale"
    )


def _check_views(config: Teacher, networks: Sequence[Network]) -> None:
    """Say where a network would be shown the same pixels again, or crops as if they were frames.

    Raises:
        RecipeError: another scale of the frame would be resized to the same size.
    """
    alike = next((one for one in networks if one.loaded.rescales), None)
    if alike is None:
        return
    what = f"the teacher {alike.checkpoint} resizes all that it is shown to a size of its own ({alike.loaded.about})"
    way_out = "teacher.options.resize=false (hugging_face), or a network of any size"
    if config.second == "scale":
        raise RecipeError(
            f"{what}, so teacher.second=scale would compare it with itself; expected teacher.second=flip, {way_out}"
        )
    if list(config.scales) != [1.0]:
        raise RecipeError(
            f"{what}, so that teacher.scales {list(config.scales)} average the same view; expected [1.0], {way_out}"
        )
    if not config.cache and not console.process_rank():
        console.warn(f"{what}: crops are stretched to it; with teacher.cache=true it sees whole frames")


def _check_second(recipe: StudentRecipe, model: TeacherModel, where: str) -> None:
    method, config = recipe.distillation, recipe.teacher
    assert config is not None
    if method.method == "rdd" and method.tfe_fraction > 0 and not model.has_auxiliary:
        others = "; ".join(text for name, text in OPINIONS.items() if name != "ensemble" or config.ensemble)
        raise WeightsError(
            f"{where} has no auxiliary head, which stage 1 of RDD compares with; train a teacher with auxiliary: true,"
            f" set distillation.tfe_fraction=0, or give it another second opinion: {others}"
        )


def _tell(config: Teacher, loaded: LoadedTeacher, networks: Sequence[Network]) -> None:
    """What the teacher is, and which of its classes means which."""
    for one in networks:
        if one.loaded.about:
            console.info(f"teacher {one.checkpoint}: {one.loaded.about}")
        tell_map(one.found, one.checkpoint)
    seen = config.size or loaded.size
    size = f"{seen[0]}x{seen[1]}" if seen and config.cache else "the data's size"
    console.info(f"teacher: frames of {size}, second opinion: {opinion_of(config, loaded.model)}")


def opinion_of(config: Teacher, model: TeacherModel) -> str:
    """The second opinion in words."""
    if config.second == "auxiliary":
        return "its auxiliary head" if model.has_auxiliary else "none"
    if isinstance(model, Fitted):
        return f"an auxiliary head fitted on {model.map_name}"
    others = {
        "flip": "the mirrored frame",
        "scale": f"the frame at scale {config.second_scale:g}",
        "ensemble": "the networks after the first",
    }
    return others[config.second]


def tell_map(found: ClassMap, where: Path) -> None:
    """Show a class map, with what is left over."""
    if found.is_identity and not found.by_place and found.names == found.classes:
        console.info(f"classes of the teacher {where}: the data's, in the same order")
        return
    console.show(f"classes of the teacher {where}", console.table(("data", "teacher"), found.rows(), left=(0, 1)))
    if left := found.left:
        shown = ", ".join(left[:20]) + (f" and {len(left) - 20} more" if len(left) > 20 else "")
        console.info(f"left over, their probability shared out equally among the data's: {shown}")
    if console.process_rank():
        return
    if found.by_place:
        console.warn(
            f"the teacher {where} has no names for its classes: they are taken in the data's order; give their names or"
            " teacher.classes to be sure"
        )
    if found.unknown:
        console.warn(
            f"the teacher {where} doesn't know {', '.join(found.unknown)} and gives nearly no probability there: KD"
            " pulls the student away from it, and in stage 2 its pixels are hard for the teacher"
        )


def _facts(config: Teacher, model: TeacherModel, networks: Sequence[Network]) -> dict[str, Any]:
    """What summary.json says of a teacher that isn't plain."""
    told = [
        {
            "checkpoint": str(one.checkpoint),
            "about": one.loaded.about,
            "classes": dict(one.found.rows()),
            "left_over": one.found.left,
        }
        for one in networks
    ]
    return {"networks": told, "second": opinion_of(config, model)}
