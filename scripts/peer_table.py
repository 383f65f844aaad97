"""Our bundles and peers' exports as one table (Markdown, CSV), one plot, and the front in words."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from io import BytesIO, StringIO
from typing import Any, NamedTuple

from rdd_deploy.benchmark.options import LatencyMetric
from rdd_deploy.benchmark.pareto import dominated
from rdd_deploy.benchmark.records import Row

COLOURS = {"ours": "#1d5bd8", "peer": "#d9541e"}


class Point(NamedTuple):
    """A row of the table. ``miou`` is None for untrained networks, ``ms`` and ``failure`` exclude each other."""

    name: str
    whose: str
    """ours or peer."""
    runtime: str
    precision: str
    size: str
    miou: float | None
    ms: float | None
    """Of the judged latency."""
    model_ms: float | None
    end_ms: float | None
    megabytes: float | None
    failure: str | None = None
    front: bool = False
    trained: str = ""
    """How long and from what, where that is known."""


def points(
    rows: Sequence[Row],
    peers: frozenset[str],
    untrained: frozenset[str],
    judge: LatencyMetric,
    trained: Mapping[str, str] | None = None,
) -> list[Point]:
    """Rows as points, the fastest first, failures last; those on the front of what has both figures are marked.

    Args:
        peers: names of the peers' rows. untrained: names of rows whose labels say nothing.
        trained: how long and from what, by the rows' names.
    """
    made = []
    for row in rows:
        latency, size = row.latency if row.measured else None, row.file_size_bytes
        made.append(
            Point(
                row.name,
                "peer" if row.name in peers else "ours",
                row.runtime or row.backend,
                row.precision,
                f"{row.input_height}x{row.input_width}" if row.input_height else "",
                row.accuracy.miou_pct if row.accuracy and row.measured and row.name not in untrained else None,
                latency.judged_ms(judge) if latency else None,
                latency.model.p50_ms if latency else None,
                latency.end_to_end.p50_ms if latency else None,
                None if size is None else size / 1e6,
                row.failure,
                trained=(trained or {}).get(row.name, ""),
            )
        )
    known = [(one.ms, one.miou) for one in made if one.ms is not None and one.miou is not None]
    best = {pair for pair, beaten in zip(known, dominated(known), strict=True) if not beaten}
    made = [one._replace(front=(one.ms, one.miou) in best) for one in made]
    return sorted(made, key=lambda one: (one.ms is None, one.ms or 0.0))


def front_in_words(found: Sequence[Point]) -> str:
    """Who is on the front, and whose it is."""
    front = [one for one in found if one.front]
    if not front:
        return "No front: no network has both a latency and an mIoU."
    listed = ", ".join(f"{one.name} ({one.ms:.2f} ms, {one.miou:.2f} %)" for one in front)
    theirs = [one.name for one in front if one.whose == "peer"]
    if not any(one.whose == "peer" and one.miou is not None for one in found):
        return f"Front: {listed}. No trained peer was measured."
    return f"Front: {listed}. " + (
        f"Of it a peer's: {', '.join(theirs)}." if theirs else "At every latency the most accurate network is ours."
    )


HEADINGS = (
    "network",
    "whose",
    "runtime",
    "precision",
    "input",
    "mIoU %",
    "model p50 ms",
    "end to end p50 ms",
    "x fastest",
    "MB",
    "front",
    "trained",
)


def cells(found: Sequence[Point]) -> list[list[str]]:
    """The table's text. ``x fastest`` is the model latency over the smallest one: of one run it says more than
    milliseconds do."""
    fastest = min((one.model_ms for one in found if one.model_ms), default=None)

    def number(value: float | None, form: str = ".2f") -> str:
        return "" if value is None else format(value, form)

    lines = []
    for one in found:
        ratio = one.model_ms / fastest if one.model_ms and fastest else None
        miou = number(one.miou) if one.miou is not None or one.failure else "untrained"
        figures = [miou, number(one.model_ms), number(one.end_ms), number(ratio), number(one.megabytes, ".1f")]
        state = f"failed: {one.failure}" if one.failure else "yes" if one.front else ""
        lines.append([one.name, one.whose, one.runtime, one.precision, one.size, *figures, state, one.trained])
    return lines


def markdown(found: Sequence[Point], facts: str) -> str:
    """The table under a sentence of facts, the front below it."""
    lines = [HEADINGS, ("---",) * len(HEADINGS), *cells(found)]
    body = "\n".join(
        "| " + " | ".join(" ".join(cell.replace("|", "/").split()) for cell in line) + " |" for line in lines
    )
    return f"{facts}\n\n{body}\n\n{front_in_words(found)}\n"


def comma_separated(found: Sequence[Point]) -> str:
    """The table as CSV."""
    out = StringIO()
    csv.writer(out, lineterminator="\n").writerows([HEADINGS, *cells(found)])
    return out.getvalue()


def plot(found: Sequence[Point], judge: LatencyMetric) -> bytes | None:
    """mIoU against latency as PNG, ours and theirs by number in the order of latency, the front as a staircase; None
    without matplotlib or without a point."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.ticker import LogLocator, NullFormatter
    except ImportError:
        return None
    shown = [one for one in found if one.ms is not None and one.miou is not None]
    if not shown:
        return None
    figure = Figure(figsize=(10, 4.7))
    FigureCanvasAgg(figure)
    axes: Any = figure.add_subplot()
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(color="#e6e8ee")
    axes.set_axisbelow(True)
    for number, one in enumerate(shown, 1):
        colour, mark = COLOURS[one.whose], "o" if one.whose == "ours" else "s"
        axes.plot(one.ms, one.miou, mark, color=colour, label=f"{number}  {one.name}", ms=7, ls="none", clip_on=False)
        axes.annotate(str(number), (one.ms, one.miou), (5, 5), textcoords="offset points", fontsize=8, color=colour)
    front = [one for one in shown if one.front]
    right = 1.6 * max(one.ms or 0.0 for one in shown)
    axes.step(
        [*(one.ms for one in front), right],
        [*(one.miou for one in front), front[-1].miou],
        where="post",
        color="#5b6070",
        lw=1.2,
        zorder=1,
    )
    axes.set_xlim(min(one.ms or 0.0 for one in shown) / 1.3, right)
    axes.set_xlabel(f"latency, {str(judge).replace('-p', ' p')} in ms, logarithmic (left is better)")
    axes.set_ylabel("mIoU in % (up is better)")
    legend = axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.02), fontsize=8, frameon=False)
    for text in legend.get_texts():
        text.set_parse_math(False)
    file = BytesIO()
    figure.savefig(file, format="png", dpi=160, bbox_inches="tight", metadata={"Software": None})
    return file.getvalue()
