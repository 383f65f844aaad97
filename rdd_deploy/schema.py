"""YAML in, checked values out: safe loading, typed overrides and all problems of a file in one message."""

from __future__ import annotations

import difflib
import types
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ModelWrapValidatorHandler, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError
from typing_extensions import Self

from rdd_deploy.errors import RecipeError

Model = TypeVar("Model", bound=BaseModel)


class RuledModel(BaseModel):
    """A model whose rules between fields are told together with the problems of single fields, which pydantic's own validators don't do."""

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
            problems = [_again(problem) for problem in error.errors(include_url=False)]
            wrong = {problem["loc"][0] for problem in problems if problem["loc"]}
            with suppress(ValidationError):  # defaults stand in for what is wrong, so that the rules of the other fields can be asked
                part = handler({key: value for key, value in tree.items() if key not in wrong} if isinstance(tree, dict) else {})
        sentences = [sentence for fields, sentence in part.rules() if not wrong & set(fields.split())] if part else []
        if isinstance(tree, dict):  # else it is a part that was checked already, or not one at all
            sentences += cls.presence({key for key, value in tree.items() if value is not None})
        problems += [InitErrorDetails(type="value_error", loc=(), input=None, ctx={"error": ValueError(text)}) for text in sentences]
        if problems:
            raise ValidationError.from_exception_data(cls.__name__, problems)
        assert part is not None
        return part


def _again(problem: Any) -> InitErrorDetails:
    """A problem to be raised again; with its text as it is, which pydantic would otherwise write anew with rounded numbers."""
    kind = PydanticCustomError(problem["type"], problem["msg"], problem.get("ctx"))
    return InitErrorDetails(type=kind, loc=problem["loc"], input=problem["input"])


class _Loader(yaml.SafeLoader):
    """Safe YAML that refuses a key given twice (YAML would silently keep the last) and reads 1e-3 as a number."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Keys are looked at as they are written: where a mapping is built, those merged in by ``<<`` stand beside its own."""
        node = super().compose_mapping_node(anchor)
        seen: set[Any] = set()
        for key_node, _ in node.value:
            merge = key_node.tag == "tag:yaml.org,2002:merge"
            key = key_node.value if merge else self.construct_object(key_node, deep=True)  # type: ignore[no-untyped-call]
            if not isinstance(key, str):
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is not text", key_node.start_mark)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key '{key}' is given twice", key_node.start_mark)
            seen.add(key)
        return node


_Loader.add_implicit_resolver(  # type: ignore[no-untyped-call]
    "tag:yaml.org,2002:float",
    __import__("re").compile(r"^[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+$"),
    list("-+0123456789."),
)


def load_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping with the safe loader; RecipeError with line and column for anything else."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"can't read {path}: {error}; expected a UTF-8 YAML file") from error
    tree = parse_yaml(text, str(path))
    if tree is None:
        tree = {}
    if not isinstance(tree, dict):
        raise RecipeError(f"{path} holds a {type(tree).__name__}; expected a mapping of keys to values")
    return tree


def parse_yaml(text: str, where: str) -> Any:
    """Parse YAML text with the safe loader."""
    try:
        return yaml.load(text, Loader=_Loader)  # a SafeLoader
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        problem = " ".join(str(error).split())
        raise RecipeError(f"{where} isn't valid YAML: {problem}") from error


def override(tree: dict[str, Any], text: str) -> None:
    """Set ``key.sub=value`` in a tree in place; the value is YAML, so numbers, lists and null work as in the file."""
    key, equals, value = text.partition("=")
    parts = key.split(".")
    if not equals or not all(parts):
        raise RecipeError(f"override '{text}' isn't of the form key.sub=value, e.g. train.seed=1")
    node: Any = tree
    for depth, part in enumerate(parts[:-1]):
        if not isinstance(below := {} if node.get(part) is None else node[part], dict):
            raise RecipeError(f"override '{text}': {'.'.join(parts[: depth + 1])} is a value, not a group of keys")
        node[part] = dict(below)  # its own: an alias or a merge in the file means the same mapping in two places
        node = node[part]
    node[parts[-1]] = parse_yaml(value, f"override '{text}'")


def override_all(tree: dict[str, Any], overrides: Sequence[str]) -> list[str]:
    """Apply overrides in place; returns what is wrong with those that can't be, to be told with the schema's problems."""
    problems = []
    for text in overrides:
        try:
            override(tree, text)
        except RecipeError as error:
            problems.append(str(error))
    return problems


def validated(model: type[Model], tree: Mapping[str, Any], where: Path | str, problems: Sequence[str] = ()) -> Model:
    """Check a tree against a closed schema.

    Args:
        problems: found before, e.g. in overrides; told with the others.

    Raises:
        RecipeError: every problem at once, each with dotted path, what was got, what is allowed and the nearest valid name.
    """
    lines = list(problems)
    try:
        checked = model.model_validate(dict(tree))
    except ValidationError as error:
        lines += [_problem(model, problem) for problem in error.errors(include_url=False)]
    if not lines:
        return checked
    count = "1 problem" if len(lines) == 1 else f"{len(lines)} problems"
    raise RecipeError(f"{where} has {count}:\n" + "\n".join(f"  {line}" for line in lines))


def _problem(model: type[BaseModel], problem: Any) -> str:
    location = [part for part in problem["loc"] if not (isinstance(part, str) and ("[" in part or part in _UNION_ARMS))]
    path = ".".join(str(part) for part in location)
    kind, got, context = problem["type"], problem["input"], problem.get("ctx", {})
    if kind == "extra_forbidden":
        fields = _fields_at(model, location[:-1])
        near = difflib.get_close_matches(str(location[-1]), fields, 1, 0.5)
        hint = f"did you mean '{near[0]}'? " if near else ""
        return f"{path}: unknown key; {hint}allowed: {', '.join(fields)}"
    if kind == "missing":
        return f"{path}: missing; expected a value"
    if kind == "literal_error":
        near = difflib.get_close_matches(str(got), [str(a) for a in _literals(model, location)], 1, 0.5)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        return f"{path}: got {got!r}, expected {context['expected']}{hint}"
    if kind == "value_error":
        sentence = str(context["error"])
        if sentence.startswith("."):  # of a key inside
            return path + sentence
        return sentence if sentence.startswith(path) else f"{path}: {sentence}"  # our own sentences name their path already
    return f"{path}: got {_short(got)}, expected: {problem['msg'][0].lower()}{problem['msg'][1:]}"


_UNION_ARMS = {"int", "float", "str", "bool"}


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _model_of(annotation: Any) -> type[BaseModel] | None:
    """The pydantic model inside an annotation such as ``Model | None`` or ``list[Model]``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) in (Union, types.UnionType, list):
        for arm in get_args(annotation):
            if found := _model_of(arm):
                return found
    return None


def _fields_at(model: type[BaseModel], location: list[Any]) -> list[str]:
    node: type[BaseModel] | None = model
    for part in location:
        if isinstance(part, int):
            continue
        field = node.model_fields.get(part) if node else None
        node = _model_of(field.annotation) if field else None
    return list(node.model_fields) if node else []


def _literals(model: type[BaseModel], location: list[Any]) -> tuple[Any, ...]:
    node: type[BaseModel] | None = model
    for part in location[:-1]:
        if not isinstance(part, int) and node and part in node.model_fields:
            node = _model_of(node.model_fields[part].annotation)
    field = node.model_fields.get(location[-1]) if node and isinstance(location[-1], str) else None
    return get_args(field.annotation) if field else ()
