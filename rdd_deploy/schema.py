"""YAML in, checked values out: safe loading, typed overrides and all problems of a file in one message."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import InitErrorDetails
from typing_extensions import Self

from rdd_deploy.errors import RecipeError, details
from rdd_deploy.utils.places import at_home
from rdd_deploy.utils.problems import new_name, part_of, problem_sentence
from rdd_deploy.utils.unions import raised_again
from rdd_deploy.utils.yaml_file import parse_yaml

Model = TypeVar("Model", bound=BaseModel)

_LEVELS = 16
"""Of a key in an override."""
_PATTERN = re.compile(r"\*|\{\w+\}\S")
"""How patterns of files begin (``*.jpg``, ``{split}/*``), and no YAML value."""


class RuledModel(BaseModel):
    """A model whose rules between fields are told together with the problems of single fields, which pydantic's own
    validators don't do.
    """

    def rules(self) -> Iterator[tuple[str, str]]:
        """Broken rules, each as (names of the fields that it is about, sentence)."""
        return iter(())

    @classmethod
    def presence(cls, given: set[str]) -> Iterator[str]:
        """Broken rules about which keys are given at all, right or wrong inside, as sentences."""
        return iter(())

    @model_validator(mode="wrap")
    @classmethod
    def _every_problem(cls, tree: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        problems: list[InitErrorDetails] = []
        wrong: set[Any] = set()
        part = None
        try:
            part = handler(tree)
        except ValidationError as error:
            problems = [raised_again(problem) for problem in error.errors(include_url=False)]
            wrong = {problem["loc"][0] for problem in problems if problem["loc"]}
            # Defaults stand in for what is wrong, so that the rules of the other fields can be asked.
            with suppress(ValidationError):
                part = handler(
                    {key: value for key, value in tree.items() if key not in wrong} if isinstance(tree, dict) else {}
                )
        sentences = [sentence for fields, sentence in part.rules() if not wrong & set(fields.split())] if part else []
        if isinstance(tree, dict):  # else it is a part that was checked already, or not one at all
            sentences += cls.presence({key for key, value in tree.items() if value is not None})
        problems += [
            InitErrorDetails(type="value_error", loc=(), input=None, ctx={"error": ValueError(text)})
            for text in sentences
        ]
        if problems:
            raise ValidationError.from_exception_data(cls.__name__, problems)
        assert part is not None
        return part


def override(tree: dict[str, Any], text: str) -> None:
    """Set ``key.sub=value`` in a tree in place; the value is YAML, so numbers, lists and null work as in the file, or a
    pattern of files.
    """
    key, equals, value = text.partition("=")
    parts = key.split(".")
    if not equals or not all(parts) or len(parts) > _LEVELS:
        raise RecipeError(f"override '{text}' isn't of the form key.sub=value, e.g. train.seed=1")
    if not value.strip():  # YAML's null, by which many keys would silently get their default
        raise RecipeError(
            f"override '{text}' has no value (is a variable of the shell unset?); {key}=null means none, {key}='\"\"' an"
            " empty text"
        )
    node: Any = tree
    for depth, part in enumerate(parts[:-1]):
        if not isinstance(below := {} if node.get(part) is None else node[part], dict):
            raise RecipeError(f"override '{text}': {'.'.join(parts[: depth + 1])} is a value, not a group of keys")
        node[part] = dict(below)  # its own: an alias or a merge in the file means the same mapping in two places
        node = node[part]
    node[parts[-1]] = value if _PATTERN.match(value) else parse_yaml(value, f"override '{text}'")


def override_all(tree: dict[str, Any], overrides: Sequence[str]) -> list[RecipeError]:
    """Apply overrides in place; returns what is wrong with those that can't be, to be told with the
    schema's problems.
    """
    problems = []
    for text in overrides:
        try:
            override(tree, text)
        except RecipeError as error:
            problems.append(error)
    return problems


def validated(
    model: type[Model], tree: Mapping[str, Any], where: Path | str, problems: Sequence[RecipeError] = ()
) -> Model:
    """Check a tree against a closed schema.

    Args:
        problems: found before, e.g. in overrides; told with the others.

    Raises:
        RecipeError: every problem at once, each with dotted path, what was got, what is allowed and the nearest valid
            name.
    """
    found = list(problems)
    try:
        checked = model.model_validate(dict(tree))
    except ValidationError as error:
        found += [RecipeError(problem_sentence(model, tree, problem)) for problem in error.errors(include_url=False)]
    if not found:
        return checked
    count = "1 problem" if len(found) == 1 else f"{len(found)} problems"
    raise RecipeError(f"{where} has {count}:", *details(found))


def changed(one: Model, where: Path | str, **updates: Any) -> Model:
    """A part of a recipe with other values, checked as a whole again: pydantic's own copies aren't.

    Raises:
        RecipeError: as ``validated``.
    """
    return validated(type(one), {name: getattr(one, name) for name in one.model_fields_set} | updates, where)


def with_new_names(model: type[BaseModel], tree: Mapping[str, Any]) -> dict[str, Any]:
    """A tree that an older version of this program wrote, with its keys as they are called now (``Part.renamed``), at
    every depth.
    """
    result: dict[str, Any] = {}
    for key, value in tree.items():
        name, _, new_value = new_name(model, key, value).partition(": ")
        name, value = name or key, new_value or value
        part = part_of(model.model_fields[name], value) if name in model.model_fields else None
        if part is not None and isinstance(value, Mapping):
            value = with_new_names(part, value)
        elif part is not None and isinstance(value, list):
            value = [with_new_names(part, one) if isinstance(one, Mapping) else one for one in value]
        result[name] = value
    return result


NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
LARGEST, MOST = 8192, 8192 * 4320
"""Pixels of a side and in all at most: a size typed wrong must not end in memory that isn't there."""


def _not_latest(name: str) -> str:
    if name == "latest":
        raise ValueError("name is 'latest', which links to the newest run; choose another")
    return name


Place = Annotated[str, AfterValidator(at_home)]
"""A path, ``~`` expanded."""
Name = Annotated[str, Field(pattern=NAME), AfterValidator(_not_latest)]

Byte = Annotated[int, Field(ge=0, le=255)]

Seed = Annotated[int, Field(ge=0, lt=2**63)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1, le=1_000_000)]
Batch = Annotated[int, Field(ge=1, le=65_536)]
Nodes = Annotated[int, Field(ge=1, le=1024)]
"""Bounded far above what anybody means, so that a number typed wrong ends in a sentence."""
Scale = Annotated[float, Field(ge=0.1, le=10.0)]
"""Bounded like sizes, which it multiplies: a scale typed wrong must not end in memory that isn't there."""


class Part(RuledModel):
    """Base of all parts: unknown keys are errors, values don't change after loading.

    Attributes:
        renamed: what a key was called -> what it is called now, or "key: value" -> "key: value" where the value has
            another name, too.
    """

    renamed: ClassVar[dict[str, str]] = {}
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_as_number(cls, value: Any, info: ValidationInfo) -> Any:
        """Pydantic reads true as 1."""
        if info.field_name and _numeric(cls.model_fields[info.field_name].annotation) and _holds_truth(value):
            raise ValueError(f"got {value!r}, expected a number, not true or false")
        return value


def _numeric(annotation: Any) -> bool:
    return annotation in (int, float) or any(_numeric(arm) for arm in get_args(annotation))


def _holds_truth(value: Any) -> bool:
    return isinstance(value, bool) or (isinstance(value, (list, tuple)) and any(_holds_truth(item) for item in value))


def _two_numbers(value: Any) -> Any:
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        raise ValueError(f"got {value!r:.60}, expected [height, width], e.g. [360, 480]")
    return value


def _usable_size(size: tuple[int, int]) -> tuple[int, int]:
    if min(size) < 32:
        raise ValueError(f"got {list(size)}, expected at least [32, 32]")
    if max(size) > LARGEST:
        raise ValueError(f"got {list(size)}, expected at most [{LARGEST}, {LARGEST}]")
    if size[0] * size[1] > MOST:
        raise ValueError(f"got {list(size)}, expected at most {MOST} pixels in all (8K)")
    return size


Size = Annotated[tuple[int, int], AfterValidator(_usable_size), BeforeValidator(_two_numbers)]
