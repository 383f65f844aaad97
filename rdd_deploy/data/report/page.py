"""The page of a data check: one file that loads nothing, in light and dark, for wide and narrow screens."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.resources import files as resources
from typing import Any, NamedTuple

from rdd_deploy.data.config import DataOptions
from rdd_deploy.data.report.scan import Scan
from rdd_deploy.data.report.suspicious import KINDS, Duplicate
from rdd_deploy.errors import missing_package
from rdd_deploy.utils.text import shown

SHOWN_PROBLEMS, SHOWN_SIZES, SHOWN_TWINS = 200, 12, 100


class Card(NamedTuple):
    """A picture with its words; ``picture`` is a data address, None where there is none."""

    split: str
    name: str
    size: str
    reasons: list[str]
    picture: str | None


class Found(NamedTuple):
    """What a check found.

    Attributes:
        name: the recipe's. scans: the splits that could be opened.
        problems: what training would refuse. notes: what it would warn of.
        counts: suspicious samples by kind. twins: frames of the two splits that look alike.
    """

    name: str
    data: DataOptions
    scans: Sequence[Scan]
    problems: Sequence[str]
    notes: Sequence[str]
    counts: Mapping[str, int]
    twins: Sequence[Duplicate]


def check_template() -> None:
    """Raise MissingPackageError before the data is read, not after it, where the page couldn't be written."""
    try:
        import jinja2  # noqa: F401
    except ModuleNotFoundError as error:
        raise missing_package("jinja2", "data", "the page of rdd-deploy data check") from error


def render(found: Found, cards: Mapping[str, Sequence[Card]]) -> str:
    """The whole page.

    Args:
        cards: under ``alike`` pairs one after the other, under ``suspicious`` and ``ordinary`` single samples.
    """
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    def visible(value: Any) -> Any:
        return shown(value) if isinstance(value, str) and not isinstance(value, Markup) else value

    source = resources("rdd_deploy.data.report").joinpath("page.html").read_text(encoding="utf-8")
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, finalize=visible, trim_blocks=True, lstrip_blocks=True
    )
    spaces = [one.split.label_space for one in found.scans]
    space = max(spaces, key=len, default=None)
    return environment.from_string(source).render(
        title=f"Data check of {found.name}",
        place=str(found.data.root) if found.data.in_folder else "made as it is needed",
        data=found.data,
        scans=found.scans,
        problems=list(found.problems[:SHOWN_PROBLEMS]),
        more_problems=max(0, len(found.problems) - SHOWN_PROBLEMS),
        notes=list(found.notes),
        kinds=[(KINDS[kind], count) for kind, count in found.counts.items() if count],
        twins=_twins(found),
        twin_count=len(found.twins),
        legend=(
            [(name, f"rgb({r}, {g}, {b})") for name, (r, g, b) in zip(space.classes, space.palette, strict=True)]
            if space
            else []
        ),
        shares=_shares(found.scans),
        sizes=_sizes(found.scans),
        pairs=list(zip(cards["alike"][::2], cards["alike"][1::2], strict=True)),
        suspicious=list(cards["suspicious"]),
        ordinary=list(cards["ordinary"]),
    )


def _twins(found: Found) -> list[tuple[str, str, int]]:
    return [
        (found.scans[0].split.names[pair.first], found.scans[1].split.names[pair.second], pair.distance)
        for pair in found.twins[:SHOWN_TWINS]
    ]


def _shares(scans: Sequence[Scan]) -> list[tuple[str, list[tuple[float, float, int] | None]]]:
    """Per class, and void, and per split: percent of the pixels, percent of the frames, frames; None for a class that
    the split doesn't have.
    """
    names = list(dict.fromkeys(name for one in scans for name in one.split.label_space.classes))
    columns = []
    for one in scans:
        pixels, frames, void = one.totals()
        count, every = max(1, sum(1 for _ in one.usable)), max(1, int(pixels.sum()) + void)
        column: dict[str, tuple[float, float, int]] = {
            name: (100 * int(p) / every, 100 * int(f) / count, int(f))
            for name, p, f in zip(one.split.label_space.classes, pixels, frames, strict=True)
        }
        voids = sum(1 for _, facts in one.usable if facts.void)
        columns.append((column, (100 * void / every, 100 * voids / count, voids)))
    rows: list[tuple[str, list[tuple[float, float, int] | None]]] = [
        (name, [column.get(name) for column, _ in columns]) for name in names
    ]
    return [*rows, ("(void)", [void for _, void in columns])]


def _sizes(scans: Sequence[Scan]) -> list[tuple[str, str, int, float]]:
    """(split, size, frames, percent of the split), the most common first; what is left over in one row."""
    rows = []
    for one in scans:
        sizes = Counter(f"{facts.size[0]} × {facts.size[1]}" for _, facts in one.usable)
        total = max(1, sum(sizes.values()))
        common = sizes.most_common(SHOWN_SIZES)
        rows += [(one.name, size, count, 100 * count / total) for size, count in common]
        if (left := sum(sizes.values()) - sum(count for _, count in common)) > 0:
            rows.append((one.name, f"{len(sizes) - len(common)} others", left, 100 * left / total))
    return rows
