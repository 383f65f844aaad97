"""What is wrong with a tree of keys, in sentences: dotted path, what was got, what is allowed, the nearest name."""

from __future__ import annotations

import difflib
import types
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from rdd_deploy.utils.unions import by_name


def dotted(model: type[BaseModel], above: str = "") -> Iterator[str]:
    """The path of every key that an override can name."""
    for name, field in model.model_fields.items():
        yield above + name
        if get_origin(field.annotation) is not list:
            parts = mark.models() if (mark := by_name(field)) else [model_of(field.annotation)]
            yield from dict.fromkeys(path for part in parts if part for path in dotted(part, f"{above}{name}."))


def meant(model: type[BaseModel], key: str, beside: Sequence[str] = ()) -> list[str]:
    """The paths that a wrong key may have been meant for, the likeliest first; ``beside`` it, what is allowed in its
    place.
    """
    paths = list(dotted(model))
    last = {path: path.rpartition(".")[2] for path in paths}
    return (
        difflib.get_close_matches(key, beside, 1, 0.8)
        or [path for path in paths if key in (path, last[path])][:3]
        or difflib.get_close_matches(key, beside, 1, 0.5)
        or [path for path in paths if difflib.get_close_matches(key, [path, last[path]], 1, 0.8)][:3]
    )


def problem_sentence(model: type[BaseModel], tree: Any, problem: Any) -> str:
    """One of pydantic's problems with a tree, as a sentence that begins with the key's dotted path."""
    location = _keys(model, tree, problem["loc"])
    path = ".".join(str(part) for part in location)
    kind, got, context = problem["type"], problem["input"], problem.get("ctx", {})
    if kind == "extra_forbidden":
        part = _part_at(model, tree, location[:-1])
        if new := new_name(part, location[-1], got):
            return f"{path}: is now called '{new}'; rename it"
        fields = list(part.model_fields) if part else []
        likely = " or ".join(f"'{name}'" for name in meant(model, str(location[-1]), fields))
        hint = f"did you mean {likely}? " if likely else ""
        return f"{path}: unknown key; {hint}allowed: {', '.join(fields)}"
    if kind == "missing":
        return f"{path}: missing; expected a value"
    if kind == "literal_error":
        near = difflib.get_close_matches(str(got), [str(a) for a in _literals(model, tree, location)], 1, 0.5)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        return f"{path}: got {_short(got)}, expected {context['expected']}{hint}"
    if kind == "value_error":
        sentence = str(context["error"])
        if sentence.startswith("."):  # of a key inside
            return path + sentence
        return sentence if sentence.startswith(path) else f"{path}: {sentence}"  # our own name their path already
    if kind in _PLAIN:
        return f"{path}: got {_short(got)}, expected {_PLAIN[kind]}"
    return f"{path}: got {_short(got)}, expected: {problem['msg'][0].lower()}{problem['msg'][1:]}"


_PLAIN = {
    "string_type": "text; if it is meant as such, put it in quotes",
    "tuple_type": "a list in brackets, e.g. [0.5, 2.0]",
    "list_type": "a list in brackets, e.g. [a, b]",
    "model_type": "keys with values of their own, e.g. {key: value}",
    "dict_type": "keys with values of their own, e.g. {key: value}",
}
"""In place of pydantic's words for what a user of YAML has no such words for."""


def _keys(model: type[BaseModel], tree: Any, location: Sequence[Any]) -> list[Any]:
    """The keys and places of a problem's location, without the names that pydantic puts between them for the arms of a
    union.
    """
    keys: list[Any] = []
    node: Any = model
    for part in location:
        found = model_of(node)
        if isinstance(part, int):
            keys.append(part)
        elif get_origin(node) is dict:
            keys.append(part)
            node = get_args(node)[1]
        elif found is not None:
            keys.append(part)
            field = found.model_fields.get(part)
            node = (
                None if field is None else mark.model(_at(tree, keys)) if (mark := by_name(field)) else field.annotation
            )
    return keys


def _at(tree: Any, keys: Sequence[Any]) -> Any:
    """The value under some keys and places of an unchecked tree; None where there is none."""
    for key in keys:
        try:
            tree = tree[key]
        except (LookupError, TypeError):
            return None
    return tree


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def model_of(annotation: Any) -> type[BaseModel] | None:
    """The pydantic model inside an annotation such as ``Model | None`` or ``list[Model]``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) in (Union, types.UnionType, list):
        for arm in get_args(annotation):
            if found := model_of(arm):
                return found
    return None


def _part_at(model: type[BaseModel], tree: Any, location: list[Any]) -> type[BaseModel] | None:
    node: Any = model
    for depth, part in enumerate(location, 1):
        if isinstance(part, int):
            continue
        if get_origin(node) is dict:
            node = get_args(node)[1]
        else:
            field = found.model_fields.get(part) if (found := model_of(node)) else None
            node = (
                None
                if field is None
                else mark.model(_at(tree, location[:depth]))
                if (mark := by_name(field))
                else field.annotation
            )
    return model_of(node)


def part_of(field: FieldInfo, value: Any) -> type[BaseModel] | None:
    """The model of a field with this unchecked value, if it has one."""
    return mark.model(value) if (mark := by_name(field)) else model_of(field.annotation)


def new_name(model: type[BaseModel] | None, key: Any, value: Any) -> str:
    """What an older version's key, with this value, is called now; empty for all others."""
    renamed: Mapping[str, str] = getattr(model, "renamed", {})
    return renamed.get(f"{key}: {value}") or renamed.get(key, "")


def _literals(model: type[BaseModel], tree: Any, location: list[Any]) -> tuple[Any, ...]:
    part = _part_at(model, tree, location[:-1])
    field = part.model_fields.get(location[-1]) if part and isinstance(location[-1], str) else None
    return get_args(field.annotation) if field else ()
