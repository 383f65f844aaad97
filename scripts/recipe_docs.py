"""The tables of docs/recipes.md, docs/export.md and docs/studies.md, written from the schema, between the marks that
stand there.

python scripts/recipe_docs.py            # write them again after a change of the schema
python scripts/recipe_docs.py --check    # exit code 1 where they aren't what the schema says
"""

from __future__ import annotations

import argparse
import inspect
import sys
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, TypeAdapter
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from rdd_deploy.data import DATASETS
from rdd_deploy.data.config import DataOptions
from rdd_deploy.export.profile import Profile
from rdd_deploy.losses import LOSSES
from rdd_deploy.models.teachers import TEACHERS
from rdd_deploy.recipe import StudentRecipe, TeacherRecipe
from rdd_deploy.study.config import Study, Variant
from rdd_deploy.utils.tables import Entry

DOCS = Path(__file__).resolve().parents[1] / "docs"
BEGIN = "<!-- begin: {} (written by scripts/recipe_docs.py) -->"
END = "<!-- end: {} -->"
HEAD = "| key | type | default | meaning |\n|---|---|---|---|"
MOST = 10_000
"""Upper bounds from here on only catch wrong typing, and stay out of the tables."""
Row = tuple[str, str, str, str]


def recipe_tables() -> str:
    """Every key of a recipe: the whole file's, then a table a section."""
    parts = [table("The file", _rows(StudentRecipe, "", deep=False, besides=_rows(TeacherRecipe, "", deep=False)))]
    for name, field in StudentRecipe.model_fields.items():
        if name == "data":
            parts += _data_tables()
        elif model := _part(field.annotation):
            title = "`student`, and `network` of a teacher recipe" if name == "student" else f"`{name}`"
            parts.append(table(title, _rows(model, f"{name}."), str(model.__doc__).splitlines()[0]))
    parts += [
        _option_table("`distillation.losses`: options of each loss", LOSSES),
        _option_table("`teacher.source`: options of each source", TEACHERS),
    ]
    return "\n\n".join(parts)


def profile_tables() -> str:
    """Every key of an export profile."""
    return table("Keys of a profile", _rows(Profile, ""))


def study_tables() -> str:
    """Every key of a study."""
    return "\n\n".join(
        [table("The file", _rows(Study, "")), table("Each of `variants`", _rows(Variant, "variants.NAME."))]
    )


def table(title: str, rows: Iterator[Row] | list[Row], about: str = "") -> str:
    """One table as Markdown, under its heading."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([f"### {title}", "", *([about, ""] if about else []), HEAD, *lines])


def _data_tables() -> Iterator[str]:
    names = ", ".join(f"`{name}`" for name in DATASETS)
    common = [row for row in _rows(DataOptions, "data.") if row[0] != "`data.name`"]
    rows = [("`data.name`", names, f"`{next(iter(DATASETS))}`", "which data set; its own keys follow below"), *common]
    yield table("`data`, for every data set", rows)
    for name, entry in DATASETS.items():
        model: type[BaseModel] = entry.load()
        everywhere = set(_rows(DataOptions, "data."))
        own = [row for row in _rows(model, "data.") if row[0] != "`data.name`" and row not in everywhere]
        yield table(f"`data`, for `name: {name}`", own, str(model.__doc__).splitlines()[0])


def _option_table(title: str, entries: Mapping[str, Entry]) -> str:
    rows = []
    for name, entry in entries.items():
        parameters = inspect.signature(entry.load()).parameters
        rows += [
            (
                f"`options.{key}` of `{name}`",
                _type(annotation),
                _default(parameters[key]),
                f"see `{entry.where.replace(':', '.')}`",
            )
            for key, annotation in entry.options.items()
        ]
    return table(title, rows)


def _default(parameter: inspect.Parameter) -> str:
    return "required" if parameter.default is parameter.empty else _value(parameter.default)


def _rows(model: type[BaseModel], above: str, deep: bool = True, besides: Iterator[Row] | None = None) -> Iterator[Row]:
    """A row a key; those of parts inside follow with dotted names.

    Args:
        deep: whether they do.
        besides: rows of another model, of which those with other keys follow.
    """
    seen = set()
    for name, field in model.model_fields.items():
        inside = _part(field.annotation)
        if inside is not None and get_origin(field.annotation) is not list and deep:
            yield from _rows(inside, f"{above}{name}.")
            continue
        row = _row(above + name, field, inside)
        seen.add(row[0])
        yield row
        if inside is not None and deep:
            yield from _rows(inside, f"{above}{name}[].")
    yield from (row for row in besides or () if row[0] not in seen)


def _row(key: str, field: FieldInfo, inside: type[BaseModel] | None) -> Row:
    meaning = field.description or (str(inside.__doc__).splitlines()[0] if inside else "")
    if field.is_required():
        default = "required"
    elif inside is not None and field.default is not None:
        default = "its keys' own" if get_origin(field.annotation) is not list else "`[]`"
    else:
        default = _value(field.get_default(call_default_factory=True, validated_data={}))
    kind = (
        "keys"
        if inside is not None and get_origin(field.annotation) is not list
        else _type(Annotated[field.annotation, field])
    )
    return f"`{key}`", kind, default, meaning.replace("|", "\\|")


def _part(annotation: Any) -> type[BaseModel] | None:
    """The model inside an annotation such as ``Model | None`` or ``list[Model]``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) in (Union, types.UnionType, list):
        return next((found for arm in get_args(annotation) if (found := _part(arm))), None)
    return None


def _value(value: Any) -> str:
    if value is inspect.Parameter.empty:
        return "required"
    if value is None or value is PydanticUndefined:
        return "none"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, str):
        return f"`{value}`" if value else "empty"
    if isinstance(value, (list, tuple)):
        return f"`[{', '.join(map(str, value))}]`"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def _type(annotation: Any) -> str:
    return _words(TypeAdapter(annotation).json_schema())


def _words(schema: Mapping[str, Any]) -> str:
    """A JSON schema in a few words."""
    if arms := schema.get("anyOf") or schema.get("oneOf"):
        return " or ".join(dict.fromkeys(_words(arm) for arm in arms if arm.get("type") != "null"))
    if "$ref" in schema:
        return "keys"
    if "enum" in schema or "const" in schema:
        return ", ".join(f"`{value}`" for value in schema.get("enum", [schema.get("const")]))
    kind = schema.get("type")
    if kind == "array":
        if pair := schema.get("prefixItems"):  # without bounds it is a size, which is checked elsewhere
            return (
                "[height, width]"
                if pair == 2 * [{"type": "integer"}]
                else f"[{', '.join(_words(item) for item in pair)}]"
            )
        inside = _words(schema["items"])
        return "list of keys" if inside == "keys" else f"list of: {inside}"
    named = {"integer": "integer", "number": "number", "boolean": "true or false", "string": "text", "object": "keys"}
    return named.get(str(kind), "any") + _bounds(schema)


def _bounds(schema: Mapping[str, Any]) -> str:
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    found = {name: schema[name] for name in signs if name in schema and schema[name] < MOST}
    if set(found) == {"minimum", "maximum"}:
        return f" {found['minimum']:g} to {found['maximum']:g}"
    return "".join(f"{',' * bool(i)} {signs[name]} {value:g}" for i, (name, value) in enumerate(found.items()))


TABLES = {
    "recipes.md": ("recipe keys", recipe_tables),
    "export.md": ("profile keys", profile_tables),
    "studies.md": ("study keys", study_tables),
}
"""File in docs/ -> name of its marked block, and what belongs there."""


def updated(text: str, name: str, block: str) -> str:
    """A page with another block between its marks. Raises ValueError where the marks are missing."""
    before, begin, rest = text.partition(BEGIN.format(name))
    _, end, after = rest.partition(END.format(name))
    if not begin or not end:
        raise ValueError(f"the marks of '{name}' are missing; expected {BEGIN.format(name)} and {END.format(name)}")
    return f"{before}{begin}\n\n{block}\n\n{end}{after}"


def main() -> int:
    """Write or check every page; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing")
    check = parser.parse_args().check
    stale = []
    for file, (name, tables) in TABLES.items():
        path = DOCS / file
        old = path.read_text(encoding="utf-8")
        new = updated(old, name, tables())
        if new != old:
            stale.append(file)
            if not check:
                path.write_text(new, encoding="utf-8")
    print(f"{', '.join(stale)}: {'not what the schema says' if check else 'written'}" if stale else "up to date")
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
