"""Tables from a recipe's or manifest's names to code that is imported only when it is used, so that checking a name needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any


@dataclass(frozen=True)
class Entry:
    """One line of a table.

    Args:
        where: ``package.module:name``.
        options: what a recipe may set, name -> annotation that its value must fit. Defaults are the code's own.
    """

    where: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def load(self) -> Any:
        """Import the module and return what the entry names. Raises ModuleNotFoundError where a package is missing."""
        module, _, name = self.where.partition(":")
        return getattr(import_module(module), name)
