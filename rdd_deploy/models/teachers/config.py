"""Recipe section of the teacher, of one network or of several."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, TypeAdapter, ValidationError

from rdd_deploy.errors import RecipeError
from rdd_deploy.models.teachers import TEACHERS
from rdd_deploy.schema import Part, Place, Scale, Size


def _form_of_cache(value: Any) -> Any:
    """One sentence for what is neither; a union's arms would have one each."""
    if value == "dense":
        return value
    try:
        return TypeAdapter(bool).validate_python(value)
    except ValidationError:
        raise ValueError(f"got {value!r:.60}, expected true, false or dense") from None


Cache = Annotated[bool | Literal["dense"], BeforeValidator(_form_of_cache)]


def _lists(value: Any) -> Any:
    """Each class with a list of the teacher's, none of them where the teacher doesn't know it."""
    if not isinstance(value, Mapping):
        raise ValueError(
            f"got {value!r:.60}, expected keys: a class of the data, and the teacher's class or classes that mean it"
        )
    found: dict[str, list[str | int]] = {}
    for name, given in value.items():
        if not isinstance(name, str):
            raise ValueError(f"got the key {name!r:.60}, expected the name of a class; write it in quotes")
        several = given if isinstance(given, list) else [] if given is None else [given]
        if wrong := [
            one for one in several if type(one) not in (str, int) or one == "" or (type(one) is int and one < 0)
        ]:
            raise ValueError(
                f"{name} is {wrong[0]!r:.60}, expected a class name of the teacher, a list of them, or null where it"
                " doesn't know the class"
            )
        found[name] = several
    return found


ClassNames = Annotated[dict[str, list[str | int]], BeforeValidator(_lists)]


class Member(Part):
    """One network: by recipe (trained first if its checkpoint isn't there), by checkpoint, or both."""

    recipe: Place | None = Field(None, description="a teacher recipe, relative to this file or by name")
    checkpoint: Place | None = Field(
        None,
        description=(
            "teacher.safetensors, or the file or folder of another source; default: that of the teacher recipe's run"
            " folder"
        ),
    )
    source: Literal[tuple(TEACHERS)] = Field(  # type: ignore[valid-type]
        "segmenter", description="what the checkpoint is; segmenter: a network of this program"
    )
    options: dict[str, Any] = Field(default_factory=dict, description="of the source")
    classes: ClassNames = Field(
        default_factory=dict,
        description=(
            "class of the data: the teacher's class, a list of them, or null where it doesn't know it; those left out"
            " have the same name"
        ),
    )

    def rules(self) -> Iterator[tuple[str, str]]:
        """It is named, and its options are the source's own."""
        for problem in TEACHERS[self.source].problems(self.options, f"the teacher source '{self.source}'"):
            yield "source options", problem
        if self.recipe and self.source != "segmenter":
            yield (
                "recipe source",
                (
                    f"a teacher recipe trains a network of this program, not one of source '{self.source}'; leave one"
                    " of them out"
                ),
            )
        if not self.recipe and not self.checkpoint:
            yield (
                "recipe checkpoint",
                "teacher names neither a recipe nor a checkpoint; give teacher.recipe or teacher.checkpoint",
            )

    @property
    def from_hub(self) -> bool:
        """Whether the checkpoint is the name of a repository, not a path."""
        return self.options.get("hub") is True


class Teacher(Member):
    """The teacher: by recipe (trained first if its checkpoint isn't there), by checkpoint, or both."""

    ensemble: list[Member] = Field(
        default_factory=list, max_length=8, description="networks whose probabilities are averaged"
    )
    second: Literal["auxiliary", "flip", "scale", "ensemble", "fitted"] = Field(
        "auxiliary",
        description=(
            "what stage 1 compares with: its auxiliary head, the mirrored frame, the frame at second_scale, the"
            " networks after the first of the ensemble, or an auxiliary head that is fitted before"
        ),
    )
    second_scale: Scale = Field(0.5, description="of second: scale, relative to the frame")
    second_map: Literal["head", "stage1", "stage2", "stage3", "stage4", "stage5"] | None = Field(
        None, description="map that the head of second: fitted reads; default: stage4, else stage5, else head"
    )
    cache: Cache = Field(
        False,
        description=(
            "run the teacher once per training frame, whole and averaged, and crop what it says with the frame; true"
            " keeps it in few bytes, dense in float16"
        ),
    )
    flip: bool = Field(False, description="average the teacher over mirrored frames")
    size: Size | None = Field(
        None,
        description=(
            "[height, width] of the frames that a cached teacher sees; default: those that it was trained on, where it"
            " says so, else data.size"
        ),
    )
    scales: list[Scale] = Field(
        [1.0], description="average the teacher over these scales of its own frame size", min_length=1, max_length=32
    )

    def rules(self) -> Iterator[tuple[str, str]]:
        """It is one network or several, and only a cached one is averaged."""
        if self.ensemble:
            if own := [
                key
                for key in Member.model_fields
                if getattr(self, key) != Member.model_fields[key].get_default(call_default_factory=True)
            ]:
                yield (
                    f"ensemble {' '.join(own)}",
                    f"teacher has an ensemble and {own[0]} beside it; write that into one of the ensemble's networks",
                )
            if len(self.ensemble) == 1:
                yield (
                    "ensemble",
                    "teacher.ensemble has one network, expected two or more; write it as the teacher itself",
                )
        else:
            yield from super().rules()
        if self.second == "ensemble" and not self.ensemble:
            yield (
                "second ensemble",
                (
                    "teacher.second is ensemble, which compares two teachers; give them as teacher: [A, B], or choose"
                    " flip, scale or fitted"
                ),
            )
        if self.second == "scale" and self.second_scale == 1:
            yield (
                "second second_scale",
                (
                    "teacher.second_scale is 1, which compares the teacher with itself; expected another scale, such as"
                    " 0.5 or 0.75"
                ),
            )
        if not self.cache and (self.flip or len(self.scales) > 1):
            yield (
                "cache flip scales",
                (
                    "teacher.flip and teacher.scales average over several views, which a live teacher doesn't; set"
                    " teacher.cache=true, or drop them"
                ),
            )

        if not self.cache and self.size is not None:
            yield (
                "cache size",
                (
                    "teacher.size is that of whole frames, and a live teacher sees the student's crops; set"
                    " teacher.cache=true, or drop it"
                ),
            )

    @property
    def members(self) -> list[Member]:
        """The networks: those of the ensemble, or the lone one."""
        return list(self.ensemble) or [self]

    @property
    def is_plain(self) -> bool:
        """Whether it is one checkpoint of this program as it is, so that the file's hash says all about it."""
        return self.source == "segmenter" and self.second == "auxiliary" and not self.ensemble and not self.classes


FOREIGN = {".onnx": "onnx", ".pth": "torchvision or smp", ".pt": "torchvision or smp"}
"""Endings of files that are no network of this program, and the sources that they may be of."""


def no_checkpoint(path: Path, where: str) -> str:
    """The sentence about what can't be a checkpoint of this program.

    Args:
        where: the network in the recipe, ``teacher`` or ``teacher.ensemble.0``.
    """
    begin = f"no teacher checkpoint {path}; "
    if path.suffix.lower() in FOREIGN and path.is_file():
        return f"{path} is no network of this program: set {where}.source={FOREIGN[path.suffix.lower()]}"
    if (path / "teacher.safetensors").is_file():
        return begin + f"it is a run's folder: name {path / 'teacher.safetensors'}"
    if path.is_dir():
        return begin + f"it is a folder: set {where}.source=hugging_face or smp, or name the .safetensors file in it"
    return begin + f"put it there, or name {where}.recipe so that the teacher is trained first"


SHARED = tuple(key for key in Teacher.model_fields if key not in Member.model_fields and key != "ensemble")
"""Keys of all networks of an ensemble together."""


def spell_out(tree: dict[str, Any]) -> list[RecipeError]:
    """Write ``teacher: [A, B]`` of an unchecked tree in place as what it stands for, ``teacher: {ensemble: [A, B]}``, and
    ``teacher: A`` likewise.

    Each is the keys of a network or the path of its checkpoint or recipe; keys of the ensemble as a whole (``cache``,
    ``second`` …) may stand in any of them.

    Returns:
        What is wrong with it.
    """
    given = tree.get("teacher")
    if isinstance(given, str):
        given = [given]
    if not isinstance(given, list):
        return []
    shared: dict[str, Any] = {}
    problems, members = [], []
    for number, one in enumerate(given):
        if isinstance(one, str):
            one = {"recipe" if one.endswith((".yaml", ".yml")) else "checkpoint": one}
        if isinstance(one, dict):
            for key in SHARED:
                if key in one and shared.setdefault(key, one[key]) != one[key]:
                    problems.append(
                        RecipeError(
                            f"teacher.{number}.{key}: got {one[key]!r:.60} and {shared[key]!r:.60}; it is the whole"
                            " ensemble's, so say it once"
                        )
                    )
            one = {key: value for key, value in one.items() if key not in SHARED}
        members.append(one)
    tree["teacher"] = (
        {**shared, **members[0]}
        if len(members) == 1 and isinstance(members[0], dict)
        else {**shared, "ensemble": members}
    )
    return problems
