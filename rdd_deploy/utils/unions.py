"""A field whose model is chosen by name from a table: a union whose arms are imported when they are used."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, GetCoreSchemaHandler, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, InitErrorDetails, PydanticCustomError, core_schema

from rdd_deploy.utils.tables import Entry


class ByName:
    """Annotation of such a field: the key ``name`` of its value chooses the model.

    A key that belongs to other models alone is an error, except at its default: a file that spells out every default
    means nothing by it.

    Args:
        table: name -> entry of a model.
        default: the name where none is given.
        kind: what the table lists, for messages.
    """

    def __init__(self, table: Mapping[str, Entry], default: str, kind: str) -> None:
        self.table, self.default, self.kind = table, default, kind

    def model(self, value: Any = None) -> type[BaseModel]:
        """The model of an unchecked value; the default one where the value names none that is known."""
        name = value.get("name") if isinstance(value, Mapping) else None
        model: type[BaseModel] = self.table[
            name if isinstance(name, str) and name in self.table else self.default
        ].load()
        return model

    def models(self) -> list[type[BaseModel]]:
        """The models of all names."""
        return [entry.load() for entry in self.table.values()]

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_wrap_validator_function(self._checked, handler(source))

    def _checked(self, value: Any, handler: Any) -> Any:
        if not isinstance(value, Mapping):  # checked already, or no mapping at all
            return handler(value)
        name = value.get("name", self.default)
        if not isinstance(name, str) or name not in self.table:  # its keys can't be judged
            *others, last = (f"'{known}'" for known in self.table)
            near = difflib.get_close_matches(str(name), self.table, 1, 0.5)
            hint = f"; did you mean '{near[0]}'?" if near else ""
            raise _raised([_problem(f".name: got {name!r:.60}, expected {', '.join(others)} or {last}{hint}")])
        model = self.model(value)
        own, problems = {}, []
        for key, given in value.items():
            owners = {} if key in model.model_fields else self._owners(key)
            if not owners:
                own[key] = given
            elif not any(_is_default(field, given) for field in owners.values()):
                whose = " and ".join(f"'{owner}'" for owner in owners)
                problems.append(_problem(f".{key} belongs to the {whose} {self.kind}, not to '{name}'; leave it out"))
        try:
            checked = model.model_validate(own)
        except ValidationError as error:
            problems = [*(raised_again(problem) for problem in error.errors(include_url=False)), *problems]
        if problems:
            raise _raised(problems)
        return checked

    def _owners(self, key: Any) -> dict[str, FieldInfo]:
        models = {name: entry.load() for name, entry in self.table.items()}
        return {name: model.model_fields[key] for name, model in models.items() if key in model.model_fields}


def by_name(field: FieldInfo) -> ByName | None:
    """The field's ``ByName``, if it has one."""
    return next((mark for mark in field.metadata if isinstance(mark, ByName)), None)


def raised_again(problem: Any) -> InitErrorDetails:
    """A problem of a ValidationError for another one, with its text as it is, which pydantic would write again with
    rounded numbers.
    """
    kind = PydanticCustomError(problem["type"], problem["msg"], problem.get("ctx"))
    return InitErrorDetails(type=kind, loc=problem["loc"], input=problem["input"])


def _problem(sentence: str) -> InitErrorDetails:
    return InitErrorDetails(type="value_error", loc=(), input=None, ctx={"error": ValueError(sentence)})


def _raised(problems: list[InitErrorDetails]) -> ValidationError:
    return ValidationError.from_exception_data("union", problems)


def _is_default(field: FieldInfo, value: Any) -> bool:
    default = field.get_default(call_default_factory=True, validated_data={})
    return type(value) is type(default) and bool(value == default)
