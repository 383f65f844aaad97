"""Checks of the losses' options where one is made by hand; a recipe's are checked before, by the table of losses."""

from __future__ import annotations

import math
from typing import Any, get_args

from rdd_deploy.losses import Void


def above_zero(name: str, value: float) -> float:
    """The value as it is. Raises ValueError where it isn't a finite number above 0."""
    if not _is_number(value) or not 0 < value < math.inf:
        raise ValueError(f"{name} is {value!r}; expected a number above 0")
    return value


def not_negative(name: str, value: float) -> float:
    """The value as it is. Raises ValueError where it isn't a finite number, 0 or more."""
    if not _is_number(value) or not 0 <= value < math.inf:
        raise ValueError(f"{name} is {value!r}; expected a number, 0 or more")
    return value


def count(name: str, value: int) -> int:
    """The value as it is. Raises ValueError where it isn't a whole number, 1 or more."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} is {value!r}; expected a whole number, 1 or more")
    return value


def truth(name: str, value: bool) -> bool:
    """The value as it is. Raises ValueError where it isn't True or False."""
    if not isinstance(value, bool):
        raise ValueError(f"{name} is {value!r}; expected true or false")
    return value


def void_rule(value: Void) -> Void:
    """The value as it is. Raises ValueError where it isn't a rule for void pixels."""
    if value not in get_args(Void):
        raise ValueError(f"void is {value!r}; expected 'skip' or 'keep'")
    return value


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
