"""YAML in, checked values out: safe loading, typed overrides and all problems of a file in one message."""

from __future__ import annotations

import difflib
import re
import types
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ModelWrapValidatorHandler, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError
from typing_extensions import Self

from rdd_deploy.errors import RecipeError, details
from rdd_deploy.files import read_file

Model = TypeVar("Model", bound=BaseModel)
LARGEST_FILE = 256 * 1024
_DEEPEST, _MOST, _LONGEST_NUMBER = 32, 20_000, 40
"""Levels, values (those behind an alias each time it is used) and digits of a YAML text; none of ours comes near."""
_LEVELS = 16
"""Of a key in an override."""


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
    """Safe YAML that refuses a key given twice (YAML would silently keep the last), reads 1e-3 as a number, and stays small."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0
        self._sizes: dict[yaml.Node, int] = {}

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Each alias counts with all that it stands for: a few lines of them can mean more values than memory holds."""
        mark, is_alias = self.peek_event().start_mark, self.check_event(yaml.AliasEvent)  # type: ignore[no-untyped-call]
        self._depth += 1
        if self._depth > _DEEPEST:
            raise yaml.constructor.ConstructorError(None, None, f"values are nested more than {_DEEPEST} deep", mark)
        node: Any = super().compose_node(parent, index)
        self._depth -= 1
        if is_alias and node not in self._sizes:
            raise yaml.constructor.ConstructorError(None, None, "an alias stands for what it is a part of", mark)
        size = self._sizes[node] = self._sizes[node] if is_alias else self._size(node)
        if size > _MOST:
            raise yaml.constructor.ConstructorError(None, None, f"aliases make more than {_MOST} values of it", mark)
        return node

    def _size(self, node: Any) -> int:
        if isinstance(node, yaml.MappingNode):
            return 1 + sum(self._sizes[one] for pair in node.value for one in pair)
        if isinstance(node, yaml.SequenceNode):
            return 1 + sum(self._sizes[one] for one in node.value)
        return 1 + len(node.value) // 64

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

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Put what ``<<`` merges beside a mapping's own keys, which win, as do earlier merged ones: PyYAML's versions differ in that."""
        own: list[tuple[Any, Any]] = []
        others: list[Any] = []
        for key, value in node.value:
            if key.tag != "tag:yaml.org,2002:merge":
                own.append((key, value))
            else:
                others += value.value if isinstance(value, yaml.SequenceNode) else [value]
        taken, merged = {key.value for key, _ in own}, []
        for other in others:
            if not isinstance(other, yaml.MappingNode):
                raise yaml.constructor.ConstructorError(None, None, "expected a mapping or list of mappings for merging", other.start_mark)
            self.flatten_mapping(other)
            merged += [(key, value) for key, value in other.value if key.value not in taken]
            taken |= {key.value for key, _ in other.value}
        node.value = merged + own


_Loader.add_implicit_resolver(  # type: ignore[no-untyped-call]
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+$"),
    list("-+0123456789."),
)


def _whole_number(loader: _Loader, node: yaml.ScalarNode) -> int:
    if len(node.value) > _LONGEST_NUMBER:
        raise yaml.constructor.ConstructorError(None, None, f"a number has {len(node.value)} characters", node.start_mark)
    return loader.construct_yaml_int(node)


_Loader.add_constructor("tag:yaml.org,2002:int", _whole_number)


def load_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping with the safe loader; RecipeError with line and column for anything else."""
    try:
        text = read_file(path, LARGEST_FILE).decode("utf-8")
    except UnicodeDecodeError as error:
        raise RecipeError(f"can't read {path}: {error}; expected a UTF-8 YAML file") from error
    except OSError as error:
        raise RecipeError(f"can't read {path}: {error.strerror or error}; expected a UTF-8 YAML file") from error
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
    except (yaml.YAMLError, ValueError, ArithmeticError, LookupError, AttributeError, TypeError) as error:  # !!bool x is a KeyError
        problem = " ".join(str(error).split())
        raise RecipeError(f"{where} isn't valid YAML: {problem}") from error


def override(tree: dict[str, Any], text: str) -> None:
    """Set ``key.sub=value`` in a tree in place; the value is YAML, so numbers, lists and null work as in the file."""
    key, equals, value = text.partition("=")
    parts = key.split(".")
    if not equals or not all(parts) or len(parts) > _LEVELS:
        raise RecipeError(f"override '{text}' isn't of the form key.sub=value, e.g. train.seed=1")
    node: Any = tree
    for depth, part in enumerate(parts[:-1]):
        if not isinstance(below := {} if node.get(part) is None else node[part], dict):
            raise RecipeError(f"override '{text}': {'.'.join(parts[: depth + 1])} is a value, not a group of keys")
        node[part] = dict(below)  # its own: an alias or a merge in the file means the same mapping in two places
        node = node[part]
    node[parts[-1]] = parse_yaml(value, f"override '{text}'")


def override_all(tree: dict[str, Any], overrides: Sequence[str]) -> list[RecipeError]:
    """Apply overrides in place; returns what is wrong with those that can't be, to be told with the schema's problems."""
    problems = []
    for text in overrides:
        try:
            override(tree, text)
        except RecipeError as error:
            problems.append(error)
    return problems


def validated(model: type[Model], tree: Mapping[str, Any], where: Path | str, problems: Sequence[RecipeError] = ()) -> Model:
    """Check a tree against a closed schema.

    Args:
        problems: found before, e.g. in overrides; told with the others.

    Raises:
        RecipeError: every problem at once, each with dotted path, what was got, what is allowed and the nearest valid name.
    """
    found = list(problems)
    try:
        checked = model.model_validate(dict(tree))
    except ValidationError as error:
        found += [RecipeError(_problem(model, problem)) for problem in error.errors(include_url=False)]
    if not found:
        return checked
    count = "1 problem" if len(found) == 1 else f"{len(found)} problems"
    raise RecipeError(f"{where} has {count}:", *details(found))


def dotted(model: type[BaseModel], above: str = "") -> Iterator[str]:
    """The path of every key that an override can name."""
    for name, field in model.model_fields.items():
        yield above + name
        if get_origin(field.annotation) is not list and (part := _model_of(field.annotation)):
            yield from dotted(part, f"{above}{name}.")


def meant(model: type[BaseModel], key: str, beside: Sequence[str] = ()) -> list[str]:
    """The paths that a wrong key may have been meant for, the likeliest first; ``beside`` it, what is allowed in its place."""
    paths = list(dotted(model))
    last = {path: path.rpartition(".")[2] for path in paths}
    return (
        difflib.get_close_matches(key, beside, 1, 0.8)
        or [path for path in paths if key in (path, last[path])][:3]
        or difflib.get_close_matches(key, beside, 1, 0.5)
        or [path for path in paths if difflib.get_close_matches(key, [path, last[path]], 1, 0.8)][:3]
    )


def _problem(model: type[BaseModel], problem: Any) -> str:
    location = _keys(model, problem["loc"])
    path = ".".join(str(part) for part in location)
    kind, got, context = problem["type"], problem["input"], problem.get("ctx", {})
    if kind == "extra_forbidden":
        fields = _fields_at(model, location[:-1])
        likely = " or ".join(f"'{name}'" for name in meant(model, str(location[-1]), fields))
        hint = f"did you mean {likely}? " if likely else ""
        return f"{path}: unknown key; {hint}allowed: {', '.join(fields)}"
    if kind == "missing":
        return f"{path}: missing; expected a value"
    if kind == "literal_error":
        near = difflib.get_close_matches(str(got), [str(a) for a in _literals(model, location)], 1, 0.5)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        return f"{path}: got {_short(got)}, expected {context['expected']}{hint}"
    if kind == "value_error":
        sentence = str(context["error"])
        if sentence.startswith("."):  # of a key inside
            return path + sentence
        return sentence if sentence.startswith(path) else f"{path}: {sentence}"  # our own sentences name their path already
    if kind in _PLAIN:
        return f"{path}: got {_short(got)}, expected {_PLAIN[kind]}"
    return f"{path}: got {_short(got)}, expected: {problem['msg'][0].lower()}{problem['msg'][1:]}"


_PLAIN = {
    "tuple_type": "a list in brackets, e.g. [0.5, 2.0]",
    "list_type": "a list in brackets, e.g. [a, b]",
    "model_type": "keys with values of their own, e.g. {key: value}",
    "dict_type": "keys with values of their own, e.g. {key: value}",
}
"""In place of pydantic's words for what a user of YAML has no such words for."""


def _keys(model: type[BaseModel], location: Sequence[Any]) -> list[Any]:
    """The keys and places of a problem's location, without the names that pydantic puts between them for the arms of a union."""
    keys: list[Any] = []
    node: Any = model
    for part in location:
        found = _model_of(node)
        if isinstance(part, int):
            keys.append(part)
        elif get_origin(node) is dict:
            keys.append(part)
            node = Any
        elif found is not None:
            keys.append(part)
            node = found.model_fields[part].annotation if part in found.model_fields else None
    return keys


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
