"""Classes with their colours, and the numbers that masks hold. Imports no numpy: recipes are checked with it."""

from __future__ import annotations

from dataclasses import dataclass

from rdd_deploy.errors import DataError

IGNORE = 255
"""The one void label inside rdd_deploy; each data set maps its own void ids to it."""
LARGEST_ID = 65535
"""Of a mask of 16 bits."""


@dataclass(frozen=True)
class LabelSpace:
    """The classes of a data set, in the order of their ids, with an RGB colour each."""

    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]

    def __post_init__(self) -> None:
        if len(self.classes) != len(self.palette):
            raise DataError(
                f"{len(self.classes)} classes but {len(self.palette)} palette colours; give one colour a class"
            )
        if not 2 <= len(self.classes) <= IGNORE:
            raise DataError(f"got {len(self.classes)} classes, expected 2 to {IGNORE} (id {IGNORE} is void)")

    def __len__(self) -> int:
        return len(self.classes)
