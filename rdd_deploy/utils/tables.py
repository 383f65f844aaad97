"""Tables from a recipe's or manifest's names to code that is imported only when it is used, so that checking a name
needs no torch.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any


@dataclass(frozen=True)
class Entry:
    """One line of a table.

    Args:
        where: ``package.module:name``.
        options: what a recipe may set, name -> annotation that its value must fit. Defaults are the code's own.
        rule: what is wrong with options that are right one by one, as a sentence; empty where nothing is.
    """

    where: str
    options: Mapping[str, Any] = field(default_factory=dict)
    rule: Callable[[Mapping[str, Any]], str] = lambda _: ""

    def problems(self, given: Mapping[str, Any], what: str) -> Iterator[str]:
        """What is wrong with the options that a recipe gives, each as ``.options.KEY: sentence``; ``what`` names the
        entry.
        """
        from pydantic import TypeAdapter, ValidationError  # a command that only lists a table's names needs none

        for key, value in given.items():
            if key not in self.options:
                near = difflib.get_close_matches(key, self.options, 1, 0.5)
                hint = f"did you mean '{near[0]}'? " if near else ""
                yield f".options.{key}: unknown option of {what}; {hint}allowed: {', '.join(self.options) or 'none'}"
                continue
            try:
                TypeAdapter(self.options[key]).validate_python(value, strict=True)  # as YAML wrote it
            except ValidationError as error:
                expected = error.errors()[0]["msg"]
                yield f".options.{key}: got {value!r}, expected: {expected[0].lower()}{expected[1:]}"
        if sentence := self.rule(given):
            yield f".options: {sentence}"

    def load(self) -> Any:
        """Import the module and return what the entry names. Raises ModuleNotFoundError where a package is missing."""
        module, _, name = self.where.partition(":")
        return getattr(import_module(module), name)
